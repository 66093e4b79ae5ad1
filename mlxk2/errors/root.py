"""The root of all errors: what happened, what to type next, and how a script can tell."""

from __future__ import annotations

from typing import Any, ClassVar


class MlxkError(Exception):
    """The root: a failure with a message for people and a `type` for scripts.

    `message` is one line that says what happened; `hint` is what to type next; `detail` is free text or JSON;
    `data` is a partial payload where the contract keeps one; `extra` joins the error object as it is.
    """

    type: ClassVar[str] = "InternalError"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        detail: Any = None,
        data: Any = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        self.data = data
        self.extra = extra

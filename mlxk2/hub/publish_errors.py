"""What goes wrong while writing to the Hub -> MlxkError, in the words of `push`. Knows statuses and types, no folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlxk2.errors import (
    AccessDenied,
    AuthError,
    BranchCreateFailed,
    DownloadFailed,
    MlxkError,
    ModelNotFound,
    PushFailed,
    RepoNotFound,
    RevisionNotFound,
    UploadFailed,
)
from mlxk2.hub.translate import is_transient, reason_of, status_of
from mlxk2.text import one_line

_LONGEST_WORDS = 200
_AGAIN = "run the same command again; what was uploaded is not sent twice"
_AGAIN_LATER = "run the same command again"
_TOKEN = "use a token that may write there: HF_TOKEN, or hf auth login"


@contextmanager
def told_for_push(name: str) -> Iterator[None]:
    """Give the failures of questions to the Hub the types that `push` promises."""
    try:
        yield
    except AccessDenied as denied:
        raise AuthError(denied.message, hint=denied.hint) from denied.__cause__
    except ModelNotFound as missing:
        raise repo_not_found(name) from missing.__cause__
    except (DownloadFailed, RevisionNotFound) as failed:
        if failed.extra.get("retryable", failed.retryable):
            raise PushFailed(failed.message, hint=_AGAIN_LATER, retryable=True) from failed.__cause__
        raise PushFailed(failed.message, hint=failed.hint) from failed.__cause__


def repo_not_found(name: str) -> RepoNotFound:
    """The error for a repository that is not there and is not to be made."""
    return RepoNotFound(f"the Hub has no repository '{name}', or does not show it to you", hint="--create makes it")


def not_allowed(name: str, error: BaseException) -> AuthError:
    """The error for a token that may read only."""
    return AuthError(f"the Hub does not let this token write to {name}{_words(error)}", hint=_TOKEN)


def create_failed(name: str, error: BaseException) -> MlxkError:
    """The error for a repository that could not be made."""
    if status_of(error) in (401, 403):
        return AuthError(f"the Hub does not let this token create {name}{_words(error)}", hint=_TOKEN)
    return PushFailed(f"the repository {name} could not be created: {reason_of(error)}{_words(error)}")


def branch_failed(name: str, branch: str, error: BaseException) -> BranchCreateFailed:
    """The error for a branch that could not be made."""
    return BranchCreateFailed(
        f"the branch '{one_line(branch)}' of {name} could not be created: {reason_of(error)}{_words(error)}",
        hint=_TOKEN if status_of(error) in (401, 403) else f"{name} must have a branch main, where others start",
    )


def refused_revision(error: BaseException) -> bool:
    """Tell whether an upload was refused because its branch is not there."""
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error, RevisionNotFoundError) or "invalid rev id" in _server_text(error).lower()


def may_pass(error: BaseException) -> bool:
    """Tell whether the connection failed, or the server for now; a failed upload hides that in its cause."""
    seen: BaseException | None = error
    while seen is not None:
        if is_transient(seen):
            return True
        seen = seen.__cause__
    return False


def not_uploaded(name: str, branch: str, error: BaseException) -> MlxkError:
    """The error for an upload, or a commit, that failed; the branch is as it was."""
    status, what = status_of(error), one_line(f"{name}@{branch}")
    if status == 401:
        return AuthError(f"the Hub does not accept this token{_words(error)}", hint=_TOKEN)
    if status == 412:
        return UploadFailed(
            f"{what} was changed while we were uploading; nothing of it was overwritten",
            hint="look at what changed there, then run the same command again",
            retryable=True,
        )
    if refused_revision(error):
        return branch_missing(name, branch)
    if may_pass(error):
        return UploadFailed(
            f"the upload to {what} failed: {reason_of(error.__cause__ or error)}", hint=_AGAIN, retryable=True
        )
    if status is not None:
        return UploadFailed(f"the Hub refused the upload to {what}: HTTP {status}{_words(error)}")
    return UploadFailed(f"the upload to {what} failed: {_own_words(error)}")


def card_refused(answer: Any) -> UploadFailed:
    """The error for a README.md whose front matter the Hub does not take; `answer` is what it says about it."""
    errors = answer.get("errors") if isinstance(answer, dict) else None
    said = [str(error.get("message")) for error in errors or () if isinstance(error, dict)]
    words = one_line("; ".join(said))[:_LONGEST_WORDS] or "it does not say why"
    return UploadFailed(f"the Hub does not accept the front matter of README.md: {words}", hint="mend README.md")


def branch_missing(name: str, branch: str) -> UploadFailed:
    """The error for a branch that is not there and is not to be made."""
    return UploadFailed(f"{name} has no branch '{one_line(branch)}'", hint="--create makes it, starting at main")


def _own_words(error: BaseException) -> str:
    """Say what the client found wrong: a file that cannot be read, a model card that the Hub does not take."""
    if isinstance(error, OSError) and error.strerror:
        return f"a file cannot be read: {error.strerror}"
    if isinstance(error, UnicodeDecodeError):
        return "README.md is not UTF-8"
    if isinstance(error, (TypeError, LookupError, AttributeError)) or type(error).__name__ == "JSONDecodeError":
        return "the Hub's answer cannot be understood"
    cause = "" if error.__cause__ is None else f" ({type(error.__cause__).__name__})"
    return one_line(str(error) or type(error).__name__)[:_LONGEST_WORDS] + cause


def _words(error: BaseException) -> str:
    text = _server_text(error)
    return f": {text}" if text else ""


def _server_text(error: BaseException | None) -> str:
    """What the server said, in one short line; never the request's URL."""
    while error is not None:
        said = getattr(error, "server_message", None)
        if isinstance(said, str) and said:
            return one_line(said)[:_LONGEST_WORDS]
        error = error.__cause__
    return ""

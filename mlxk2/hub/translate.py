"""What the hub client and its HTTP library raise -> MlxkError: one table. Knows statuses and types, no command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mlxk2.errors import AccessDenied, DownloadFailed, InvalidName, MlxkError, ModelNotFound, Offline, RevisionNotFound
from mlxk2.hub.retry import TRANSIENT
from mlxk2.hub.session import http_library
from mlxk2.text import one_line

_LONGEST_WORDS = 200


class Subject(NamedTuple):
    """What was asked for: the words of a message need it. `has_token` tells whether one was sent."""

    name: str
    revision: str | None
    endpoint: str
    has_token: bool


@contextmanager
def translated(subject: Subject) -> Iterator[None]:
    """Turn whatever the hub client raises in the block into a MlxkError, the cause chained; ours pass through."""
    try:
        yield
    except MlxkError:
        raise
    except foreign_errors() as error:
        raise translate(error, subject) from error


def foreign_errors() -> tuple[type[BaseException], ...]:
    """The types that a call of the hub client may raise; the last ones where an answer is not what it takes for granted."""
    from huggingface_hub.errors import HfHubHTTPError

    unexpected = (ValueError, TypeError, LookupError, AttributeError)
    return (HfHubHTTPError, OSError, RuntimeError, *transport_errors(), *unexpected)


def transport_errors() -> tuple[type[BaseException], ...]:
    """The types of connections that failed, in the HTTP library of the installed client."""
    library = http_library()
    if hasattr(library, "TransportError"):
        return (library.TransportError, ConnectionError, TimeoutError)
    return (library.ConnectionError, library.Timeout, library.exceptions.ChunkedEncodingError, ConnectionError)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind an exception, or None; a failed upload hides it in its cause."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return None


def headers_of(error: BaseException) -> Any:
    """Return the headers of the answer behind an exception; empty where there is none."""
    return getattr(getattr(error, "response", None), "headers", None) or {}


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed later."""
    status = status_of(error)
    return status in TRANSIENT if status is not None else isinstance(error, transport_errors())


def translate(error: BaseException, subject: Subject) -> MlxkError:
    """Return our error for one of the client's."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HFValidationError):
        return InvalidName(f"'{one_line(subject.name)}' is no name that a repository can have", hint="org/model")
    if isinstance(error, OfflineModeIsEnabled):
        return Offline("the hub client is in offline mode", hint="unset HF_HUB_OFFLINE to use the network")
    if isinstance(error, GatedRepoError):
        return denied(subject, gated=True)
    status = status_of(error)
    if status in (401, 403):
        return denied(subject, gated=False, words=_server_words(error))
    if isinstance(error, RevisionNotFoundError):
        return revision_not_found(subject)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return not_found(subject)
    if isinstance(error, LocalEntryNotFoundError) or is_transient(error):
        return unreachable(subject, reason_of(error))
    said = (
        "the Hub's answer cannot be understood" if status is None else f"the Hub refused {subject.name}: HTTP {status}"
    )
    return DownloadFailed(said, hint="HF_ENDPOINT tells which Hub is asked", retryable=False)


def denied(subject: Subject, *, gated: bool, words: str = "") -> AccessDenied:
    """The error for files that this user may not have."""
    page = f"{subject.endpoint}/{subject.name}"
    if gated:
        way = f"accept the terms at {page}, then set HF_TOKEN" + (
            " to that account's token" if subject.has_token else ""
        )
        return AccessDenied(f"{subject.name} is gated: its owner must let you in", hint=way)
    if "Invalid credentials" in words or "Invalid user token" in words:
        return AccessDenied("the Hub does not know this token", hint="check HF_TOKEN, or log in again: hf auth login")
    if subject.has_token:
        return AccessDenied(f"the Hub does not let this token see {subject.name}", hint="check HF_TOKEN and the name")
    return AccessDenied(
        f"the Hub does not show {subject.name} without a token: it is private, or does not exist",
        hint="check the name; for a private model set HF_TOKEN, or log in: hf auth login",
    )


def not_found(subject: Subject) -> ModelNotFound:
    """The error for a repository that the Hub does not have."""
    private = "" if subject.has_token else "; a private one needs HF_TOKEN"
    return ModelNotFound(f"the Hub has no model '{one_line(subject.name)}'", hint=f"check the name{private}")


def revision_not_found(subject: Subject) -> RevisionNotFound:
    """The error for a branch, tag or commit that the repository does not have."""
    return RevisionNotFound(
        f"{subject.name} has no revision '{one_line(subject.revision or 'main')}'",
        hint=f"{subject.endpoint}/{subject.name}/tree/main lists branches and tags",
    )


def unreachable(subject: Subject, reason: str) -> DownloadFailed:
    """The error for a Hub that does not answer, or not yet."""
    if "certificate" in reason:
        return DownloadFailed(f"the Hub does not answer: {reason}", hint="SSL_CERT_FILE names certificates to trust")
    return DownloadFailed(f"the Hub does not answer: {reason}", hint=f"try again: mlxk2 pull {subject.name}")


def reason_of(error: BaseException) -> str:
    """Say in one short line why a request failed; never its URL, which may be signed."""
    status = status_of(error)
    if status is not None:
        return f"HTTP {status}"
    text = f"{type(error).__name__} {error}".lower()
    for sign, words in _REASONS:
        if sign in text:
            return words
    return type(error).__name__


_REASONS = (
    ("timeout", "no answer in time"),
    ("timed out", "no answer in time"),
    ("refused", "connection refused"),
    ("name or service not known", "its address is not known"),
    ("nodename nor servname", "its address is not known"),
    ("name resolution", "its address is not known"),
    ("certificate", "its certificate is not trusted"),
    ("proxy", "the proxy does not let it through"),
    ("reset", "connection reset"),
    ("incomplete", "the connection ended early"),
    ("disconnected", "the connection ended early"),
    ("remoteprotocol", "the connection ended early"),
)


def _server_words(error: BaseException) -> str:
    return one_line(str(getattr(error, "server_message", "") or error))[:_LONGEST_WORDS]

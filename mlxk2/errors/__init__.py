"""Everything that can go wrong, as types: wire name, exit code, HTTP status. Knows no command and no stream."""

from __future__ import annotations

from mlxk2.errors.hub import (
    AccessDenied,
    AuthError,
    BranchCreateFailed,
    CloneFailed,
    CloneOperationError,
    ClonePullFailed,
    CloneSourceMissing,
    CloneUnhealthy,
    DownloadFailed,
    FilesystemError,
    InvalidName,
    ModelCorrupted,
    Offline,
    PullFailed,
    PushFailed,
    RepoNotFound,
    RevisionNotFound,
    UploadFailed,
    WorkspaceNotFound,
    WorkspaceUnhealthy,
)
from mlxk2.errors.root import MlxkError

__all__ = [
    "AccessDenied", "AddressInUse", "AddressNotAvailable", "AmbiguousMatch", "AuthError", "BUGS", "BatchIncomplete",
    "BranchCreateFailed", "CacheNotFound", "CloneFailed", "CloneOperationError", "ClonePullFailed", "CloneSourceMissing", "CloneUnhealthy",
    "ContextLengthExceeded", "ConversionFailed", "DeletionFailed", "DependencyMissing", "DownloadFailed",
    "EngineLost", "FilesystemError", "GenerationFailed", "HashNotFound", "HealthCheckFailed", "IncompatibleModel",
    "InsufficientMemory", "InsufficientSpace", "InternalError", "Interrupted", "InvalidName", "InvalidSource",
    "InvalidTarget", "LocksPresent", "MlxkError", "ModelCorrupted", "ModelNotCached", "ModelNotFound",
    "ModelUnhealthy", "Offline", "OutputFailed", "PeerLost", "PermissionDenied", "PullFailed", "PushFailed",
    "QueueFull", "RepoNotFound", "RequestTimedOut", "RevisionNotFound", "ServerStopping", "ServerUnreachable",
    "ShowFailed", "StructuredOutputFailed", "UnhealthyModels", "UnsupportedFormat", "UploadFailed", "UsageError",
    "WaitedTooLong", "WorkspaceNotFound", "WorkspaceUnhealthy", "kind_of",
]  # fmt: skip


# What a bug of ours, or a library at its wits' end, raises: for places where one failure must not take others along.
BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class UsageError(MlxkError):
    """The command line itself is wrong."""

    type = "CommandError"
    exit_code = 2
    http_status = 400


class InternalError(MlxkError):
    """A bug of ours."""


def kind_of(wire_type: str) -> type[MlxkError]:
    """Return the kind of error that is told so; InternalError where this process knows none."""
    return next((kind for kind in MlxkError.__subclasses__() if kind.type == wire_type), InternalError)


class Interrupted(MlxkError):
    """The user pressed Ctrl-C."""

    type = "interrupted"
    exit_code = 130
    http_status = 499


class DependencyMissing(MlxkError):
    """A package that this command needs is not installed, or too old."""

    type = "dependency_missing"
    http_status = 501


class ModelNotFound(MlxkError):
    """No model answers to that name."""

    type = "model_not_found"
    http_status = 404


class AmbiguousMatch(MlxkError):
    """Several models answer to that name; `matches` lists them."""

    type = "ambiguous_match"
    http_status = 400


class HashNotFound(MlxkError):
    """The model is there, the revision is not; `available_hashes` lists what is."""

    type = "hash_not_found"
    http_status = 404


class ModelNotCached(MlxkError):
    """The model has a folder in the cache, but nothing in it."""

    type = "model_not_cached"
    http_status = 404


class ShowFailed(MlxkError):
    """A part of the model that was asked for cannot be shown."""

    type = "show_operation_failed"


class HealthCheckFailed(MlxkError):
    """The check itself could not be done."""

    type = "health_check_failed"


class UnhealthyModels(MlxkError):
    """`health --strict` found something broken."""

    type = "unhealthy_models"


class CacheNotFound(MlxkError):
    """There is no cache folder to work in."""

    type = "cache_not_found"
    http_status = 404


class LocksPresent(MlxkError):
    """Lock files say that somebody may be downloading this model."""

    type = "locks_present"
    http_status = 409
    retryable = True


class PermissionDenied(MlxkError):
    """The system, or a safety switch, does not allow it."""

    type = "permission_denied"
    http_status = 403


class DeletionFailed(MlxkError):
    """Something could not be deleted."""

    type = "deletion_failed"


class ModelUnhealthy(MlxkError):
    """The model's files are broken."""

    type = "model_unhealthy"
    http_status = 422


class IncompatibleModel(MlxkError):
    """The files are sound, but the installed mlx-lm cannot run them, or only by running code of theirs."""

    type = "incompatible_model"
    http_status = 422


class InsufficientMemory(MlxkError):
    """The model, and the KV cache that the request needs, do not fit."""

    type = "insufficient_memory"
    http_status = 413


class ContextLengthExceeded(MlxkError):
    """The prompt, or prompt plus budget, is longer than the model's context."""

    type = "context_length_exceeded"
    http_status = 400


class GenerationFailed(MlxkError):
    """The engine failed while it was generating."""

    type = "generation_failed"


class StructuredOutputFailed(MlxkError):
    """The answer is not what the schema, the pattern or the choices ask for, mostly since it was cut short."""

    type = "structured_output_failed"
    http_status = 422
    retryable = True


class BatchIncomplete(MlxkError):
    """Not every prompt of a file has an answer; `data` counts them, the output file tells why."""

    type = "batch_incomplete"


class PeerLost(MlxkError):
    """Another of the machines that run a model together is missing, has died, or does not answer any more."""

    type = "peer_lost"
    http_status = 503
    retryable = True


class EngineLost(MlxkError):
    """The process that computes the answers has crashed, or hung and was ended; it is started again."""

    type = "engine_lost"
    http_status = 503
    retryable = True


class QueueFull(MlxkError):
    """The server has as many requests as it takes; `retry_after_s` says when to come back."""

    type = "queue_full"
    http_status = 429
    retryable = True


class ReaderTooSlow(MlxkError):
    """Whoever asked does not take the answer as fast as it comes, and too much of it waits."""

    type = "reader_too_slow"
    http_status = 503


class WaitedTooLong(MlxkError):
    """The request's turn did not come in time; `retry_after_s` says when to come back."""

    type = "waited_too_long"
    http_status = 503
    retryable = True


class RequestTimedOut(MlxkError):
    """The answer took longer than the server lets one take."""

    type = "request_timed_out"
    http_status = 504
    retryable = True


class ServerStopping(MlxkError):
    """The server is ending, and takes or finishes no more requests."""

    type = "server_stopping"
    http_status = 503
    retryable = True


class AddressInUse(MlxkError):
    """The server cannot listen there: another program does."""

    type = "address_in_use"
    http_status = 409


class AddressNotAvailable(MlxkError):
    """The server cannot listen there: the address is not of this machine, or leads nowhere."""

    type = "address_not_available"
    http_status = 400


class ServerUnreachable(MlxkError):
    """No server answers at that address, or it is none of ours."""

    type = "server_unreachable"
    http_status = 502


class InvalidSource(MlxkError):
    """The source of a conversion is damaged or is not what its name says."""

    type = "invalid_source"
    http_status = 422


class UnsupportedFormat(MlxkError):
    """The source is sound, but of a kind that `convert` does not know."""

    type = "unsupported_format"
    http_status = 422


class InvalidTarget(MlxkError):
    """The target folder cannot be used."""

    type = "InvalidTargetError"
    http_status = 400


class InsufficientSpace(MlxkError):
    """The volume has too little free space."""

    type = "insufficient_space"
    http_status = 507


class OutputFailed(MlxkError):
    """The answer could not be written to where it should go; `file` names a file of the user's that it was."""

    type = "output_failed"


class ConversionFailed(MlxkError):
    """The conversion failed; nothing was left behind."""

    type = "conversion_failed"

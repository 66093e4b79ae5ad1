"""What can go wrong with the Hub: pull, clone and push."""

from __future__ import annotations

from mlxk2.errors.root import MlxkError


class InvalidName(MlxkError):
    """What should be a repository's name cannot be one."""

    type = "ValidationError"
    http_status = 400


class AccessDenied(MlxkError):
    """The Hub does not let this user, or nobody in particular, have the files."""

    type = "access_denied"
    http_status = 403


class RevisionNotFound(MlxkError):
    """The repository is there, the branch, tag or commit is not."""

    type = "revision_not_found"
    http_status = 404


class Offline(MlxkError):
    """The command needs the network, and HF_HUB_OFFLINE forbids it."""

    type = "offline"
    http_status = 503


class DownloadFailed(MlxkError):
    """The files could not be fetched, or not as the Hub describes them; what arrived is kept for the next try."""

    type = "download_failed"
    http_status = 502
    retryable = True


class ModelCorrupted(MlxkError):
    """Everything was fetched as the Hub has it, and it is no sound model."""

    type = "model_corrupted"
    http_status = 422


class PullFailed(MlxkError):
    """The download could not be put into the cache."""

    type = "pull_operation_failed"


class FilesystemError(MlxkError):
    """The target of a clone could not be written."""

    type = "FilesystemError"


class ClonePullFailed(MlxkError):
    """The model that should be cloned could not be fetched."""

    type = "PullFailedError"
    http_status = 502


class CloneSourceMissing(MlxkError):
    """The model to clone is not in the cache, though it should be."""

    type = "CacheNotFoundError"
    http_status = 404


class CloneUnhealthy(MlxkError):
    """The model to clone is broken."""

    type = "ModelUnhealthyError"
    http_status = 422


class CloneFailed(MlxkError):
    """The copy is not what its source is."""

    type = "CloneFailedError"


class CloneOperationError(MlxkError):
    """The clone could not be started."""

    type = "CloneOperationError"


class AuthError(MlxkError):
    """There is no token, or the Hub does not accept it for this."""

    type = "auth_error"
    http_status = 401


class WorkspaceNotFound(MlxkError):
    """The folder to push is not there."""

    type = "workspace_not_found"
    http_status = 404


class WorkspaceUnhealthy(MlxkError):
    """`push --strict` found something wrong with the folder; nothing was uploaded."""

    type = "workspace_unhealthy"
    http_status = 422


class RepoNotFound(MlxkError):
    """The repository to push to is not there, or not visible with this token."""

    type = "repo_not_found"
    http_status = 404


class BranchCreateFailed(MlxkError):
    """The branch to push to could not be made."""

    type = "branch_create_failed"


class UploadFailed(MlxkError):
    """The Hub did not take the files; the branch is as it was."""

    type = "upload_failed"
    http_status = 502


class PushFailed(MlxkError):
    """The push was refused, or failed before anything was uploaded."""

    type = "push_operation_failed"

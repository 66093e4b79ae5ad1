"""What the Hub says about a repository, as values that were checked: nothing in them can leave a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlxk2.errors import DownloadFailed
from mlxk2.store.layout import is_git_folder
from mlxk2.text import one_line

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST_PART = 255
_LONGEST_PATH = 1024
_LARGEST_BYTES = 2**50


@dataclass(frozen=True)
class RepoState:
    """One revision of a repository. `gated` means that its files need somebody's consent."""

    name: str
    commit: str
    private: bool
    gated: bool


@dataclass(frozen=True)
class RemoteFile:
    """One file of a revision. `digest` names its blob: sha256 of a large file (LFS, Xet), git's sha1 of a small one."""

    path: str
    size_bytes: int
    digest: str

    @property
    def is_large(self) -> bool:
        """Whether the digest is a sha256."""
        return len(self.digest) == 64


def checked(files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """Return the files of a tree, sorted by path. Raises: DownloadFailed where one cannot be a file of a snapshot."""
    for file in files:
        problem = _problem(file)
        if problem is not None:
            raise _unusable(f"the Hub lists a file that cannot be: '{one_line(file.path[:100])}' {problem}")
    paths = {file.path for file in files}
    if len(paths) < len(files):
        raise _unusable("the Hub lists a file twice")
    sizes = {file.digest: file.size_bytes for file in files}
    if any(sizes[file.digest] != file.size_bytes for file in files):
        raise _unusable("the Hub lists one hash with two sizes")
    for path in paths:
        parts = path.split("/")
        if any("/".join(parts[:end]) in paths for end in range(1, len(parts))):
            raise _unusable(f"the Hub lists '{one_line(path)}', and a file where its folder should be")
    return tuple(sorted(files, key=lambda file: file.path))


def _unusable(message: str) -> DownloadFailed:
    # The next try would get the same list.
    return DownloadFailed(message, hint="HF_ENDPOINT tells which Hub is asked", retryable=False)


def _problem(file: RemoteFile) -> str | None:
    path = file.path
    if not path or len(path.encode("utf-8", "surrogatepass")) > _LONGEST_PATH:
        return "is empty or too long a name"
    if "\0" in path or "\\" in path or path.startswith("/"):
        return "leaves its folder"
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART for part in parts):
        return "leaves its folder, or has too long a part"
    if _has_lone_surrogate(path):
        return "is no text"
    if any(map(is_git_folder, parts)):
        return "is git's own, and could run code"
    if not 0 <= file.size_bytes <= _LARGEST_BYTES:
        return "has an impossible size"
    if _DIGEST.fullmatch(file.digest) is None:
        return "has no hash"
    return None


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)

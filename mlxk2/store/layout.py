"""Names of models and how the Hugging Face cache spells them on disk. Pure text; touches no file system."""

from __future__ import annotations

import re

REPO_PREFIX = "models--"
LOCKS_FOLDER = ".locks"
# Below a model's folder: a file for each commit that was fetched in part, as the user asked.
PARTIAL_FOLDER = ".mlxk2-partial"
SENTINEL_NAME = "TEST-CACHE-SENTINEL"
DEFAULT_ORGANISATION = "mlx-community"
MAX_NAME_LENGTH = 96
MIN_HASH_PREFIX = 4

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_HEX = re.compile(r"[0-9a-fA-F]+")


def repo_folder(name: str) -> str:
    """Spell a model name as its folder in the hub cache, e.g. "org/model" as "models--org--model"."""
    return REPO_PREFIX + name.replace("/", "--")


def repo_name(folder: str) -> str | None:
    """Read the model name out of a cache folder's name; None for a folder that holds no model."""
    if not folder.startswith(REPO_PREFIX) or len(folder) == len(REPO_PREFIX):
        return None
    return folder[len(REPO_PREFIX) :].replace("--", "/")


def name_problem(name: str) -> str | None:
    """Say why `name` cannot be a model's name, or None if it can."""
    if not name:
        return "is empty"
    if len(name) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} characters"
    if "\0" in name or "\\" in name:
        return "contains a backslash or NUL"
    if name.startswith("/") or name.endswith("/"):
        return "begins or ends with '/'"
    if "--" in name:
        return "contains '--'"
    parts = name.split("/")
    if "" in parts:
        return "contains '//'"
    if ".." in parts or "." in parts:
        return "contains '.' or '..' as a part"
    return None


def hub_name_problem(name: str) -> str | None:
    """Say why the Hub cannot have a repository of this name, or None if it can.

    Source: validate_repo_id of the hub client.
    """
    problem = name_problem(name)
    if problem is not None:
        return problem
    parts = name.split("/")
    if len(parts) > 2:
        return "has more than two parts"
    if not all(_HUB_PART.fullmatch(part) for part in parts) or ".." in name or name.endswith(".git"):
        return "contains characters that the Hub does not have in names, or '..', or ends with '.git'"
    return None


def revision_problem(revision: str) -> str | None:
    """Say why `revision` cannot name a branch, tag or commit, or None if it can."""
    if not revision:
        return "is empty"
    if "\0" in revision or "\\" in revision or revision.startswith("/"):
        return "contains characters that no revision has"
    if any(part in ("", ".", "..") for part in revision.split("/")):
        return "contains an empty part, '.' or '..'"
    return None


def is_git_folder(part: str) -> bool:
    """Tell whether a part of a path is what git takes for its own folder on some file system, where it would run code.

    Source: git's checks of paths in a tree: case, trailing dots and blanks (NTFS), ignorable letters (HFS+).
    """
    seen = "".join(letter for letter in part if letter.isprintable()).casefold()
    return seen.rstrip(". ") in (".git", "git~1")


def is_commit(text: str) -> bool:
    """Tell whether `text` is a full commit id: 40 lower-case hex digits."""
    return _COMMIT.fullmatch(text) is not None


def is_commit_prefix(text: str) -> bool:
    """Tell whether `text` is long enough, and hex, to select a commit."""
    return len(text) >= MIN_HASH_PREFIX and _HEX.fullmatch(text) is not None

"""A repository on disk: commits, branches, tags, and which LFS objects it was given. Knows nothing of HTTP or rights."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union

from .store import Content, Entry, ObjectStore

Gated = Union[bool, str]


class RevisionMissing(KeyError):
    """No such branch, tag or commit."""


class Repo:
    """One repository. A commit maps every path to its Entry; `main` exists from the start."""

    def __init__(self, folder: Path, objects: ObjectStore) -> None:
        self._folder = folder
        self._objects = objects
        self._commits: dict[str, dict[str, Any]] = {}
        self._trees: dict[str, dict[str, Entry]] = {}
        self.lock = threading.RLock()
        self._about = json.loads((folder / "repo.json").read_text(encoding="utf-8"))

    @classmethod
    def create(cls, folder: Path, objects: ObjectStore, repo_id: str, private: bool, gated: Gated) -> Repo:
        """Make an empty repository in `folder`, with an initial commit on `main`."""
        (folder / "commits").mkdir(parents=True)
        (folder / "lfs").mkdir()
        about = {"id": repo_id, "private": private, "gated": gated, "created": time.time(), "branches": {}, "tags": {}}
        (folder / "repo.json").write_text(json.dumps(about), encoding="utf-8")
        repo = cls(folder, objects)
        repo.save({}, "main", None, "initial commit")
        return repo

    @property
    def id(self) -> str:
        return self._about["id"]

    @property
    def namespace(self) -> str:
        return self.id.rpartition("/")[0]

    @property
    def private(self) -> bool:
        return self._about["private"]

    @private.setter
    def private(self, value: bool) -> None:
        self._change(private=value)

    @property
    def gated(self) -> Gated:
        return self._about["gated"]

    @gated.setter
    def gated(self, value: Gated) -> None:
        self._change(gated=value)

    @property
    def created(self) -> float:
        return self._about["created"]

    @property
    def branches(self) -> dict[str, str]:
        return dict(self._about["branches"])

    @property
    def tags(self) -> dict[str, str]:
        return dict(self._about["tags"])

    def commit(
        self,
        files: Mapping[str, Content] | None = None,
        *,
        branch: str = "main",
        delete: Iterable[str] = (),
        replace: bool = False,
        message: str = "commit",
    ) -> str:
        """Add `files` to a branch (bytes, or the path of a file), `delete` others or `replace` all; returns the id."""
        added = {path: self._objects.add(path, content) for path, content in (files or {}).items()}
        with self.lock:
            parent = self.branches[branch]
            tree = {} if replace else dict(self.files(parent))
            for path in delete:
                del tree[path]
            return self.save({**tree, **added}, branch, parent, message)

    def save(self, tree: Mapping[str, Entry], branch: str, parent: str | None, message: str) -> str:
        """Record a commit of exactly `tree` as the head of `branch`."""
        commit = {
            "parent": parent,
            "date": time.time(),
            "message": message,
            "files": {path: tree[path].to_json() for path in sorted(tree)},
        }
        text = json.dumps({**commit, "repo": self.id, "nonce": time.monotonic_ns()})
        sha = hashlib.sha1(text.encode()).hexdigest()
        with self.lock:
            _write(self._folder / "commits" / f"{sha}.json", text)
            for entry in tree.values():
                if entry.lfs:
                    self.receive(entry.sha256)
            self._change(branches={**self.branches, branch: sha})
        return sha

    def branch(self, name: str, revision: str = "main") -> None:
        """Make a branch, or move it."""
        self._change(branches={**self.branches, name: self.resolve(revision)})

    def delete_branch(self, name: str) -> None:
        self._change(branches={key: sha for key, sha in self.branches.items() if key != name})

    def tag(self, name: str, revision: str = "main") -> None:
        """Make a tag, or move it."""
        self._change(tags={**self.tags, name: self.resolve(revision)})

    def head(self, branch: str = "main") -> str:
        """Give the commit id of a branch. Raises: RevisionMissing."""
        if branch not in self.branches:
            raise RevisionMissing(branch)
        return self.branches[branch]

    def resolve(self, revision: str) -> str:
        """Give the commit id of a branch, tag or commit. Raises: RevisionMissing."""
        for names in (self.branches, self.tags):
            for name in (revision, revision.replace("refs/heads/", "", 1), revision.replace("refs/tags/", "", 1)):
                if name in names:
                    return names[name]
        if len(revision) == 40 and revision.isalnum() and (self._folder / "commits" / f"{revision}.json").is_file():
            return revision
        raise RevisionMissing(revision)

    def files(self, revision: str = "main") -> dict[str, Entry]:
        """Give the files of a revision by path. Raises: RevisionMissing."""
        sha = self.resolve(revision)
        if sha not in self._trees:
            self._trees[sha] = {path: Entry(**fields) for path, fields in self.about(sha)["files"].items()}
        return self._trees[sha]

    def about(self, revision: str) -> dict[str, Any]:
        """Give a commit as it was recorded: parent, date (seconds since the epoch), message, files."""
        sha = self.resolve(revision)
        if sha not in self._commits:
            path = self._folder / "commits" / f"{sha}.json"
            self._commits[sha] = json.loads(path.read_text(encoding="utf-8"))
        return self._commits[sha]

    def read(self, revision: str, path: str) -> bytes:
        """Give a file's content. Raises: RevisionMissing, KeyError."""
        return self.content(self.files(revision)[path]).read_bytes()

    def content(self, entry: Entry) -> Path:
        """Say where an entry's content lies. Do not change that file; see `Fault("flip")`."""
        return self._objects.path(entry.sha256)

    def receive(self, sha256: str) -> None:
        """Note that this repository was given an LFS object."""
        (self._folder / "lfs" / sha256).touch()

    def has_object(self, sha256: str) -> bool:
        return (self._folder / "lfs" / sha256).exists() and self._objects.has(sha256)

    def _change(self, **fields: Any) -> None:
        with self.lock:
            self._about = {**self._about, **fields}
            _write(self._folder / "repo.json", json.dumps(self._about))


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

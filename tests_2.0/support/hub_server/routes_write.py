"""Routes that write: repositories, branches, LFS batches, commits. Knows no sockets."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from .answers import Call, Refusal, Response, json_answer
from .repo import Repo, RevisionMissing
from .routes_read import MODEL, REPO, find_commit, find_repo
from .store import LFS_SUFFIXES, Entry, is_lfs

GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES)).encode()


def create(call: Call) -> Response:
    wanted = call.json()
    user = call.user
    name, owner = wanted.get("name"), wanted.get("organization") or (user.name if user is not None else "")
    if not isinstance(name, str) or not name or "/" in name:
        raise Refusal(400, "Invalid name")
    call.hub.access.may_write(owner, user)
    private = wanted.get("visibility") == "private" or wanted.get("private") is True
    repo_id = f"{owner}/{name}"
    url = f"{call.hub.endpoint}/{repo_id}"
    try:
        repo = call.hub.create_repo(repo_id, private=private)
    except ValueError as error:
        raise Refusal(409, "You already created this model repo", extra={"url": url}) from error
    repo.commit({".gitattributes": GIT_ATTRIBUTES}, message="initial commit")
    return json_answer({"url": url, "name": repo_id, "id": hashlib.sha1(repo_id.encode()).hexdigest()[:24]})


def branch(call: Call) -> Response:
    repo, name = _writable(call), call.names["rev"]
    if name.startswith("refs/"):
        raise Refusal(400, f"Invalid ref name: {name}")
    start = find_commit(repo, call.json().get("startingPoint") or "main")
    with repo.lock:
        if name in repo.branches:
            raise Refusal(409, f"Reference refs/heads/{name} already exists")
        repo.branch(name, start)
    return json_answer({"success": True}, 201)


def delete_branch(call: Call) -> Response:
    repo, name = _writable(call), call.names["rev"]
    _head(repo, name)
    repo.delete_branch(name)
    return json_answer({"success": True})


def validate_yaml(call: Call) -> Response:
    call.json()
    return json_answer({"errors": [], "warnings": []})


def preupload(call: Call) -> Response:
    repo = _writable(call)
    there = repo.files(_head(repo, call.names["rev"]))
    wanted = call.json()
    ignored = _ignore_rules(repo, there, wanted.get("gitIgnore"))
    return json_answer({"files": [_mode(item, there, ignored) for item in wanted.get("files", [])]})


def _ignore_rules(repo: Repo, there: dict[str, Entry], sent: Any) -> list[str]:
    text = sent if isinstance(sent, str) else ""
    if not text and ".gitignore" in there:
        text = repo.content(there[".gitignore"]).read_text(encoding="utf-8", errors="replace")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "!"))]


def _mode(item: dict[str, Any], there: dict[str, Entry], ignored: list[str]) -> dict[str, Any]:
    path, size = item["path"], int(item["size"])
    large = is_lfs(path, size, base64.b64decode(item.get("sample") or ""))
    answer = {"path": path, "uploadMode": "lfs" if large else "regular"}
    name = PurePosixPath(path).name
    answer["shouldIgnore"] = any(fnmatch(path, rule) or fnmatch(name, rule.rstrip("/")) for rule in ignored)
    if path in there:
        answer["oid"] = there[path].etag
    return answer


def lfs_batch(call: Call) -> Response:
    repo = _writable(call)
    wanted = call.json()
    if wanted.get("operation") != "upload":
        raise Refusal(400, "Only uploads here")
    return json_answer({"transfer": "basic", "objects": [_actions(call, repo, item) for item in wanted["objects"]]})


def _actions(call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    oid, size = str(item["oid"]), int(item["size"])
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if len(oid) != 64 or not set(oid) <= set("0123456789abcdef"):
        return {**answer, "error": {"code": 422, "message": "oid is no sha256"}}
    if repo.has_object(oid):
        return answer
    verify = f"{call.hub.endpoint}/{quote(repo.id)}.git/info/lfs/objects/verify"
    upload = {"href": call.hub.storage.upload_url(repo, oid, size)}
    return {**answer, "authenticated": True, "actions": {"upload": upload, "verify": {"href": verify}}}


def lfs_verify(call: Call) -> Response:
    repo = _writable(call)
    wanted = call.json()
    oid = str(wanted.get("oid"))
    if not repo.has_object(oid):
        raise Refusal(404, "Object does not exist")
    if call.hub.objects.path(oid).stat().st_size != wanted.get("size"):
        raise Refusal(422, "Object has another size")
    return json_answer({"ok": True})


def commit(call: Call) -> Response:
    repo, name = _writable(call), call.names["rev"]
    if call.query.get("create_pr", ["0"])[0] not in ("0", "", "false"):
        raise Refusal(400, "No pull requests here")
    _head(repo, name)
    header, additions, deletions = _operations(call, repo)
    with repo.lock:
        head = _head(repo, name)
        if header.get("parentCommit") not in (None, head):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        before = repo.files(head)
        after = {**_without(before, deletions), **additions}
        if after == before:
            call.hub.empty_commits += 1
        sha = repo.save(after, name, head, str(header.get("summary") or ""))
    url = f"{call.hub.endpoint}/{repo.id}/commit/{sha}"
    return json_answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def _operations(call: Call, repo: Repo) -> tuple[dict[str, Any], dict[str, Entry], list[str]]:
    """Read the lines of a commit: its header, what it adds by path, what it deletes (a folder ends with a slash)."""
    header: dict[str, Any] = {}
    additions: dict[str, Entry] = {}
    deletions: list[str] = []
    for key, value in _lines(call):
        if key == "header":
            header = value
        elif key == "file":
            path = _checked(value["path"])
            encoded = value.get("encoding") == "base64"
            content = base64.b64decode(value["content"]) if encoded else value["content"].encode()
            additions[path] = call.hub.objects.add(path, content)
        elif key == "lfsFile":
            additions[_checked(value["path"])] = _lfs_entry(call, repo, value)
        elif key in ("deletedFile", "deletedFolder"):
            deletions.append(value["path"].rstrip("/") + ("/" if key == "deletedFolder" else ""))
        else:
            raise Refusal(400, f"Unknown operation {key}")
    return header, additions, deletions


def _lines(call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in call.body:
        try:
            item = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise Refusal(400, "Invalid JSON line") from error
        if item is not None:
            yield item["key"], item["value"]


def _checked(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "" in parts or ".git" in parts:
        raise Refusal(400, f"Invalid path {path}")
    return path


def _lfs_entry(call: Call, repo: Repo, value: dict[str, Any]) -> Entry:
    oid = str(value["oid"])
    if not repo.has_object(oid):
        raise Refusal(
            400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {oid}"
        )
    return Entry.of_lfs(oid, call.hub.objects.path(oid).stat().st_size)


def _without(files: dict[str, Entry], deletions: list[str]) -> dict[str, Entry]:
    left = dict(files)
    for path in deletions:
        gone = [name for name in left if name == path or (path.endswith("/") and name.startswith(path))]
        if not gone:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del left[name]
    return left


def _writable(call: Call) -> Repo:
    repo = find_repo(call)
    call.hub.access.may_write(repo.namespace, call.user)
    return repo


def _head(repo: Repo, name: str) -> str:
    try:
        return repo.head(name)
    except RevisionMissing as error:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound") from error


LFS = rf"/{REPO}\.git/info/lfs/objects"
WRITING = (
    ("POST", r"/api/repos/create", "create", create),
    ("POST", r"/api/validate-yaml", "yaml", validate_yaml),
    ("POST", rf"{MODEL}/branch/(?P<rev>[^/]+)", "branch", branch),
    ("DELETE", rf"{MODEL}/branch/(?P<rev>[^/]+)", "branch", delete_branch),
    ("POST", rf"{MODEL}/preupload/(?P<rev>[^/]+)", "preupload", preupload),
    ("POST", rf"{LFS}/batch", "lfs", lfs_batch),
    ("POST", rf"{LFS}/verify", "verify", lfs_verify),
    ("POST", rf"{MODEL}/commit/(?P<rev>[^/]+)", "commit", commit),
)

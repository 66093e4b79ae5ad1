"""Routes that read: who am I, model info, tree, refs, access, files. Knows no sockets and no faults but the ETag's."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from .answers import Call, Refusal, Response, file_answer, json_answer
from .repo import Repo, RevisionMissing
from .store import Entry, pointer

CACHE = "/api/resolve-cache/models"


def find_repo(call: Call) -> Repo:
    """Give the call's repository, if its user may see it. Raises: Refusal."""
    return call.hub.access.may_see(call.hub.find(call.names["repo"]), call.user)


def find_commit(repo: Repo, revision: str) -> str:
    """Give the commit id of a revision. Raises: Refusal."""
    try:
        return repo.resolve(revision)
    except RevisionMissing as error:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound") from error


def whoami(call: Call) -> Response:
    user = call.user
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    token = {"displayName": "test", "role": "write" if user.write else "read"}
    orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": "write"} for org in user.orgs]
    answer = {"type": "user", "id": _id(user.name), "name": user.name, "fullname": user.name, "orgs": orgs}
    return json_answer({**answer, "auth": {"type": "access_token", "accessToken": token}})


def info(call: Call) -> Response:
    repo = find_repo(call)
    sha = find_commit(repo, call.names.get("rev") or "main")
    blobs = call.query.get("blobs", ["false"])[0].lower() == "true"
    files = repo.files(sha)
    return json_answer(
        {
            "_id": _id(repo.id),
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.namespace,
            "sha": sha,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": _when(repo.created),
            "lastModified": _when(repo.about(sha)["date"]),
            "usedStorage": sum(entry.size for entry in files.values()),
            "siblings": [_sibling(path, entry, blobs) for path, entry in files.items()],
        }
    )


def tree(call: Call) -> Response:
    repo = find_repo(call)
    sha = find_commit(repo, call.names["rev"])
    folder = (call.names.get("folder") or "").strip("/")
    recursive = call.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries = _listing(repo.files(sha), folder, recursive)
    if folder and not entries:
        raise Refusal(404, f'{folder} does not exist on "{call.names["rev"]}"', "EntryNotFound")
    size = min(call.hub.page_size, int(call.query.get("limit", [str(call.hub.page_size)])[0]))
    start = int(call.query.get("cursor", ["0"])[0])
    headers = {"X-Repo-Commit": sha}
    if start + size < len(entries):
        query = {**parse_qs(call.request.query), "cursor": [str(start + size)]}
        link = f"{call.hub.endpoint}{call.request.path}?{urlencode(query, doseq=True)}"
        headers["Link"] = f'<{link}>; rel="next"'
    return json_answer(entries[start : start + size], headers=headers)


def refs(call: Call) -> Response:
    repo = find_repo(call)
    branches = [_ref(name, f"refs/heads/{name}", sha) for name, sha in repo.branches.items()]
    tags = [_ref(name, f"refs/tags/{name}", sha) for name, sha in repo.tags.items()]
    return json_answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def commits(call: Call) -> Response:
    repo = find_repo(call)
    sha: str | None = find_commit(repo, call.names["rev"])
    listed = []
    while sha is not None:
        about = repo.about(sha)
        listed.append(
            {
                "id": sha,
                "title": about["message"],
                "message": "",
                "date": _when(about["date"]),
                "authors": [{"user": "x"}],
            }
        )
        sha = about["parent"]
    return json_answer(listed, headers={"X-Total-Count": str(len(listed))})


def paths_info(call: Call) -> Response:
    repo = find_repo(call)
    files = repo.files(find_commit(repo, call.names["rev"]))
    if "json" in call.headers.get("content-type", ""):
        wanted = call.json().get("paths", [])
    else:
        wanted = parse_qs(call.body.read().decode("utf-8", "replace")).get("paths", [])
    listed = {item["path"]: item for item in _listing(files, "", True)}
    return json_answer([listed[path] for path in wanted if path in listed])


def auth_check(call: Call) -> Response:
    repo = find_repo(call)
    if call.names.get("write"):
        call.hub.access.may_write(repo.namespace, call.user)
    else:
        call.hub.access.may_fetch(repo, call.user)
    return json_answer({"ok": True})


def resolve(call: Call) -> Response:
    repo = find_repo(call)
    call.hub.access.may_fetch(repo, call.user)
    sha = find_commit(repo, call.names["rev"])
    path = call.names["file"]
    entry = repo.files(sha).get(path)
    if entry is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
    wrong = call.hub.faults.take(call.request, "etag")
    etag = f'"{entry.etag if wrong is None else wrong.etag}"'
    headers = {"X-Repo-Commit": sha, "ETag": etag, "Cache-Control": "no-cache"}
    if not entry.lfs and call.hub.resolve_cache and not call.request.path.startswith(CACHE):
        location = f"{CACHE}/{quote(repo.id)}/{sha}/{quote(path)}"
        return Response(307, {**headers, "X-Linked-Size": str(entry.size), "Location": location}, (b"Redirecting.",))
    if not entry.lfs:
        return file_answer(call, repo.content(entry), entry.size, headers)
    return _redirect(call, repo, entry, headers)


def _redirect(call: Call, repo: Repo, entry: Entry, headers: dict[str, str]) -> Response:
    size = entry.size
    if call.request.method == "HEAD":
        shorter = call.hub.faults.take(call.request, "length")
        size -= 0 if shorter is None else shorter.by
    location = call.hub.storage.url(repo, entry, call.request.file or "")
    headers = {**headers, "X-Linked-Size": str(size), "X-Linked-Etag": headers["ETag"], "Accept-Ranges": "bytes"}
    body = b"Found. Redirecting to the storage."
    return Response(302, {**headers, "Location": location, "Content-Type": "text/plain"}, (body,))


def _listing(files: dict[str, Entry], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """List what lies in a folder, folders among it, as the Hub's tree does."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, entry in files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            parent = prefix + "/".join(parts[:depth])
            found.setdefault(
                parent, {"type": "directory", "oid": _id(parent).ljust(40, "0"), "size": 0, "path": parent}
            )
        if recursive or len(parts) == 1:
            found[path] = _file(path, entry)
    return list(found.values())


def _file(path: str, entry: Entry) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.lfs:
        length = len(pointer(entry.sha256, entry.size))
        item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": length}
    return item


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    item: dict[str, Any] = {"rfilename": path}
    if blobs:
        item.update(size=entry.size, blobId=entry.oid)
    if blobs and entry.lfs:
        length = len(pointer(entry.sha256, entry.size))
        item["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": length}
    return item


def _ref(name: str, ref: str, sha: str) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": sha}


def _when(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _id(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()[:24]


REPO = r"(?P<repo>[^/]+/[^/]+|[^/]+)"
MODEL = f"/api/models/{REPO}"
READING = (
    ("GET HEAD", rf"{CACHE}/{REPO}/(?P<rev>[^/]+)/(?P<file>.+)", "resolve", resolve),
    ("GET", r"/api/whoami-v2", "whoami", whoami),
    ("GET", rf"{MODEL}/tree/(?P<rev>[^/]+)(?:/(?P<folder>.+))?", "tree", tree),
    ("GET", rf"{MODEL}/refs", "refs", refs),
    ("GET", rf"{MODEL}/commits/(?P<rev>[^/]+)", "commits", commits),
    ("POST", rf"{MODEL}/paths-info/(?P<rev>[^/]+)", "paths", paths_info),
    ("GET", rf"{MODEL}/auth-check(?P<write>/write)?", "auth", auth_check),
    ("GET", rf"{MODEL}(?:/revision/(?P<rev>[^/]+))?", "info", info),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<file>.+)", "resolve", resolve),
)

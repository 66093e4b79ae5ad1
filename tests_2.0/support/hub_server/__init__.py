"""A real HTTP server on loopback that speaks the Hugging Face Hub's protocol. Knows nothing of mlxk2; standard library only.

    from support.hub_server import Fault, HubServer

    with HubServer(tmp_path / "store") as hub:
        repo = hub.create_repo("org/name", private=False, gated=False)      # gated: False, "auto" or "manual"
        sha = repo.commit({"config.json": b"{}", "model.safetensors": Path("big")}, delete=("old.txt",), replace=False)
        repo.branch("dev", sha); repo.tag("v1", sha); repo.head("main"); repo.files("main")["config.json"].size
        repo.read("main", "config.json")                                    # bytes
        hub.add_token("hf_write", user="alice", write=True, orgs=("acme",), gated_access=("org/gated",))
        call("pull", "org/name", env={"HF_ENDPOINT": hub.endpoint, ...})
        assert hub.bytes_sent("org/name", "*.safetensors") == size and hub.count("GET", "/tree/") == 1

Two ports: `hub.endpoint` has the API and small files, `hub.storage_endpoint` has LFS content behind signed URLs and refuses
any request that carries an Authorization header. The store is a folder: a second server on it has the same repositories;
tokens, faults, counters and signed URLs live in memory. `hub.repo("org/name")` finds one again, `hub.repos()` lists ids.
Files of 64 MiB and more are hard-linked into the store: do not change them in place afterwards.
A repository made over HTTP starts with `.gitattributes`, as on the Hub; one made with `hub.create_repo` starts empty.
Switches: `hub.page_size` (tree entries a page), `hub.limit_rate(bytes_per_second)` (storage, per connection; None = off),
`hub.resolve_cache = True` (small files answer 307 to a relative URL first, as the real Hub does; off).
`ask(url, method, headers, body)` sends one plain request and follows nothing.

Counters: `hub.requests` is a list of Request(method, path, query, kind, repo, file, status, range, bytes_sent,
bytes_received, authorized, user, port, range_if, user_agent); `authorized` says that the header was there, right or wrong. Also
`hub.count(method, path_contains, kind=)`, `hub.bytes_sent(repo, path)`, `hub.bytes_received(repo)` (bodies of uploads),
`hub.empty_commits`, `hub.reset_counters()`. Bytes sent are those of files, not of API answers, redirects or errors;
they are counted when the kernel takes them. So after a client was killed in mid-file the number is only sharp with
`limit_rate` or a fault that ends the body; otherwise what lay in socket buffers is counted too.

Faults: `active = hub.add_fault(Fault(kind, ...))`, `active.hits` (how often it struck), `hub.remove_fault(active)`,
`hub.clear_faults()`. Where a fault strikes: `repo` and `path` are fnmatch patterns (path: of the file in the repository; for a
request without a file, of the request's path), `method`, and `on`, the kind of request:
    whoami info tree refs commits paths auth resolve create branch yaml preupload lfs verify commit    (first port)
    storage (GET and HEAD of LFS content) upload (PUT of it)                                   (second port)
    or a group: file (GETs that carry a file's content, on either port), api (first port but resolve), any
`skip` lets that many matching requests pass first, `times` is how many are struck (None: all).

    kind          does                                                                          default `on`
    drop          ends the connection cleanly after `after` body bytes (of an upload: received)  file
    reset         the same with a TCP reset                                                      file
    hang          says nothing more after `after` body bytes; headers=False: not even headers    file
    slow          sends (of an upload: receives) `rate` bytes a second                           file
    flip          inverts the byte at offset `after` of the file                                 file
    length        body, Content-Length and Content-Range as if the file were `by` bytes shorter; by < 0: longer,
                  and then a clean end. on="resolve" also gives HEAD and X-Linked-Size wrong      file
    no_range      answers a Range request with 200 and everything                                file
    etag          sends `etag` as ETag and X-Linked-Etag                                         resolve
    expire        a storage URL is good for `after` requests, then 403; a fresh resolve helps     storage
    status        answers `status` (503), with `message`, `code` (X-Error-Code), `retry_after`, `headers_extra`   any
    invalid_rev   answers 404 RevisionNotFound                                                   preupload
    body          answers `status` (200) with `body`, of `content_type`                          any
    vanish        closes the connection without an answer, after the request took effect          any

drop, reset, hang and slow work on every answer (say on="tree"). They strike only where there are more than `after` bytes
to send, flip only where the byte at `after` is among those sent; what does not strike is not counted.

For hand trials: `python -m support.hub_server --store DIR --seed org/name=FOLDER --token hf_x:user:write --port 8090`.
"""

from __future__ import annotations

from .faults import ActiveFault, Fault
from .plain_client import Answer, ask
from .repo import Repo
from .request_log import Request
from .server import HubServer
from .store import Entry

__all__ = ["ActiveFault", "Answer", "Entry", "Fault", "HubServer", "Repo", "Request", "ask"]

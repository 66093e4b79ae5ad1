"""The stand-in for the Hub: the real huggingface_hub client works with it, and its faults are what they say."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.hub_server import Fault, HubServer, Repo, ask
from support.processes import wait_until
from support.ranks import free_ports

TESTS = Path(__file__).resolve().parent
BIG = hashlib.sha256(b"big").digest() * 32_000  # 1,024,000 bytes
SMALL = b'{"model_type": "llama"}'

CLIENT = """
import json, os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
api = HfApi()
said = {}

def outcome(call, *args, **options):
    try:
        call(*args, **options)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return [status, *(kind.__name__ for kind in type(error).__mro__)]
    return "fine"

def add(path, content):
    return CommitOperationAdd(path, content)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        server.add_token("hf_alice", user="alice", write=True, orgs=("acme",), gated_access=("org/gated",))
        server.add_token("hf_bob", user="bob")
        yield server


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    made = hub.create_repo("org/name")
    made.commit({"config.json": SMALL, "model.safetensors": BIG})
    return made


def small_url(hub: HubServer) -> str:
    return f"{hub.endpoint}/org/name/resolve/main/config.json"


def big_url(hub: HubServer) -> str:
    """Give a fresh signed URL."""
    answer = ask(f"{hub.endpoint}/org/name/resolve/main/model.safetensors", "HEAD")
    assert answer.status == 302
    return answer.headers["location"]


def client(hub: HubServer, home: Path, script: str, token: str | None = None) -> dict[str, Any]:
    """Run the real client in a process of its own; the script fills `said`."""
    environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environ.update(HF_ENDPOINT=hub.endpoint, HF_HOME=str(home / "hf"), HOME=str(home))
    environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    if token is not None:
        environ["HF_TOKEN"] = token
    command = [sys.executable, "-c", CLIENT + script + "\nprint(json.dumps(said))"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


def test_client_reads(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    head = repo.commit({"sub/a b.txt": b"text", **{f"n{i}.txt": b"n%d" % i for i in range(5)}})
    repo.tag("v1", head)
    hub.page_size = 3
    script = """
said["info"] = api.model_info("org/name").sha
said["files"] = sorted(api.list_repo_files("org/name"))
said["lfs"] = api.get_paths_info("org/name", ["model.safetensors", "no"])[0].lfs.sha256
said["refs"] = [ref.name for ref in api.list_repo_refs("org/name").tags]
said["commits"] = [commit.commit_id for commit in api.list_repo_commits("org/name")]
said["folder"] = snapshot_download("org/name", revision="v1")
said["who"] = [api.whoami()["name"], [org["name"] for org in api.whoami()["orgs"]]]
"""
    said = client(hub, tmp_path, script, "hf_alice")
    assert said["info"] == said["commits"][0] == head and len(said["commits"]) == 3
    assert said["files"] == sorted(repo.files("main"))
    assert said["lfs"] == hashlib.sha256(BIG).hexdigest()
    assert said["refs"] == ["v1"] and said["who"] == ["alice", ["acme"]]
    for path in repo.files("main"):
        assert (Path(said["folder"]) / path).read_bytes() == repo.read("main", path)
    assert hub.count("GET", "/tree/main") == 3
    assert hub.bytes_sent("org/name", "*.safetensors") == len(BIG)
    assert hub.bytes_sent() == sum(entry.size for entry in repo.files("main").values())
    storage = [request for request in hub.requests if request.kind == "storage"]
    assert storage and not any(request.authorized for request in storage)


def test_client_writes(hub: HubServer, tmp_path: Path) -> None:
    script = """
said["url"] = str(api.create_repo("acme/new", private=True))
said["again"] = outcome(api.create_repo, "acme/new")
said["exist_ok"] = outcome(api.create_repo, "acme/new", exist_ok=True)
api.create_branch("acme/new", branch="dev")
said["branch"] = outcome(api.create_branch, "acme/new", branch="dev")
big = os.urandom(300_000)
def files():
    return [add("README.md", b"# new"), add("w/model.safetensors", big), add("a.txt", b"a"), add("e.bin", b"")]
def commit(operations, **options):
    return api.create_commit("acme/new", operations, commit_message="words", revision="dev", **options).oid
said["first"] = commit(files())
said["noop"] = commit(files())
said["second"] = commit([CommitOperationDelete("w/", is_folder=True), CommitOperationDelete("e.bin"), add("a.txt", b"A")])
said["stale"] = outcome(commit, [add("b.txt", b"b")], parent_commit=said["first"])
said["missing"] = outcome(commit, [CommitOperationDelete("none.txt")])
"""
    said = client(hub, tmp_path, script, "hf_alice")
    new = hub.repo("acme/new")
    assert new.private and said["url"].startswith(hub.endpoint)
    assert said["again"][0] == 409 and said["exist_ok"] == "fine" and said["branch"][0] == 409
    assert said["noop"] == said["first"] and "No files have been modified" in said["stderr"]
    assert sorted(new.files(said["first"])) == [".gitattributes", "README.md", "a.txt", "e.bin", "w/model.safetensors"]
    assert new.files(said["first"])["w/model.safetensors"].lfs and not new.files(said["first"])["e.bin"].lfs
    assert new.head("dev") == said["second"] and new.read("dev", "a.txt") == b"A"
    assert sorted(new.files("dev")) == [".gitattributes", "README.md", "a.txt"] != sorted(new.files("main"))
    assert said["stale"][0] == 412 and said["missing"][0] == 404
    assert hub.empty_commits == 0 and hub.count(kind="upload") == 1 and hub.bytes_received() == 300_000


def test_client_is_refused(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    hub.create_repo("org/gated", gated="auto").commit({"config.json": SMALL})
    hub.create_repo("acme/private", private=True).commit({"config.json": SMALL})
    script = """
def info(name, token): return outcome(api.model_info, name, token=token)
def get(name, token, path="config.json", revision=None):
    return outcome(hf_hub_download, name, path, token=token, revision=revision)
def send(token, name="acme/private", revision="main"):
    return outcome(api.create_commit, name, [add("x.txt", b"x")], commit_message="m", token=token, revision=revision)
alice, bob = "hf_alice", "hf_bob"
said["repository"] = [info("org/none", False), info("org/none", bob), info("acme/private", False), info("acme/private", bob)]
said["gated"] = [get("org/gated", False), get("org/gated", bob), outcome(api.auth_check, "org/gated", token=bob)]
said["revision"] = [get("org/name", False, revision="none"), send(alice, revision="none")]
said["entry"] = [get("org/name", False, "none.txt")]
said["token"] = [info("org/name", "hf_wrong"), get("org/name", "hf_wrong")]
said["rights"] = [send(bob, "org/name"), outcome(api.create_repo, "acme/other", token=bob),
                  outcome(api.create_repo, "org/other", token=alice)]
said["fine"] = [info("org/gated", False), get("org/gated", alice), get("acme/private", alice), send(alice),
                outcome(api.auth_check, "org/gated", token=alice)]
"""
    said = client(hub, tmp_path, script)
    wanted = {
        "repository": ("RepositoryNotFoundError", [401, 404, 401, 404]),
        "gated": ("GatedRepoError", [401, 403, 403]),
        "revision": ("RevisionNotFoundError", [404, 404]),
        "entry": ("EntryNotFoundError", [404]),
        "token": ("HfHubHTTPError", [401, 401]),
        "rights": ("HfHubHTTPError", [403, 403, 403]),
    }
    for group, (name, statuses) in wanted.items():
        assert [outcome[0] for outcome in said[group]] == statuses, group
        assert all(name in outcome for outcome in said[group]), group
    assert "RepositoryNotFoundError" not in said["token"][0] and said["fine"] == ["fine"] * 5


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        ("bytes=9-99999999", 9, None),
    ],
)
@pytest.mark.parametrize("which", ["small", "big"])
def test_ranges(hub: HubServer, repo: Repo, which: str, asked: str, start: int, end: int | None) -> None:
    content, url = (SMALL, small_url(hub)) if which == "small" else (BIG, big_url(hub))
    answer = ask(url, headers={"Range": asked})
    first = start % len(content)
    assert answer.status == 206 and answer.body == content[start:end]
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.body) - 1}/{len(content)}"
    assert hub.requests[-1].range == asked and hub.requests[-1].bytes_sent == len(answer.body)


def test_range_out_of_reach_and_of_another_version(hub: HubServer, repo: Repo) -> None:
    answer = ask(small_url(hub), headers={"Range": f"bytes={len(SMALL)}-"})
    assert answer.status == 416 and answer.headers["content-range"] == f"bytes */{len(SMALL)}"
    assert ask(small_url(hub), headers={"Range": "bytes=2-", "If-Range": '"other"'}).status == 200


def test_head_of_files(hub: HubServer, repo: Repo) -> None:
    small, big = (ask(f"{hub.endpoint}/org/name/resolve/main/{path}", "HEAD") for path in repo.files("main"))
    assert small.status == 200 and small.headers["content-length"] == str(len(SMALL)) and small.body == b""
    assert small.headers["etag"] == f'"{hashlib.sha1(b"blob %d" % len(SMALL) + bytes(1) + SMALL).hexdigest()}"'
    assert big.status == 302 and big.headers["location"].startswith(hub.storage_endpoint)
    assert big.headers["x-linked-size"] == str(len(BIG))
    assert big.headers["x-linked-etag"] == f'"{hashlib.sha256(BIG).hexdigest()}"'
    assert {small.headers["x-repo-commit"], big.headers["x-repo-commit"]} == {repo.head()}


def test_small_files_behind_the_resolve_cache(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    hub.resolve_cache = True
    answer = ask(small_url(hub), "HEAD")
    assert answer.status == 307 and answer.headers["location"].startswith("/api/resolve-cache/models/org/name/")
    said = client(hub, tmp_path, 'said["folder"] = snapshot_download("org/name")')
    assert (Path(said["folder"]) / "config.json").read_bytes() == SMALL
    assert hub.bytes_sent("org/name", "config.json") == len(SMALL)


def test_storage_wants_its_signature_and_no_token(hub: HubServer, repo: Repo) -> None:
    url = big_url(hub)
    assert ask(url).body == BIG
    leaked = ask(url, headers={"Authorization": "Bearer hf_alice"})
    assert leaked.status == 400 and hub.requests[-1].authorized
    assert ask(url.split("?")[0] + "?sig=guess").status == 403
    assert ask(url, "PUT", body=b"x").status == 403


def test_second_start_serves_the_same(tmp_path: Path) -> None:
    big = tmp_path / "big.safetensors"
    big.write_bytes(BIG)
    (port,) = free_ports(1)
    with HubServer(tmp_path / "store", port=port) as first:
        repo = first.create_repo("org/name", gated="manual")
        head = repo.commit({"big.safetensors": big, "a.txt": b"a"}, message="first")
        repo.branch("dev")
        endpoint = first.endpoint
    big.write_bytes(b"changed")
    with HubServer(tmp_path / "store", port=port) as second:
        again = second.repo("org/name")
        assert second.endpoint == endpoint and second.repos() == ["org/name"]
        assert (again.head("dev"), again.gated, again.private) == (head, "manual", False)
        assert again.read(head, "big.safetensors") == BIG
        assert ask(f"{endpoint}/api/models/org/name").json["sha"] == head


def test_python_commits(hub: HubServer, repo: Repo) -> None:
    before = repo.head()
    after = repo.commit({"new.txt": b"1"}, delete=("config.json",))
    assert sorted(repo.files()) == ["model.safetensors", "new.txt"] and sorted(repo.files(before)) != sorted(
        repo.files()
    )
    repo.commit({"only.txt": b"2"}, replace=True)
    assert list(repo.files()) == ["only.txt"] and repo.read(after, "new.txt") == b"1"


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_body_ends_early(hub: HubServer, repo: Repo, kind: str) -> None:
    active = hub.add_fault(Fault(kind, repo="org/*", path="*.safetensors", after=700_000, times=1, skip=1))
    assert ask(big_url(hub)).body == BIG
    parts = urlsplit(big_url(hub))
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as sock:
        sock.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got, ended = b"", "cleanly"
        try:
            while True:
                data = sock.recv(65536)
                if not data:
                    break
                got += data
        except ConnectionResetError:
            ended = "reset"
    assert ended == ("reset" if kind == "reset" else "cleanly")
    assert got.partition(b"\r\n\r\n")[2] == BIG[:700_000]
    assert hub.requests[-1].bytes_sent == 700_000 and active.hits == 1
    assert ask(big_url(hub)).body == BIG


def test_flip_length_and_no_range(hub: HubServer, repo: Repo) -> None:
    flip = hub.add_fault(Fault("flip", path="*.safetensors", after=500_000))
    assert ask(big_url(hub), headers={"Range": "bytes=0-499999"}).body == BIG[:500_000] and flip.hits == 0
    wrong = ask(big_url(hub)).body
    assert [i for i in range(len(BIG)) if wrong[i] != BIG[i]] == [500_000] and len(wrong) == len(BIG)
    hub.clear_faults()
    hub.add_fault(Fault("length", by=10, times=1))
    shorter = ask(big_url(hub), headers={"Range": "bytes=1000-"})
    assert shorter.body == BIG[1000:-10] and shorter.headers["content-range"].endswith(f"/{len(BIG) - 10}")
    hub.add_fault(Fault("length", by=-10, times=1))
    longer = ask(small_url(hub))
    assert longer.short and longer.body == SMALL and longer.headers["content-length"] == str(len(SMALL) + 10)
    hub.add_fault(Fault("no_range", times=1))
    whole = ask(small_url(hub), headers={"Range": "bytes=5-"})
    assert whole.status == 200 and whole.body == SMALL


def test_wrong_metadata(hub: HubServer, repo: Repo) -> None:
    url = f"{hub.endpoint}/org/name/resolve/main/model.safetensors"
    hub.add_fault(Fault("etag", etag="f" * 64))
    hub.add_fault(Fault("length", on="resolve", method="HEAD", by=1))
    answer = ask(url, "HEAD")
    assert answer.headers["x-linked-etag"] == answer.headers["etag"] == f'"{"f" * 64}"'
    assert answer.headers["x-linked-size"] == str(len(BIG) - 1)


def test_storage_url_expires(hub: HubServer, repo: Repo) -> None:
    hub.add_fault(Fault("expire", after=2))
    url = big_url(hub)
    assert [ask(url, headers={"Range": "bytes=0-9"}).status for _ in range(3)] == [206, 206, 403]
    assert ask(big_url(hub)).status == 200


@pytest.mark.parametrize(
    ("on", "path"),
    [
        ("info", "/api/models/org/name"),
        ("tree", "/api/models/org/name/tree/main"),
        ("auth", "/api/models/org/name/auth-check"),
        ("api", "/api/models/org/name/refs"),
        ("resolve", "/org/name/resolve/main/model.safetensors"),
        ("file", "/org/name/resolve/main/config.json"),
    ],
)
def test_status_of_one_kind_of_request(hub: HubServer, repo: Repo, on: str, path: str) -> None:
    hub.add_fault(Fault("status", on=on, status=429, message="slow down", code="Some", retry_after=7, times=1))
    other = "/org/name/resolve/main/config.json" if on == "api" else "/api/models/org/name/commits/main"
    assert ask(hub.endpoint + other).status == 200
    answer = ask(hub.endpoint + path)
    assert (answer.status, answer.headers["retry-after"], answer.headers["x-error-code"]) == (429, "7", "Some")
    assert answer.json["error"] == "slow down"
    assert ask(hub.endpoint + path).status in (200, 302)


def test_body_of_the_tests_own(hub: HubServer, repo: Repo) -> None:
    lie = [{"type": "file", "path": "../../x", "size": 1, "oid": "0" * 40}]
    hub.add_fault(Fault("body", on="tree", body=json.dumps(lie).encode()))
    assert ask(f"{hub.endpoint}/api/models/org/name/tree/main").json == lie


@pytest.mark.parametrize("fault", [Fault("hang", headers=False, on="any"), Fault("hang", path="*.json", after=3)])
def test_hang_lasts_until_the_server_stops(hub: HubServer, repo: Repo, fault: Fault) -> None:
    active = hub.add_fault(fault)
    with socket.create_connection(("127.0.0.1", urlsplit(hub.endpoint).port), timeout=20) as sock:
        sock.sendall(b"GET /org/name/resolve/main/config.json HTTP/1.1\r\nHost: x\r\n\r\n")
        got = sock.recv(65536) if fault.headers else b""
        while fault.headers and not got.endswith(SMALL[:3]):
            part = sock.recv(65536)
            assert part, got
            got += part
        wait_until(lambda: active.hits == 1, "the fault has struck")
        sock.settimeout(0.2)
        with pytest.raises(socket.timeout):
            sock.recv(1)
        hub.stop()
        sock.settimeout(20)
        assert sock.recv(1) == b""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hub-")]


def test_vanish_after_the_deed(hub: HubServer, repo: Repo) -> None:
    hub.create_repo("alice/own")
    hub.add_fault(Fault("vanish", on="branch"))
    with pytest.raises(http.client.RemoteDisconnected):
        ask(f"{hub.endpoint}/api/models/alice/own/branch/dev", "POST", {"Authorization": "Bearer hf_alice"}, b"{}")
    assert "dev" in hub.repo("alice/own").branches


def test_rates(hub: HubServer, repo: Repo) -> None:
    hub.limit_rate(4_000_000)
    start = time.monotonic()
    assert ask(big_url(hub)).body == BIG
    assert time.monotonic() - start >= len(BIG) / 4_000_000 * 0.9
    hub.limit_rate(None)
    hub.add_fault(Fault("slow", path="config.json", rate=100))
    start = time.monotonic()
    assert ask(small_url(hub)).body == SMALL
    assert time.monotonic() - start >= len(SMALL) / 100 * 0.9


def upload_url(hub: HubServer, content: bytes) -> str:
    """Ask for the URL that an LFS object is to be PUT to."""
    wanted = {"operation": "upload", "objects": [{"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}]}
    url = f"{hub.endpoint}/alice/own.git/info/lfs/objects/batch"
    answer = ask(url, "POST", {"Authorization": "Bearer hf_alice"}, json.dumps(wanted).encode())
    return answer.json["objects"][0]["actions"]["upload"]["href"]


def test_uploads(hub: HubServer) -> None:
    own = hub.create_repo("alice/own")
    sha256 = hashlib.sha256(BIG).hexdigest()
    url = upload_url(hub, BIG)
    hub.add_fault(Fault("status", on="upload", status=403, times=1))
    assert ask(url, "PUT", body=BIG).status == 403
    assert ask(url, "PUT", body=BIG[:-1] + b"x").status == 400 and not own.has_object(sha256)
    hub.add_fault(Fault("drop", on="upload", after=400_000, times=1))
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(url, "PUT", body=BIG)
    assert hub.requests[-1].bytes_received == 400_000 and not own.has_object(sha256)
    hub.reset_counters()
    chunks = [BIG[start : start + 100_000] for start in range(0, len(BIG), 100_000)]
    assert ask(url, "PUT", body=iter(chunks)).status == 200 and own.has_object(sha256)
    assert hub.bytes_received("alice/own") == len(BIG)


def test_refused_commits(hub: HubServer) -> None:
    own = hub.create_repo("alice/own")
    head = own.commit({"a.txt": b"a"})
    url, headers = f"{hub.endpoint}/api/models/alice/own/commit/main", {"Authorization": "Bearer hf_alice"}

    def send(key: str, **value: Any) -> int:
        lines = [{"key": "header", "value": {"summary": "s"}}, {"key": key, "value": value}]
        return ask(url, "POST", headers, b"\n".join(json.dumps(line).encode() for line in lines)).status

    assert send("file", path="../x", content="eA==", encoding="base64") == 400
    assert send("lfsFile", path="x.bin", algo="sha256", oid="0" * 64, size=1) == 400
    assert send("nonsense", path="x") == 400
    assert own.head() == head and hub.empty_commits == 0
    assert send("file", path="a.txt", content="YQ==", encoding="base64") == 200
    assert own.head() != head and hub.empty_commits == 1


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes(SMALL)
    command = [sys.executable, "-m", "support.hub_server", "--store", str(tmp_path / "store"), "--verbose"]
    command += ["--seed", f"org/name={tmp_path / 'model'}", "--token", "hf_x:carol:write:acme"]
    command += ["--fault", "status status=418 on=refs times=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=TESTS, **pipes) as server:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        assert ask(f"{endpoint}/org/name/resolve/main/config.json").body == SMALL
        assert ask(f"{endpoint}/api/whoami-v2", headers={"Authorization": "Bearer hf_x"}).json["name"] == "carol"
        assert [ask(f"{endpoint}/api/models/org/name/refs").status for _ in range(2)] == [418, 200]
        server.send_signal(signal.SIGTERM)
        _, stderr = server.communicate(timeout=20)
    assert server.returncode == 0 and "GET /org/name/resolve/main/config.json -> 200" in stderr
    assert "hf_x" not in stderr

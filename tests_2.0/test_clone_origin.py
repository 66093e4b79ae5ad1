"""show and health tell whether a cloned folder still is what was cloned; what its sentinel says is not trusted."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Callable

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import IsolatedCache
from support.planting import COMMIT_A

from mlxk2.store.origin import SENTINEL_FILE

NAME = "org/model"
FILES = {**build.chat_model(), "extra/notes.txt": b"in a folder\n"}
WEIGHTS = "model.safetensors"


@pytest.fixture
def env(isolated_cache: IsolatedCache) -> dict[str, str]:
    return {**isolated_cache.env, "MLXK2_ENABLE_ALPHA_FEATURES": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def repo(isolated_cache: IsolatedCache) -> build.Repo:
    repo = build.Repo(isolated_cache.hub, NAME)
    repo.snapshot(FILES, COMMIT_A)
    return repo


@pytest.fixture
def mine(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> Path:
    """A folder that was cloned just now."""
    assert call("clone", NAME, str(tmp_path / "mine"), "--json", env=env).code == 0
    return tmp_path / "mine"


def shown(folder: Path, env: dict[str, str]) -> Any:
    return call("show", str(folder), "--json", env=env).data.get("origin")


def checked(folder: Path, env: dict[str, str], *words: str) -> dict[str, Any]:
    data = call("health", str(folder), *words, "--json", env=env).data
    (model,) = data["healthy"] + data["unhealthy"]
    return dict(model)


def changed(folder: Path, env: dict[str, str]) -> list[str]:
    """The changed files, which show and health agree on."""
    origin = shown(folder, env)
    assert checked(folder, env)["origin"] == origin
    assert origin["status"] == ("modified" if origin["changed"] else "unchanged")
    return list(origin["changed"])


def edit_in_secret(path: Path) -> None:
    """Turn the last bit of a file; its length and time stay."""
    state, text = path.stat(), path.read_bytes()
    path.write_bytes(text[:-1] + bytes([text[-1] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_fresh_clone_is_what_was_cloned(mine: Path, env: dict[str, str]) -> None:
    lines = sorted(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in FILES.items())
    expected = {
        "model": NAME,
        "revision": COMMIT_A,
        "content_hash": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "status": "unchanged",
        "changed": [],
    }
    assert shown(mine, env) == checked(mine, env)["origin"] == expected
    assert checked(mine, env, "--deep")["status"] == "healthy"
    assert checked(mine, env, "--deep")["origin"] == expected


def test_the_sentinel_says_what_was_cloned(mine: Path) -> None:
    sentinel = json.loads((mine / SENTINEL_FILE).read_text(encoding="utf-8"))
    assert list(sentinel) == ["version", "origin", "content_hash", "files", "created"]
    assert (sentinel["version"], sentinel["origin"]) == (1, {"model": NAME, "revision": COMMIT_A})
    for name, text in FILES.items():
        assert sentinel["files"][name] == {
            "size": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
            "mtime_ns": (mine / name).stat().st_mtime_ns,
        }
    assert len(sentinel["files"]) == len(FILES)


def test_the_sentinel_is_no_file_of_the_model(mine: Path, env: dict[str, str]) -> None:
    files = call("show", str(mine), "--files", "--json", env=env).data["files"]
    assert sorted(file["name"] for file in files) == sorted(FILES)
    assert call("show", str(mine), "--json", env=env).data["model"]["size_bytes"] == sum(map(len, FILES.values()))


EDITS: dict[str, Callable[[Path], Any]] = {
    "README.md": lambda mine: (mine / "README.md").write_bytes(b"# Mine\n"),
    "config.json": lambda mine: (mine / "config.json").write_bytes(FILES["config.json"] + b"\n"),
    "extra/notes.txt": lambda mine: (mine / "extra" / "notes.txt").unlink(),
    "extra/new.txt": lambda mine: (mine / "extra" / "new.txt").write_bytes(b""),
    "tokenizer_config.json": lambda mine: build.replace(mine / "tokenizer_config.json", b"{}"),
    WEIGHTS: lambda mine: same_length(mine / WEIGHTS),
}


def same_length(path: Path) -> None:
    """Write other content of the same length, a moment later."""
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_noticed_and_is_nothing_unhealthy(name: str, mine: Path, env: dict[str, str]) -> None:
    EDITS[name](mine)
    assert changed(mine, env) == [name]
    assert checked(mine, env, "--deep")["origin"]["changed"] == [name]
    assert checked(mine, env, "--deep")["status"] == "healthy"


def test_people_read_how_many_files_changed(mine: Path, env: dict[str, str]) -> None:
    told = f"Origin: {NAME}@{COMMIT_A[:7]} "
    assert told + "(unchanged)\n" in call("show", str(mine), env=env).stdout
    EDITS["README.md"](mine)
    assert told + "(1 file changed)\n" in call("health", str(mine), env=env).stdout
    EDITS["extra/notes.txt"](mine)
    EDITS["extra/new.txt"](mine)
    assert told + "(3 files changed)\n" in call("show", str(mine), env=env).stdout


def test_a_file_that_was_cut_in_secret_is_noticed_without_reading(mine: Path, env: dict[str, str]) -> None:
    state = (mine / "README.md").stat()
    build.truncate(mine / "README.md", state.st_size - 1)
    os.utime(mine / "README.md", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert changed(mine, env) == ["README.md"]


def test_what_was_cloned_into_folders_of_tools_is_no_part_of_it(
    repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    for name in (".cache/x", "extra/__pycache__/y.pyc"):
        repo.link(repo.path / "snapshots" / COMMIT_A / name, repo.blob(b"x"))
    assert call("clone", NAME, str(tmp_path / "mine"), "--json", env=env).data["files"] == len(FILES) + 2
    assert (tmp_path / "mine" / ".cache" / "x").read_bytes() == b"x"
    assert changed(tmp_path / "mine", env) == []


def test_a_file_that_was_only_touched_is_unchanged(mine: Path, env: dict[str, str]) -> None:
    for path in mine.rglob("*"):
        os.utime(path, (1, 1))
    assert changed(mine, env) == []


def test_a_moved_clone_is_the_same(mine: Path, env: dict[str, str], tmp_path: Path) -> None:
    mine.rename(tmp_path / "moved")
    assert changed(tmp_path / "moved", env) == []


def test_files_of_tools_are_no_changes(mine: Path, env: dict[str, str]) -> None:
    for name in (
        ".git/HEAD",
        ".DS_Store",
        "extra/.DS_Store",
        "__pycache__/a.pyc",
        "extra/__pycache__/b.pyc",
        ".cache/x",
    ):
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_bytes(b"x")
    assert changed(mine, env) == []


def test_a_link_in_place_of_a_file_is_a_change_and_not_followed(
    mine: Path, env: dict[str, str], tmp_path: Path
) -> None:
    for name in (WEIGHTS, "extra"):
        (mine / name).rename(tmp_path / f"old-{name}")
        (mine / name).symlink_to(tmp_path / f"old-{name}")
    assert changed(mine, env) == ["extra", "extra/notes.txt", WEIGHTS]


def test_a_copy_of_the_folder_is_hashed_and_found_the_same(mine: Path, env: dict[str, str], tmp_path: Path) -> None:
    copy = build.model_folder(tmp_path / "copy", {str(p.relative_to(mine)): p.read_bytes() for p in mine.rglob("*.*")})
    assert changed(copy, env) == []
    (copy / "README.md").write_bytes(FILES["README.md"][:-1] + b"!")
    assert changed(copy, env) == ["README.md"]


@pytest.mark.parametrize("name", [WEIGHTS, "README.md"])
def test_only_a_deep_check_finds_content_that_changed_in_secret(name: str, mine: Path, env: dict[str, str]) -> None:
    edit_in_secret(mine / name)
    assert changed(mine, env) == []
    assert checked(mine, env)["status"] == "healthy"
    found = checked(mine, env, "--deep")
    assert (found["status"], found["reason"]) == ("unhealthy", f"Content hash mismatch: {name}")
    assert [(f["code"], f["path"]) for f in found["findings"]] == [("content_hash_mismatch", name)]
    assert (found["origin"]["status"], found["origin"]["changed"]) == ("modified", [name])
    assert call("health", str(mine), "--deep", "--strict", "--json", env=env).error["type"] == "unhealthy_models"


def test_a_blob_that_was_broken_before_is_found_in_the_clone(
    repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    edit_in_secret((repo.path / "snapshots" / COMMIT_A / WEIGHTS).resolve())
    answer = call("clone", NAME, str(tmp_path / "mine"), "--no-health-check", "--json", env=env)
    assert answer.code == 0
    assert checked(tmp_path / "mine", env, "--deep")["reason"] == f"Content hash mismatch: {WEIGHTS}"


def test_other_models_have_no_origin(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    folder = build.model_folder(tmp_path / "folder", FILES)
    for name in (NAME, str(folder)):
        assert "origin" not in call("show", name, "--json", env=env).data
        assert "origin" not in call("health", name, "--json", env=env).data["healthy"][0]
        assert "Origin" not in call("show", name, env=env).stdout


def test_a_sentinel_in_the_cache_tells_nothing(repo: build.Repo, mine: Path, env: dict[str, str]) -> None:
    snapshot = repo.path / "snapshots" / COMMIT_A
    (snapshot / SENTINEL_FILE).write_bytes((mine / SENTINEL_FILE).read_bytes())
    assert "origin" not in call("show", NAME, "--json", env=env).data


def test_a_workspace_found_by_its_name_has_its_origin(mine: Path, env: dict[str, str]) -> None:
    home = {**env, "MLXK2_WORKSPACE_HOME": str(mine.parent)}
    assert call("show", "mine", "--json", env=home).data["origin"]["status"] == "unchanged"
    models = call("health", "--json", env=home).data["healthy"]
    assert {model["name"]: "origin" in model for model in models} == {NAME: False, "mine": True}


def rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change what the sentinel says, and let its sum be right."""

    def harm(place: Path) -> None:
        content = json.loads(place.read_text(encoding="utf-8"))
        change(content)
        files = content["files"]
        if isinstance(files, dict) and all(isinstance(file, dict) for file in files.values()):
            lines = sorted(f"{file.get('sha256')}  {name}\n" for name, file in files.items())
            content["content_hash"] = hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
        place.write_text(json.dumps(content), encoding="utf-8")

    return harm


def with_file(name: str, **fields: Any) -> Callable[[Path], None]:
    file = {"size": 1, "sha256": "a" * 64, "mtime_ns": 1, **fields}
    return rewritten(lambda content: content["files"].update({name: file}))


def replaced_by(text: bytes) -> Callable[[Path], None]:
    return lambda place: build.replace(place, text)


def linked_away(place: Path) -> None:
    place.rename(place.parent.parent / "sentinel")
    place.symlink_to(place.parent.parent / "sentinel")


HARM: dict[str, Callable[[Path], Any]] = {
    "no JSON": replaced_by(b"{"),
    "no text": replaced_by(b"\xff\xfe\x00"),
    "empty": replaced_by(b""),
    "a list": replaced_by(b"[]"),
    "a number": replaced_by(b"1"),
    "nothing in it": replaced_by(b"{}"),
    "deep": replaced_by(b"[" * 100_000),
    "a long number": replaced_by(b'{"version": ' + b"1" * 1_000_000 + b"}"),
    "200 MB": lambda place: build.grow_sparse(place, 200_000_000),
    "a pipe": build.fifo,
    "a folder": build.folder_instead,
    "a link": linked_away,
    "another version": rewritten(lambda content: content.update(version=2)),
    "a name with ..": rewritten(lambda content: content["origin"].update(model="../../x")),
    "a name to colour the screen": rewritten(lambda content: content["origin"].update(model="\x1b[2Jx")),
    "no name": rewritten(lambda content: content["origin"].update(model=None)),
    "no commit": rewritten(lambda content: content["origin"].update(revision="main")),
    "a commit that is a number": rewritten(lambda content: content["origin"].update(revision=7)),
    "files in a list": rewritten(lambda content: content.update(files=[])),
    "a file that is a text": rewritten(lambda content: content["files"].update(x="y")),
    "a path that leaves": with_file("../../../etc/passwd"),
    "an absolute path": with_file("/etc/passwd"),
    "a path with a dot": with_file("./x"),
    "a path with two lines": with_file("x\ny"),
    "half a character": with_file("\ud800"),
    "a size below nothing": with_file("x", size=-1),
    "a size that is a fraction": with_file("x", size=1.5),
    "a size that is true": with_file("x", size=True),
    "a time that is a text": with_file("x", mtime_ns="1"),
    "a time beyond all times": with_file("x", mtime_ns=10**25),
    "no hash": with_file("x", sha256="a" * 63 + "\n"),
    "a wrong sum": lambda place: build.replace(place, place.read_bytes().replace(b'"content_hash": "', b'"content_hash": "0')),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARM)
def test_a_sentinel_of_somebody_elses_counts_as_none(kind: str, mine: Path, env: dict[str, str]) -> None:
    HARM[kind](mine / SENTINEL_FILE)
    told = call("show", str(mine), "--files", "--json", env=env)
    assert told.code == 0
    assert "origin" not in told.data
    assert not any(file["name"].startswith(SENTINEL_FILE) for file in told.data["files"])
    assert "origin" not in checked(mine, env, "--deep")
    assert checked(mine, env, "--deep")["status"] == "healthy"
    assert call("list", "--json", env={**env, "MLXK2_WORKSPACE_HOME": str(mine.parent)}).data["count"] == 2

"""`push --check-only`: what a push would take, what it holds back, and whether that is a sound model. Opens no socket."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import cache_builder as build
from support.call import Result, call
from support.isolation import IsolatedCache, above_permissions
from support.pushing import workspace

# Made up, and split so that no scanner of repositories takes them for real ones.
HF_TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"
AWS_KEY = "AKIA" + "Z7Q2XK4M9PL3WD6R"
GITHUB_TOKEN = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fGh"
API_KEY = "sk-" + "proj-aB3dE5gH7jK9mN1pQ3sT5vW7"
PEM = "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----\n"


@pytest.fixture
def env(isolated_cache: IsolatedCache) -> dict[str, str]:
    return {**isolated_cache.env, "MLXK2_ENABLE_ALPHA_FEATURES": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return workspace(tmp_path / "model")


def check(folder: Path, *words: str, env: dict[str, str]) -> Result:
    return call("push", str(folder), "org/m", "--check-only", *words, "--json", env=env)


def health(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    answer = check(folder, env=env)
    assert answer.code == 0, answer.stdout
    return answer.data["workspace_health"]  # type: ignore[no-any-return]


def codes(found: dict[str, Any], severity: str | None = None) -> list[str]:
    return [a["code"] for a in found["anomalies"] if severity in (None, a["severity"])]


def test_a_sound_folder(folder: Path, env: dict[str, str]) -> None:
    found = health(folder, env)
    files = build.chat_model()
    assert found == {
        "healthy": True,
        "anomalies": [],
        "config": {"exists": True, "valid_json": True, "path": "config.json"},
        "weights": {
            "count": 1,
            "formats": ["safetensors"],
            "index": {"has_index": False, "missing": []},
            "pattern_complete": None,
        },
        "files_count": len(files),
        "total_bytes": sum(map(len, files.values())),
    }


def test_a_sound_folder_of_shards(tmp_path: Path, env: dict[str, str]) -> None:
    found = health(workspace(tmp_path / "m", build.sharded_model(3)), env)
    assert (found["healthy"], found["anomalies"]) == (True, [])
    assert found["weights"] == {
        "count": 3,
        "formats": ["safetensors"],
        "index": {"has_index": True, "missing": []},
        "pattern_complete": True,
    }


INDEX = "model.safetensors.index.json"
BROKEN: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no config": ({"config.json": None}, "config_missing"),
    "broken config": ({"config.json": b"{"}, "config_invalid_json"),
    "empty config": ({"config.json": b""}, "config_invalid_json"),
    "no weights": ({"model.safetensors": None}, "no_weights_found"),
    "empty weights": ({"model.safetensors": b""}, "empty_weight_file"),
    "pointer": ({"model.safetensors": build.lfs_pointer()}, "lfs_pointer_detected"),
    "broken index": ({INDEX: b"{"}, "index_parse_error"),
    "index of nothing": ({INDEX: b'{"weight_map": {}}'}, "index_parse_error"),
    "truncated": ({"model.safetensors": build.safetensors()[:-100]}, "truncated_weight_file"),
    "no tokenizer": ({"tokenizer.json": None}, "tokenizer_missing"),
    "shard leaves": ({INDEX: build.as_json({"weight_map": {"a": "../x.safetensors"}})}, "index_missing_shard"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_error_has_its_code(tmp_path: Path, env: dict[str, str], case: str) -> None:
    changes, code = BROKEN[case]
    files = {name: data for name, data in {**build.chat_model(), **changes}.items() if data is not None}
    found = health(workspace(tmp_path / "m", files), env)
    assert (found["healthy"], code in codes(found, "error")) == (False, True)


def test_missing_shards_are_listed(tmp_path: Path, env: dict[str, str]) -> None:
    folder = workspace(tmp_path / "m", build.sharded_model(3))
    lost = build.shard_name(2, 3)
    (folder / lost).unlink()
    found = health(folder, env)
    (anomaly,) = (a for a in found["anomalies"] if a["code"] == "index_missing_shard")
    assert (anomaly["severity"], anomaly["missing"], anomaly["path"]) == ("error", [lost], lost)
    assert found["weights"]["index"] == {"has_index": True, "missing": [lost]}
    assert found["weights"]["pattern_complete"] is False


def test_a_broken_index_says_so(tmp_path: Path, env: dict[str, str]) -> None:
    found = health(workspace(tmp_path / "m", {**build.chat_model(), INDEX: b"["}), env)
    assert found["weights"]["index"] == {"has_index": True, "missing": [], "parse_error": "Invalid index file"}


def test_a_missing_config_is_told_in_its_own_field(tmp_path: Path, env: dict[str, str]) -> None:
    folder = workspace(tmp_path / "m")
    (folder / "config.json").unlink()
    assert health(folder, env)["config"] == {"exists": False, "valid_json": False, "path": None}
    (folder / "config.json").write_bytes(b"[]")
    assert health(folder, env)["config"] == {"exists": True, "valid_json": False, "path": "config.json"}


def test_an_empty_folder_is_told_without_failing(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "m").mkdir()
    found = health(tmp_path / "m", env)
    assert {"config_missing", "no_weights_found"} <= set(codes(found, "error"))
    assert (found["files_count"], found["total_bytes"], found["weights"]["count"]) == (0, 0, 0)


def test_a_partial_marker_is_only_a_warning(folder: Path, env: dict[str, str]) -> None:
    (folder / "model.safetensors.partial").write_bytes(b"x")
    found = health(folder, env)
    assert (found["healthy"], codes(found, "warn")) == (True, ["partial_marker"])


def test_strict_refuses_errors_and_warnings(folder: Path, env: dict[str, str]) -> None:
    assert check(folder, "--strict", env=env).code == 0
    (folder / ".env").write_text("A=1", encoding="ascii")
    answer = check(folder, "--strict", env=env)
    assert (answer.code, answer.error["type"], answer.data) == (1, "workspace_unhealthy", None)
    assert answer.error["detail"] == health(folder, env)
    (folder / ".env").unlink()
    (folder / "config.json").unlink()
    assert check(folder, "--strict", env=env).error["type"] == "workspace_unhealthy"


def test_people_read_one_line_and_the_anomalies_on_stderr(folder: Path, env: dict[str, str]) -> None:
    shown = call("push", str(folder), "org/m", "--check-only", env=env)
    assert shown.stdout.startswith("push (experimental): org/m@main — check-only: healthy, 5 files")
    assert shown.stderr == ""
    (folder / "config.json").unlink()
    (folder / ".env").write_text("A=1", encoding="ascii")
    shown = call("push", str(folder), "org/m", "--check-only", env=env)
    assert (shown.code, "check-only: 1 error, 1 warning" in shown.stdout) == (0, True)
    assert "config.json missing (config_missing)" in shown.stderr
    assert ".env: held back" in shown.stderr
    assert call("push", str(folder), "org/m", "--check-only", "--quiet", env=env).stderr == ""


@pytest.mark.parametrize(
    ("card", "hint"),
    [
        (None, "README.md is missing"),
        (b"# Model\n", "README.md has no front matter"),
        (b"---\nlibrary_name: mlx\n---\n", None),
        (b"---\npipeline_tag: text-generation\n---\n", None),
    ],
)
def test_what_the_readme_lacks_is_said_and_not_written(
    folder: Path, env: dict[str, str], card: bytes | None, hint: str | None
) -> None:
    place = folder / "README.md"
    place.unlink()
    if card is not None:
        place.write_bytes(card)
    message = check(folder, env=env).data["message"]
    assert (hint or "nothing was uploaded") in message
    for line in ("library_name: mlx", "pipeline_tag: text-generation", "tags:"):
        assert (line in message) is (hint is not None)
    assert (place.read_bytes() if place.exists() else None) == card


def counted(folder: Path, env: dict[str, str], paths: list[str]) -> set[str]:
    """Which of these files a push would take, by the count of files with and without each."""
    taken = set()
    for path in paths:
        before = health(folder, env)["files_count"]
        build.model_folder(folder, {path: b"x"})
        if health(folder, env)["files_count"] > before:
            taken.add(path)
        (folder / path).unlink()
    return taken


def test_the_built_in_ignores_hold_at_any_depth(folder: Path, env: dict[str, str]) -> None:
    names = [
        ".git/config", ".DS_Store", ".gitignore", ".hfignore", "__pycache__/a.py", ".venv/x", "venv/x", "a.pyc",
        ".cache/huggingface/x", ".mlxk2-workspace.json", ".env.d/x",
    ]  # fmt: skip
    paths = [*names, *(f"deep/er/{name}" for name in names if name != ".hfignore")]
    assert counted(folder, env, paths) == set()
    assert counted(folder, env, ["venv.txt", "git/x", "deep/cache/x", "a.py"]) == {
        "venv.txt",
        "git/x",
        "deep/cache/x",
        "a.py",
    }
    assert codes(health(folder, env)) == []


@pytest.mark.parametrize(
    ("lines", "ignored", "taken"),
    [
        ("*.log", ["a.log", "d/b.log"], ["a.log.txt", "log"]),
        ("# note\n\n  \n*.log  \n", ["a.log"], ["note"]),
        ("logs/", ["logs/a", "d/logs/b"], ["logs.txt"]),
        ("/top.txt", ["top.txt"], ["d/top.txt"]),
        ("d/*.csv", ["d/a.csv"], ["a.csv", "d/e/a.csv", "x/d/a.csv"]),
        ("d/**/x", ["d/x", "d/e/x", "d/e/f/x"], ["x", "e/d/x"]),
        ("**/x", ["x", "d/x"], ["xx"]),
        ("d/**", ["d/a", "d/e/a"], ["e/d"]),
        ("a?.[ch]", ["ab.c", "ab.h"], ["a.c", "ab.d"]),
        ("[!a].c", ["b.c"], ["a.c"]),
        ("[^a].c", ["b.c"], ["a.c"]),
        ("*.txt\n!keep.txt", ["a.txt"], ["keep.txt", "d/keep.txt"]),
        ("!keep.txt\n*.txt", ["keep.txt"], []),
        (r"\!odd" + "\n" + r"\#odd", ["!odd", "#odd"], ["odd"]),
        (r"a\*b", ["a*b"], ["axb"]),
        ("weights\r\n", ["weights"], []),
        ("\ufeffbom.txt", ["bom.txt"], []),
        ("ünï.txt", ["ünï.txt"], []),
        ("d", ["d/a", "e/d"], ["da"]),
        ("!.gitignore", [], [".gitignore"]),
        ("!.git\n!.cache\n!.git/", [".git/a", ".cache/a"], []),
        ("*" * 200 + "b", ["ab"], ["a" * 200]),
    ],
)
def test_hfignore_is_read_as_git_reads_its_own(
    folder: Path, env: dict[str, str], lines: str, ignored: list[str], taken: list[str]
) -> None:
    (folder / ".hfignore").write_bytes(lines.encode())
    assert counted(folder, env, ignored + taken) == set(taken)


@pytest.mark.parametrize("kind", ["huge", "folder", "dangling", "fifo", "lines"])
def test_an_hfignore_that_cannot_be_used_stops_everything(folder: Path, env: dict[str, str], kind: str) -> None:
    place = folder / ".hfignore"
    if kind == "huge":
        build.grow_sparse(place, 2**31)
    elif kind == "folder":
        place.mkdir()
    elif kind == "dangling":
        place.symlink_to("nowhere")
    elif kind == "fifo":
        build.fifo(place)
    else:
        place.write_text("a\n" * 1001, encoding="ascii")
    answer = check(folder, env=env)
    assert (answer.code, answer.error["type"]) == (1, "push_operation_failed")
    assert ".hfignore" in answer.error["message"]


SECRETS = {
    ".env": "A=1",
    ".env.local": "A=1",
    "deep/.envrc": "A=1",
    "id_rsa": "x",
    "keys/id_ed25519": "x",
    "server.pem": "x",
    "SERVER.KEY": "x",
    ".netrc": "x",
    ".ssh/config": "x",
    "notes.txt": f"my token is {HF_TOKEN}.",
    "train.py": f'key = "{API_KEY}"',
    "aws.cfg": f"id={AWS_KEY}\n",
    "ci.yml": f"token: {GITHUB_TOKEN}",
    "renamed.txt": PEM,
}


@pytest.mark.parametrize("path", SECRETS)
def test_secrets_are_held_back_and_never_shown(folder: Path, env: dict[str, str], path: str) -> None:
    build.model_folder(folder, {path: SECRETS[path].encode()})
    answer = check(folder, env=env)
    (anomaly,) = answer.data["workspace_health"]["anomalies"]
    assert (anomaly["severity"], anomaly["code"], anomaly["path"]) == ("warn", "secret_suspected", path)
    assert answer.data["local_files_count"] == len(build.chat_model())
    shown = answer.stdout + call("push", str(folder), "org/m", "--check-only", env=env).stderr
    assert not any(value in shown for value in (HF_TOKEN, API_KEY, AWS_KEY, GITHUB_TOKEN, "MIIEow"))


def test_a_secret_in_utf_16_is_found(folder: Path, env: dict[str, str]) -> None:
    (folder / "win.txt").write_bytes(f"t={HF_TOKEN}".encode("utf-16"))
    assert codes(health(folder, env)) == ["secret_suspected"]


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "x" * 34,
        "sk-" + "your-api-key-goes-in-here",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "task-aB3dE5gH7jK9mN1pQ3sT5v",
        "hf_hub_download",
    ],
)
def test_placeholders_and_words_are_no_secrets(folder: Path, env: dict[str, str], text: str) -> None:
    (folder / "notes.md").write_text(f"use {text} here", encoding="ascii")
    assert codes(health(folder, env)) == []


def test_a_line_that_names_the_file_lets_a_false_alarm_go(folder: Path, env: dict[str, str]) -> None:
    (folder / "example.pem").write_text(PEM, encoding="ascii")
    (folder / ".hfignore").write_text("!*.pem\n", encoding="ascii")
    assert codes(health(folder, env)) == ["secret_suspected"]
    (folder / ".hfignore").write_text("!example.pem\n", encoding="ascii")
    assert (codes(health(folder, env)), health(folder, env)["files_count"]) == ([], 6)


def test_a_secret_that_the_user_ignores_is_no_news(folder: Path, env: dict[str, str]) -> None:
    (folder / ".env").write_text("A=1", encoding="ascii")
    (folder / ".hfignore").write_text(".env\n", encoding="ascii")
    assert codes(health(folder, env)) == []


def test_long_lines_and_large_texts_are_read_in_bounded_time(folder: Path, env: dict[str, str]) -> None:
    (folder / "vocab.txt").write_bytes(b"sk-" * 2_000_000 + b"hf_" * 300_000)
    build.grow_sparse(folder / "data.txt", 2**40)
    assert codes(health(folder, env)) == []


def test_links_inside_are_content_and_links_outside_are_left_out(folder: Path, env: dict[str, str]) -> None:
    outside = folder.parent / "outside.txt"
    outside.write_text("private", encoding="ascii")
    (folder / "inside.json").symlink_to("config.json")
    (folder / "away.txt").symlink_to(outside)
    (folder / "up.txt").symlink_to("../outside.txt")
    (folder / "folder").symlink_to(folder.parent)
    found = health(folder, env)
    assert found["files_count"] == len(build.chat_model()) + 1
    assert sorted(a["path"] for a in found["anomalies"]) == ["away.txt", "folder", "up.txt"]
    assert set(codes(found, "warn")) == {"link_left_out"}


def test_a_snapshot_of_the_cache_is_links_and_clone_is_the_way_out(
    isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    snapshot = build.Repo(isolated_cache.hub, "org/m").snapshot(build.chat_model())
    found = health(snapshot, env)
    assert (found["files_count"], set(codes(found, "warn"))) == (0, {"link_left_out"})
    assert all("mlxk2 clone" in a["message"] for a in found["anomalies"] if a["severity"] == "warn")


def test_a_link_is_no_way_around_ignores_and_secrets(folder: Path, env: dict[str, str]) -> None:
    build.model_folder(folder, {".env": b"A=1", ".git/config": b"x", "d/x": b"y"})
    (folder / "a.txt").symlink_to(".env")
    (folder / "b.txt").symlink_to(".git/config")
    (folder / "c").symlink_to("d")
    found = health(folder, env)
    by_path = {a["path"]: a["code"] for a in found["anomalies"]}
    assert by_path == {
        ".env": "secret_suspected",
        "a.txt": "secret_suspected",
        "b.txt": "link_left_out",
        "c": "link_left_out",
    }


def test_what_is_no_file_is_named_and_not_waited_for(folder: Path, env: dict[str, str]) -> None:
    build.fifo(folder / "pipe")
    (folder / "gone").symlink_to("nowhere")
    build.loop(folder / "ring")
    found = health(folder, env)
    assert {"not_a_file", "dangling_link"} <= set(codes(found, "error"))


def test_names_that_no_repository_has_are_left_out(folder: Path, env: dict[str, str]) -> None:
    names = [b"bad\x1b[31m.txt", b"two\nlines", b"back\\slash", b"\xff\xfe"]
    made = 0
    for name in names:
        try:
            with open(os.path.join(os.fsencode(folder), name), "wb") as file:
                file.write(b"x")
        except OSError:
            continue  # a file system that takes text only
        made += 1
    found = health(folder, env)
    assert codes(found, "warn") == ["name_left_out"] * made
    assert "\x1b" not in call("push", str(folder), "org/m", "--check-only", env=env).stderr


@pytest.mark.skipif(above_permissions(), reason="this user may read everything")
def test_an_unreadable_file_is_an_error(folder: Path, env: dict[str, str]) -> None:
    (folder / "config.json").chmod(0)
    found = health(folder, env)
    assert (found["healthy"], "unreadable_file" in codes(found, "error")) == (False, True)

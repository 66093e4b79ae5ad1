"""Names: how they are spelled on disk, which ones are refused, and which model a text means."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.call import call
from support.isolation import IsolatedCache
from support.planting import COMMIT_A, COMMIT_B, plant

from mlxk2.store.layout import name_problem, repo_folder, repo_name, revision_problem


@pytest.mark.parametrize("name", ["org/model", "model", "org/Model-1.5_b", "a/b/c"])
def test_every_slash_becomes_two_dashes_and_back(name: str) -> None:
    assert repo_folder(name) == "models--" + name.replace("/", "--")
    assert repo_name(repo_folder(name)) == name


@pytest.mark.parametrize("folder", ["models--", "datasets--org--x", "model", ".locks", "blobs"])
def test_folders_that_hold_no_model_have_no_name(folder: str) -> None:
    assert repo_name(folder) is None


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "a/../b", "a//b", "/abs", "a/", "a\\b", "a\0b", "x" * 97, "models--org--m", "a--b", "./a"],
)
def test_names_that_could_leave_the_cache_are_refused(name: str) -> None:
    assert name_problem(name) is not None


@pytest.mark.parametrize("name", ["x" * 96, "org/model", "..model", "a..b", "Qwen2.5-0.5B"])
def test_odd_but_legal_names_are_accepted(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("revision", ["", "../x", "a/../../b", "/etc", "a//b", "a\\b", "a\0b", "."])
def test_revisions_that_could_leave_the_model_are_refused(revision: str) -> None:
    assert revision_problem(revision) is not None


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("org/model", "org/model"),
        ("phi", "mlx-community/phi"),
        ("MODEL", "org/model"),
        ("gpt2", "gpt2"),
        ("instruct", "mlx-community/phi-Instruct"),
    ],
)
def test_a_text_means_one_model(isolated_cache: IsolatedCache, asked: str, found: str) -> None:
    for name in ("org/model", "mlx-community/phi", "mlx-community/phi-Instruct", "gpt2"):
        plant(isolated_cache.hub, name)
    assert call("show", asked, "--json", env=isolated_cache.env).data["model"]["name"] == found


def documented_examples() -> list[tuple[str, str]]:
    document = Path(__file__).resolve().parent.parent / "docs" / "model-naming-specification.md"
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", document.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_table_of_the_specification_is_true(
    isolated_cache: IsolatedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "mlx-community/phi",
        "mlx-community/phi-Instruct",
        "org/A-Instruct",
        "a/llama-8b",
        "b/Llama-70b",
        "gpt2",
    ):
        plant(isolated_cache.hub, name)
    plant(isolated_cache.hub, "other/qwen", COMMIT_B)
    here = tmp_path / "workspaces"
    (here / "my-model").mkdir(parents=True)
    (here / "my-model" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(here)
    env = {**isolated_cache.env, "MLXK2_WORKSPACE_HOME": str(here)}
    found = []
    for asked, _ in documented_examples():
        answer = call("show", asked, "--json", env=env)
        found.append((asked, answer.error["type"] if answer.code else answer.data["model"]["name"]))
    assert len(found) > 15
    assert found == documented_examples()


def test_a_full_name_is_never_fuzzy(isolated_cache: IsolatedCache) -> None:
    plant(isolated_cache.hub, "org/A-Instruct")
    answer = call("show", "org/A", "--json", env=isolated_cache.env)
    assert answer.error["type"] == "model_not_found"
    assert "org/A-Instruct" in answer.error["hint"]


def test_several_candidates_are_listed_sorted(isolated_cache: IsolatedCache) -> None:
    for name in ("z/qwen", "a/Qwen2", "b/other"):
        plant(isolated_cache.hub, name)
    answer = call("show", "qwen", "--json", env=isolated_cache.env)
    assert answer.error["type"] == "ambiguous_match"
    assert answer.error["matches"] == ["a/Qwen2", "z/qwen"]


@pytest.mark.parametrize("revision", ["b2b2", COMMIT_B, "B2B2B2", "v1.0", "refs/pr/1"])
def test_a_revision_is_a_branch_a_tag_or_a_commit_prefix(isolated_cache: IsolatedCache, revision: str) -> None:
    repo = plant(isolated_cache.hub, "org/m", COMMIT_A, COMMIT_B)
    for ref in ("v1.0", "refs/pr/1"):
        (repo / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(COMMIT_B, encoding="ascii")
    answer = call("show", f"org/m@{revision}", "--json", env=isolated_cache.env)
    assert answer.data["model"]["hash"] == COMMIT_B


@pytest.mark.parametrize("revision", ["b2b", "ffff", "nosuch", "../../x", ""])
def test_an_unknown_revision_lists_the_known_ones(isolated_cache: IsolatedCache, revision: str) -> None:
    plant(isolated_cache.hub, "org/m", COMMIT_A, COMMIT_B)
    answer = call("show", f"org/m@{revision}", "--json", env=isolated_cache.env)
    assert answer.error["type"] == "hash_not_found"
    assert sorted(answer.error["available_hashes"]) == [COMMIT_A[:8], COMMIT_B[:8]]


def test_a_commit_alone_selects_across_models(isolated_cache: IsolatedCache) -> None:
    plant(isolated_cache.hub, "org/one", COMMIT_A)
    plant(isolated_cache.hub, "org/two", COMMIT_B)
    assert call("show", "@b2b2", "--json", env=isolated_cache.env).data["model"]["name"] == "org/two"


def test_refs_main_decides_and_the_newest_complete_snapshot_without_it(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/m", COMMIT_A, COMMIT_B)

    def chosen() -> str:
        return str(call("show", "org/m", "--json", env=isolated_cache.env).data["model"]["hash"])

    assert chosen() == COMMIT_A
    (repo / "refs" / "main").unlink()
    os.utime(repo / "snapshots" / COMMIT_A, (1000, 1000))
    os.utime(repo / "snapshots" / COMMIT_B, (2000, 2000))
    assert chosen() == COMMIT_B
    (repo / "snapshots" / COMMIT_B / "weights.safetensors").symlink_to("nowhere")
    os.utime(repo / "snapshots" / COMMIT_B, (2000, 2000))
    assert chosen() == COMMIT_A


@pytest.mark.parametrize("text", ["../there-is-no-such-folder", "a/../../etc", "models--org--m", "a\\b", "x" * 97])
def test_bad_names_are_errors_with_a_hint_in_every_command(isolated_cache: IsolatedCache, text: str) -> None:
    plant(isolated_cache.hub, "org/m")
    answer = call("show", text, "--json", env=isolated_cache.env)
    assert answer.code == 1
    assert answer.error["type"] == "model_not_found"
    assert answer.error["hint"]


def test_workspaces_are_found_by_path_and_by_name(isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    home = tmp_path / "workspaces"
    (home / "my-model").mkdir(parents=True)
    (home / "my-model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (home / "notes").mkdir()
    env = {**isolated_cache.env, "MLXK2_WORKSPACE_HOME": str(home)}
    for text in ("my-model", "MY-MOD", str(home / "my-model")):
        model = call("show", text, "--json", env=env).data["model"]
        assert (model["source"], model["cached"], model["hash"]) == ("workspace", False, None)
    assert [m["name"] for m in call("list", "--json", env=env).data["models"]] == ["my-model"]
    assert call("show", "my-model", "--json", env=isolated_cache.env).error["type"] == "model_not_found"
    assert call("show", str(home / "absent"), "--json", env=env).error["type"] == "model_not_found"


def test_a_home_path_is_expanded(isolated_cache: IsolatedCache) -> None:
    folder = Path(isolated_cache.env["HOME"]) / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert call("show", "~/mine", "--json", env=isolated_cache.env).data["model"]["name"] == "~/mine"


def test_a_folder_that_is_written_like_a_model_is_pointed_out(
    isolated_cache: IsolatedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    answer = call("show", "models/mine", "--json", env=isolated_cache.env)
    assert answer.error["type"] == "model_not_found"
    assert answer.error["hint"] == "for the folder write ./models/mine"

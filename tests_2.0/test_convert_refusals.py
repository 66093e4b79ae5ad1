"""`convert` ends with a typed error that shows no path of its own finding, and at once, whatever the source or target is."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.call import Result, call, checked
from support.gguf_builder import TinyGguf, tiny_gguf
from support.isolation import IsolatedCache, above_permissions
from support.tiny_model import tiny_model

pytestmark = pytest.mark.mlx_real
FOUR_BITS = ("--bits", "4", "--group-size", "32")


def convert(source: object, target: object, *flags: str, **options: Any) -> Result:
    return call("convert", str(source), str(target), "--json", *flags, **options)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def in_a_process(
    prelude: str, *argv: object, env: dict[str, str] | None = None, cwd: Path | None = None
) -> tuple[Result, str]:
    """Run `prelude`, then convert, then print what `prelude` put into `report`, in a process of its own."""
    code = (
        f"import sys\nreport = lambda: None\n{prelude}\nfrom mlxk2.cli import main\n"
        "code = main(sys.argv[1:])\nprint(report(), file=sys.stderr)\nsys.exit(code)"
    )
    words = ["convert", *(str(word) for word in argv), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.stdout, done.stderr
    return Result(done.returncode, done.stdout, done.stderr, checked(done.stdout, done.returncode)), done.stderr.strip()


def test_a_pipe_in_the_folder_is_never_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "pipes"
    folder.mkdir()
    os.mkfifo(folder / "a.gguf")
    # A process of its own: a wait for a writer would never end.
    answer, _ = in_a_process("", folder, tmp_path / "out")
    assert answer.error["type"] == "model_unhealthy"
    tiny_gguf(folder / "b.gguf")
    assert convert(folder, tmp_path / "out").data["source_format"] == "gguf"


@pytest.mark.parametrize("name", ["model-extra.safetensors", "generation_config.json", "NOTICE"])
def test_a_pipe_beside_sound_weights_is_refused_by_name(tmp_path: Path, name: str) -> None:
    source = tiny_model(tmp_path / "plain")
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    answer, _ = in_a_process("", source, tmp_path / "out", *FOUR_BITS)
    assert answer.error["type"] == "model_unhealthy"
    assert name in answer.error["message"]


@pytest.mark.skipif(above_permissions(), reason="nothing is unreadable for root")
@pytest.mark.parametrize("name", ["folder", "notes.txt", "m.gguf"])
def test_what_cannot_be_read_is_a_typed_error(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    if name == "folder":
        tiny_gguf(tiny_model(source) / "m.gguf")
    else:
        tiny_gguf(source)
    os.chmod(source, 0)
    try:
        result = convert(source, tmp_path / "out")
    finally:
        os.chmod(source, stat.S_IRWXU)
    assert result.error["type"] == ("model_unhealthy" if name == "folder" else "invalid_source")


@pytest.mark.parametrize("missing", ["mlx", "mlx.core", "mlx_lm", "tokenizers"])
@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_a_package_that_is_not_installed_is_named(tmp_path: Path, kind: str, missing: str) -> None:
    is_gguf = kind == "gguf"
    source = tiny_gguf(tmp_path / "m.gguf") if is_gguf else tiny_model(tmp_path / "plain")
    answer, _ = in_a_process(
        f"sys.modules[{missing!r}] = None", source, tmp_path / "out", *(() if is_gguf else FOUR_BITS)
    )
    if missing == ("mlx_lm" if is_gguf else "tokenizers"):
        assert answer.code == 0
    else:
        assert answer.error["type"] == "dependency_missing"
        assert missing in answer.error["message"]
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "many"},
        {"vocab_size": 10**12},
        {"vocab_size": -1},
        {"model_type": "cohere", "vocab_size": 0},
        {"num_hidden_layers": None},
    ],
)
def test_an_absurd_config_is_an_incompatible_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = tiny_model(tmp_path / "plain")
    change_config(source, **changes)
    result = convert(source, tmp_path / "out", *FOUR_BITS)
    assert (result.code, result.error["type"]) == (1, "incompatible_model")
    assert str(tmp_path) not in result.stdout
    assert os.listdir(tmp_path) == ["plain"]


def test_a_tokenizer_that_is_only_code_is_refused(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "plain")
    (source / "tokenizer.json").unlink()
    (source / "tokens.tiktoken").write_text("x", encoding="utf-8")
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}), encoding="utf-8")
    result = convert(source, tmp_path / "out", *FOUR_BITS)
    assert result.error["type"] == "incompatible_model"
    assert "auto_map" in result.error["message"]


def test_only_the_users_own_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(home)}
    tiny_gguf(home / "m.gguf")
    tiny_model(home / "plain")
    assert convert("~/m.gguf", "~/a", env=env).data["target_dir"] == os.path.realpath(home / "a")
    assert convert("~/plain", "~/b", *FOUR_BITS, env=env).code == 0
    assert convert("~nosuchuser/x", "out", env=env).error["type"] == "model_not_found"
    assert convert("~nosuchuser/x.gguf", "out", env=env).error["type"] == "model_not_found"
    assert convert("~/m.gguf", "~nosuchuser/out", env=env).code == 0
    assert (tmp_path / "~nosuchuser" / "out" / "config.json").is_file()


def test_messages_show_a_target_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "filled" / "x").mkdir(parents=True)
    (home / "closed").mkdir(mode=0o500)
    (home / "file").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tiny_gguf(home / "m.gguf")
    targets = ["~/filled", "~/file", "~/file/below", "home/filled", "~/" + "x" * 300, "a\0b"]
    targets += [] if above_permissions() else ["~/closed/x"]
    for target in targets:
        result = convert("~/m.gguf", target, env={"HOME": str(home)})
        assert result.error["type"] == "InvalidTargetError", target
        assert str(tmp_path) not in result.stdout
        assert target.split("\0")[0] in result.error["message"]


def test_a_dangling_gguf_of_a_cached_model_shows_no_path(isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    snapshot = isolated_cache.hub / "models--org--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").symlink_to("../../blobs/none")
    result = convert("org/tiny", "./out", env=isolated_cache.env)
    assert result.error["type"] == "model_unhealthy"
    assert str(tmp_path) not in result.stdout


def test_a_link_out_of_a_workspace_is_refused_by_name(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password", encoding="utf-8")
    source = tiny_model(tmp_path / "plain")
    (source / "texts").mkdir()
    (source / "texts" / "LICENSE").write_text("free", encoding="utf-8")
    (source / "LICENSE").symlink_to("texts/LICENSE")
    (tmp_path / "alias").symlink_to(source)
    assert convert(tmp_path / "alias", tmp_path / "first", *FOUR_BITS).code == 0
    assert (tmp_path / "first" / "LICENSE").read_text(encoding="utf-8") == "free"
    (source / "NOTICE").symlink_to(secret)
    result = convert(source, tmp_path / "out", *FOUR_BITS)
    assert result.error["type"] == "invalid_source"
    assert "NOTICE" in result.error["message"]
    assert str(secret) not in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "goes_along"),
    [("models--org--tiny/blobs/x", True), ("blobs/ab/x", True), ("models--org--other/blobs/x", False), ("../x", False)],
)
def test_links_of_a_cached_model_stay_in_its_blobs(
    isolated_cache: IsolatedCache, tmp_path: Path, place: str, goes_along: bool
) -> None:
    repo = isolated_cache.hub / "models--org--tiny"
    snapshot = tiny_model(repo / "snapshots" / ("a" * 40))
    target = isolated_cache.hub / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("text", encoding="utf-8")
    (snapshot / "NOTICE").symlink_to(target)
    result = convert("org/tiny", tmp_path / "out", *FOUR_BITS, env=isolated_cache.env)
    if goes_along:
        assert result.code == 0, result.stdout
        assert (tmp_path / "out" / "NOTICE").read_text(encoding="utf-8") == "text"
        assert not (tmp_path / "out" / "NOTICE").is_symlink()
    else:
        assert result.error["type"] == "invalid_source"


@pytest.mark.parametrize(("switch", "loads_all"), [("", False), ("1", True)])
def test_the_fast_start_can_be_switched_off(tmp_path: Path, switch: str, loads_all: bool) -> None:
    source = tiny_model(tmp_path / "plain")
    report = "report = lambda: 'transformers' in sys.modules"
    answer, said = in_a_process(report, source, tmp_path / "out", *FOUR_BITS, env={"MLXK2_NO_FAST_START": switch})
    assert answer.code == 0
    assert said.endswith(str(loads_all))


def test_a_volume_that_cannot_flush_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    assert convert(tiny_gguf(tmp_path / "m.gguf"), tmp_path / "out").code == 0
    assert call("health", str(tmp_path / "out"), "--json").data["summary"]["healthy_count"] == 1


# Files end at 64 KiB, and from then on the volume says that it is full.
FULL = """
import resource, shutil
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
import mlx.core as mx
usage = shutil.disk_usage(".")
full = []
save = mx.save_safetensors
def failing(*args, **options):
    full.append(1)
    save(*args, **options)
mx.save_safetensors = failing
shutil.disk_usage = lambda path: usage._replace(free=0 if full else 2**50)
"""


@pytest.mark.parametrize(
    ("prelude", "kind"),
    [(FULL, "insufficient_space"), (FULL.replace("free=0", "free=2**50"), "conversion_failed")],
)
@pytest.mark.parametrize("source", ["gguf", "folder"])
def test_weights_that_cannot_be_written_leave_nothing(tmp_path: Path, source: str, prelude: str, kind: str) -> None:
    if source == "gguf":
        tiny_gguf(tmp_path / "m", TinyGguf(hidden=128))
    else:
        tiny_model(tmp_path / "m")
    flags = () if source == "gguf" else ("--dtype", "float32")
    name = "m" if source == "gguf" else "./m"
    answer, _ = in_a_process(prelude, name, "out", *flags, cwd=tmp_path)
    assert answer.error["type"] == kind
    assert str(tmp_path) not in answer.stdout
    assert os.listdir(tmp_path) == ["m"]

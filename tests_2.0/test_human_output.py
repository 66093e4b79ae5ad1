"""What people see: columns, rows that are hidden and said so, widths, colour, errors with a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.call import call
from support.isolation import IsolatedCache
from support.planting import plant, plant_tiny

from mlxk2.units import format_age, format_count, format_size

ESCAPE = "\x1b["


@pytest.fixture
def cache(isolated_cache: IsolatedCache) -> IsolatedCache:
    """A chat model, a base model, one that is not MLX's, and a broken chat model."""
    plant_tiny(isolated_cache.hub, "mlx-community/Tiny-Instruct-4bit")
    base = plant_tiny(isolated_cache.hub, "mlx-community/Tiny-plain")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (base / name).unlink(missing_ok=True)
    torch = plant(isolated_cache.hub, "org/torch-model") / "snapshots" / ("a1" * 20)
    (torch / "pytorch_model.bin").write_bytes(b"x" * 2_300_000)
    (torch / "tokenizer.json").write_text("{}", encoding="utf-8")
    broken = plant_tiny(isolated_cache.hub, "mlx-community/Broken-Instruct")
    (broken / "model.safetensors").write_bytes(b"")
    return isolated_cache


def lines_of(cache: IsolatedCache, *words: str, **options: object) -> list[str]:
    answer = call(*words, env=cache.env, **options)  # type: ignore[arg-type]
    assert answer.code == 0, answer.stderr
    assert answer.stderr == ""
    return answer.stdout.splitlines()


def test_list_shows_chat_models_and_tells_what_is_hidden(cache: IsolatedCache) -> None:
    lines = lines_of(cache, "list")
    assert lines[0].split() == ["Name", "Hash", "Size", "Modified", "Type"]
    assert [line.split()[0] for line in lines[1:3]] == ["Broken-Instruct", "Tiny-Instruct-4bit"]
    assert lines[1].split()[1] == "a1a1a1a"
    assert lines[-1] == "2 more: --all"


def test_list_verbose_shows_all_mlx_models_with_full_names(cache: IsolatedCache) -> None:
    lines = lines_of(cache, "list", "--verbose")
    assert lines[0].split() == ["Name", "Hash", "Size", "Modified", "Type", "Framework"]
    assert [line.split()[0] for line in lines[1:4]] == [
        "mlx-community/Broken-Instruct",
        "mlx-community/Tiny-Instruct-4bit",
        "mlx-community/Tiny-plain",
    ]
    assert lines[-1] == "1 more: --all"


def test_list_all_shows_everything(cache: IsolatedCache) -> None:
    lines = lines_of(cache, "list", "--all")
    assert lines[0].split()[-1] == "Framework"
    assert len(lines) == 5
    assert "2.3 MB" in lines[-1] and "PyTorch" in lines[-1]


def test_list_health_tells_sound_from_runnable(cache: IsolatedCache) -> None:
    lines = lines_of(cache, "list", "--health", "--all")
    words = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert lines[0].split()[-1] == "Health"
    assert words == {
        "Broken-Instruct": "unhealthy",
        "Tiny-Instruct-4bit": "healthy",
        "Tiny-plain": "healthy",
        "org/torch-model": "healthy*",
    }


def test_list_health_verbose_has_three_columns(cache: IsolatedCache) -> None:
    lines = lines_of(cache, "list", "--health", "--verbose", "--all")
    assert lines[0].split()[-3:] == ["Integrity", "Runtime", "Reason"]
    assert re.search(r"Broken-Instruct .* unhealthy +- +Empty weight files: model.safetensors", lines[1])
    assert re.search(r"torch-model .* healthy +no +Incompatible: PyTorch", lines[-1])


def test_list_of_nothing_says_so(isolated_cache: IsolatedCache) -> None:
    assert lines_of(isolated_cache, "list") == ["No models found."]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_tables_fit_the_terminal(cache: IsolatedCache, width: int) -> None:
    for flags in ([], ["--all"], ["--verbose"], ["--all", "--health", "--verbose"]):
        lines = lines_of(cache, "list", *flags, terminal=True, width=width)
        plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
        assert max(len(line) for line in plain) <= width, plain
        assert plain[0].startswith("Name ")
        assert "TinyInstruct4bit" in re.sub(r"[^A-Za-z0-9]", "", "".join(line.split("  ")[0] for line in plain)), plain


def test_no_colour_and_no_cursor_movement_outside_a_terminal(cache: IsolatedCache) -> None:
    for words in (["list", "--health"], ["health"], ["show", "Tiny-plain"]):
        assert ESCAPE not in "\n".join(lines_of(cache, *words))


def test_colour_on_a_terminal_unless_refused(cache: IsolatedCache) -> None:
    assert ESCAPE in "\n".join(lines_of(cache, "health", terminal=True))
    plain = call("health", env={**cache.env, "NO_COLOR": "1"}, terminal=True)
    assert ESCAPE not in plain.stdout
    forced = call("health", env={**cache.env, "FORCE_COLOR": "1"})
    assert ESCAPE in forced.stdout


def test_health_counts_then_lists(cache: IsolatedCache) -> None:
    lines = lines_of(cache, "health")
    assert lines[0] == "Summary: total 4, healthy 3, unhealthy 1"
    assert lines[-1] == "unhealthy mlx-community/Broken-Instruct — Empty weight files: model.safetensors"
    assert "  empty_weight_file: " in lines_of(cache, "health", "--verbose")[-1]


def test_show_has_its_lines_in_order(cache: IsolatedCache) -> None:
    lines = lines_of(cache, "show", "Broken-Instruct")
    assert lines[0] == "Model: mlx-community/Broken-Instruct@a1a1a1a"
    assert [line.split(":")[0] for line in lines[1:7]] == ["Framework", "Type", "Size", "Modified", "Health", "Reason"]
    assert "Metadata:" in lines
    assert "Files:" in lines_of(cache, "show", "Tiny-plain", "--files")
    assert "Config:" in lines_of(cache, "show", "Tiny-plain", "--config")


def test_errors_are_two_lines_on_stderr(isolated_cache: IsolatedCache) -> None:
    answer = call("show", "nosuch", env=isolated_cache.env)
    assert (answer.code, answer.stdout) == (1, "")
    assert re.fullmatch(r"error: model 'nosuch' is not in the cache\nhint: .+\n", answer.stderr)


def test_usage_errors_name_the_way_out(isolated_cache: IsolatedCache) -> None:
    answer = call("lsit", env=isolated_cache.env)
    assert (answer.code, answer.stdout) == (2, "")
    assert answer.stderr == "error: 'lsit' is no command\nhint: did you mean 'mlxk2 list'?\n"


def test_text_from_models_cannot_steer_the_terminal(isolated_cache: IsolatedCache) -> None:
    folder = plant(isolated_cache.hub, "mlx-community/evil\x1b[2J-Instruct") / "snapshots" / ("a1" * 20)
    (folder / "config.json").write_text('{"model_type": "x\\u001b[31m\\u0007"}', encoding="utf-8")
    for words in (["list", "--all", "--verbose", "--health"], ["health", "--verbose"]):
        answer = call(*words, env={**isolated_cache.env, "NO_COLOR": "1"}, terminal=True, width=200)
        assert "\x1b" not in answer.stdout and "\x07" not in answer.stdout
    shown = call("show", str(folder), "--config", env={**isolated_cache.env, "NO_COLOR": "1"})
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1.0KB"), (2_345_678_901, "2.3GB"), (999_950, "1.0MB"), (10**18, "1000.0PB")],
)
def test_sizes_are_decimal_with_one_digit(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (-5, "just now"), (59, "just now"), (60, "1 minute ago"), (3599, "59 minutes ago"), (7200, "2 hours ago"),
        (86400, "1 day ago"), (86400 * 45, "1 month ago"), (86400 * 800, "2 years ago"),
    ],
)  # fmt: skip
def test_ages_are_in_one_unit(age: float, text: str) -> None:
    assert format_age(age) == text


def test_counts_are_short() -> None:
    assert [format_count(n) for n in (999, 134_515_008, 8_030_261_248)] == ["999", "134.5M", "8.0B"]


def test_modified_is_measured_from_now(cache: IsolatedCache) -> None:
    import os

    folder = cache.hub / "models--mlx-community--Tiny-plain"
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1_000_000, 1_000_000))
    lines = lines_of(cache, "show", "Tiny-plain", now=1_000_000 + 3 * 86400.0)
    assert "Modified: 3 days ago" in lines


def test_paths_appear_only_when_asked_for(cache: IsolatedCache, tmp_path: Path) -> None:
    for words in (["list", "--all"], ["show", "Tiny-plain"], ["health"]):
        assert str(tmp_path) not in "\n".join(lines_of(cache, *words))
        assert str(tmp_path) not in call(*words, "--json", env=cache.env).stdout
    path = call("show", "Tiny-plain", "--path", "--json", env=cache.env).data["path"]
    assert Path(path).is_dir()

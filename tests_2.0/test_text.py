"""What models and files say cannot play with a terminal: no control character and no bidi override gets through."""

from __future__ import annotations

from pathlib import Path

from support.call import call
from support.isolation import IsolatedCache
from support.tiny_model import scripted_model

from mlxk2.text import one_line, printable

OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def test_an_answer_on_a_terminal_keeps_lines_and_tabs_and_nothing_else_that_acts(
    tmp_path: Path, isolated_cache: IsolatedCache
) -> None:
    text = "é\t1\n\x1b[2J \u202egnp.exe\u2066 \x9b2J end"
    folder = scripted_model(tmp_path / "m", text)
    shown = call("run", str(folder), "hi", "--temperature", "0", env=isolated_cache.env, terminal=True)
    assert shown.stdout == "é\t1\n\ufffd[2J \ufffdgnp.exe\ufffd \ufffd2J end\n"
    piped = call("run", str(folder), "hi", "--temperature", "0", env=isolated_cache.env)
    assert piped.stdout == text + "\n"


def test_the_name_of_a_file_is_one_printable_line_everywhere(tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    folder = scripted_model(tmp_path / "m", "x")
    (folder / "a\u202eb\nc\x1b").write_bytes(b"x")
    answer = call("show", str(folder), "--files", "--json", env=isolated_cache.env)
    assert "a\ufffdb c\ufffd" in [file["name"] for file in answer.data["files"]]
    shown = call("show", str(folder), "--files", env=isolated_cache.env)
    assert "  a\ufffdb c\ufffd  " in shown.stdout


def test_every_override_is_replaced() -> None:
    assert printable(OVERRIDES) == one_line(OVERRIDES) == "\ufffd" * len(OVERRIDES)
    assert one_line("naïve 東京 🦊\n") == "naïve 東京 🦊 "

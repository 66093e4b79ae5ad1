"""The tools of `make check` notice what they are for, and the tests keep the rules for tests."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = Path(__file__).resolve().parent
OWN_NAME_PATCHED = re.compile(r"(?:patch(?:\.object)?|setattr|delattr|setitem)\(\s*[\"']?mlxk2\b")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_long_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("x = 1\n" * 401, encoding="utf-8")
    (tmp_path / "fits.py").write_text("x = 1\n" * 400, encoding="utf-8")
    (problem,) = script("check_sizes").problems_of([tmp_path / "long.py", tmp_path / "fits.py"])
    assert "long.py: 401 lines, 400 at most" in problem


@pytest.mark.parametrize(
    ("line", "problems"),
    [
        ("x = 1  # noqa: E501 - a quotation", 0),
        ("x = 1  # noqa: E501", 1),
        ("x = 1  # noqa", 1),
        ("x = 1  # noqa - because", 1),
    ],
)
def test_an_exception_needs_its_rule_and_its_reason(tmp_path: Path, line: str, problems: int) -> None:
    (tmp_path / "file.py").write_text(line + "\n", encoding="utf-8")
    assert len(script("check_sizes").problems_of([tmp_path / "file.py"])) == problems


def test_six_exceptions_are_too_many(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("x = 1  # noqa: E501 - a quotation\n" * 6, encoding="utf-8")
    (problem,) = script("check_sizes").problems_of([tmp_path / "file.py"])
    assert problem.startswith("6 lint exceptions, 5 at most")


def test_a_table_that_differs_from_the_code_is_rewritten_and_its_surroundings_stay() -> None:
    make_docs = script("make_docs")
    text = (
        "before\n<!-- generated: exit-codes -->\nold\n<!-- end -->\nafter `<!-- generated: flags NAME -->` in words\n"
    )
    new = make_docs.regenerated(text)
    assert new.startswith("before\n<!-- generated: exit-codes -->\n| code | meaning |")
    assert new.endswith("<!-- end -->\nafter `<!-- generated: flags NAME -->` in words\n")
    assert "old" not in new
    assert make_docs.regenerated(new) == new


def find_python(**environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environ}
    command = ["sh", str(ROOT / "scripts" / "find_python.sh")]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_python_that_is_named_and_useless_is_refused_in_words(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\necho 3.8\n", encoding="utf-8")
    old.chmod(0o755)
    for path, reason in ((tmp_path / "missing", "does not start"), (old, "is Python 3.8; MLX Knife needs 3.9 to 3.13")):
        result = find_python(PYTHON=str(path))
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == f"error: PYTHON={path} {reason}\n"


def test_python_that_cannot_make_an_environment_is_refused_with_the_package_to_install(tmp_path: Path) -> None:
    split = tmp_path / "python-split"
    split.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; *) echo 3.12 ;; esac\n', encoding="utf-8")
    split.chmod(0o755)
    result = find_python(PYTHON=str(split))
    assert (result.returncode, result.stdout) == (1, "")
    assert "cannot make a virtual environment" in result.stderr
    assert "python3.12-venv" in result.stderr


@pytest.mark.parametrize("word", ["3.8", "--fast", "3.14"])
def test_multi_python_refuses_what_it_does_not_know(word: str) -> None:
    command = ["sh", str(ROOT / "test-multi-python.sh"), word]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert word in result.stderr


def test_only_the_engine_and_convert_name_mlx_in_an_import_by_string() -> None:
    """What import-linter cannot see."""
    named = re.compile(r"import_module\(\s*f?[\"'](?:mlx|mlx_lm)\b")
    allowed = re.compile(r"runner/mlx_backend/\w+\.py|convert/mlx_weights\.py")
    package = ROOT / "mlxk2"
    found = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if named.search(path.read_text("utf-8"))
    }
    assert found and all(allowed.fullmatch(name) for name in found)


def sleeps_outside_loops(node: ast.AST) -> list[int]:
    """Lines of `sleep(...)` that no `while` encloses: a wait for a condition polls, a bare sleep hopes."""
    found: list[int] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and ast.unparse(child.func).split(".")[-1] == "sleep":
            found.append(child.lineno)
        if not isinstance(child, ast.While):
            found += sleeps_outside_loops(child)
    return found


def test_no_test_patches_names_of_the_package_or_sleeps() -> None:
    """Fakes belong at the ports (streams, clock, environment); a sleep is no synchronisation."""
    offences = []
    for path in TESTS.rglob("*.py"):
        if path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8")
        lines = [number for number, line in enumerate(text.splitlines(), start=1) if OWN_NAME_PATCHED.search(line)]
        offences += [f"{path.relative_to(TESTS)}:{number}" for number in lines + sleeps_outside_loops(ast.parse(text))]
    assert not offences


def test_the_rule_above_would_see_a_sleep() -> None:
    assert sleeps_outside_loops(ast.parse("import time\ntime.sleep(1)\nwhile True:\n    time.sleep(1)\n")) == [2]


@pytest.mark.parametrize(
    "line", ['monkeypatch.setattr( "mlxk2.errors.X", 1)', 'patch( "mlxk2.cli.main")', "setattr(mlxk2.cli, 'x', 1)"]
)
def test_the_rule_above_would_see_a_patch(line: str) -> None:
    assert OWN_NAME_PATCHED.search(line)


def test_no_module_of_the_package_imports_itself_by_way_of_others() -> None:
    """Lazy imports count; the layers say nothing of what lies within one of them."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("mlxk2", exclude_type_checking_imports=True, cache_dir=None)
    cycles = []
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            chain = graph.find_shortest_chain(importer=imported, imported=module)
            if chain is not None:
                cycles.append(" -> ".join((module, *chain)))
    assert cycles == []

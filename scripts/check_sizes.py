"""Hold the package to its sizes: files of at most 400 lines, and few exceptions to the lint rules, each with a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 400
MAX_EXCEPTIONS = 5
ROOT = Path(__file__).resolve().parent.parent
GENERATED = "mlxk2/schema/compiled"
# The marker, its rules, and then why.
EXCEPTION = re.compile(r"#\s*noqa\b(?P<rules>:\s*[A-Z]+[0-9]+(?:\s*,\s*[A-Z]+[0-9]+)*)?(?P<reason>.*)$")


def package_files() -> list[Path]:
    """List the package's modules, new ones included, without what git ignores and what is generated."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "mlxk2"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = set(listed.stdout.splitlines())
    else:  # an unpacked archive has no git
        names = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mlxk2").rglob("*.py")}
    wanted = (name for name in names if name.endswith(".py") and not name.startswith(GENERATED))
    return sorted(ROOT / name for name in wanted if (ROOT / name).exists())


def problems_of(files: list[Path]) -> list[str]:
    """Say what is too long, and which exceptions are too many or give no reason."""
    problems, exceptions = [], []
    for path in files:
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MAX_LINES:
            problems.append(f"{name}: {len(lines)} lines, {MAX_LINES} at most")
        for number, line in enumerate(lines, start=1):
            found = EXCEPTION.search(line)
            if found:
                exceptions.append(f"{name}:{number}")
                if not found["rules"] or not re.search(r"\w{3}", found["reason"]):
                    problems.append(f"{name}:{number}: write `# noqa: RULE - reason`")
    if len(exceptions) > MAX_EXCEPTIONS:
        problems.append(f"{len(exceptions)} lint exceptions, {MAX_EXCEPTIONS} at most: {', '.join(exceptions)}")
    return problems


def main() -> int:
    """Print every problem; 1 if there is one."""
    files = package_files()
    problems = problems_of(files)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"sizes: {len(files)} files, each at most {MAX_LINES} lines")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""The service files in docs/SERVER.md are what launchd and systemd can read, and start a server that the program knows."""

from __future__ import annotations

import configparser
import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from mlxk2.cli.command_line import CommandLine
from mlxk2.cli.parser import parse
from mlxk2.cli.registry import BY_NAME

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "SERVER.md"
# Seconds that a server may take to end after SIGTERM, as the document says.
END_S = 5

# Keys that launchd knows. Source: its manual page, launchd.plist(5).
LAUNCHD_KEYS = frozenset(
    (
        "Label", "Disabled", "UserName", "GroupName", "inetdCompatibility", "LimitLoadToHosts", "LimitLoadFromHosts",
        "LimitLoadToSessionType", "Program", "ProgramArguments", "EnableGlobbing", "EnableTransactions", "KeepAlive", "RunAtLoad",
        "RootDirectory", "WorkingDirectory", "EnvironmentVariables", "Umask", "TimeOut", "ExitTimeOut", "ThrottleInterval",
        "InitGroups", "WatchPaths", "QueueDirectories", "StartOnMount", "StartInterval", "StartCalendarInterval",
        "StandardInPath", "StandardOutPath", "StandardErrorPath", "Debug", "WaitForDebugger", "SoftResourceLimits",
        "HardResourceLimits", "Nice", "ProcessType", "AbandonProcessGroup", "LowPriorityIO", "LowPriorityBackgroundIO",
        "LaunchOnlyOnce", "MachServices", "Sockets", "LaunchEvents", "SessionCreate",
    )
)  # fmt: skip


def block(language: str) -> str:
    """Return the one block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def plist() -> dict[str, Any]:
    found: dict[str, Any] = plistlib.loads(block("xml").encode())
    return found


@pytest.fixture
def unit() -> configparser.RawConfigParser:
    found = configparser.RawConfigParser(strict=True)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(block("ini"))
    return found


def check_command(words: list[str]) -> Namespace:
    """Hold a command line to what both files promise; return what the program makes of it."""
    assert Path(words[0]).is_absolute() and Path(words[0]).name == "mlxk2"
    line = CommandLine.split(words[1:])
    assert line.verb == "serve"
    args = parse(BY_NAME["serve"], line)
    # Others on the machine can read a command line.
    assert not args.api_key and Path(args.api_key_file).is_absolute()
    assert args.log_json and args.idle_timeout > 0 and args.model
    return args


def test_launchd_gets_a_property_list_of_keys_that_it_knows(plist: dict[str, Any]) -> None:
    assert f"`~/Library/LaunchAgents/{plist['Label']}.plist`" in DOCUMENT.read_text(encoding="utf-8")
    check_command(plist["ProgramArguments"])
    assert plist["RunAtLoad"] is True
    assert plist["KeepAlive"] == {"SuccessfulExit": False}
    assert plist["ExitTimeOut"] > END_S
    assert plist["ProcessType"] == "Interactive"
    assert plist["Umask"] == 0o077
    assert Path(plist["StandardOutPath"]).is_absolute() and Path(plist["StandardErrorPath"]).is_absolute()
    assert set(plist) <= LAUNCHD_KEYS


def test_systemd_gets_a_unit_that_starts_the_same_server(
    unit: configparser.RawConfigParser, plist: dict[str, Any]
) -> None:
    service = dict(unit["Service"])
    by_systemd = check_command(shlex.split(service["ExecStart"].replace("%h", "/Users/you")))
    assert by_systemd == check_command(plist["ProgramArguments"])
    assert service["Restart"] == "on-failure" and service["RestartPreventExitStatus"] == "2"
    assert int(service["TimeoutStopSec"]) > END_S
    # The server ends its engine itself; it lives on where the kernel ends an engine.
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")
    assert unit["Install"]["WantedBy"] == "default.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    file = tmp_path / "mlxk2-serve.service"
    # It looks whether the program is there.
    file.write_text(block("ini").replace("%h/venv/bin/mlxk2", sys.executable), encoding="utf-8")
    words = ["systemd-analyze", "verify", "--user", "--man=no", str(file)]
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert (done.returncode, done.stderr) == (0, "")

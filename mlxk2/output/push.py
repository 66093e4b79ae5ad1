"""The words of `push` for people, from its payload alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxk2.output.view import View
from mlxk2.text import one_line
from mlxk2.units import format_size


def render_push(data: Mapping[str, Any], options: Mapping[str, Any], view: View) -> None:
    """Print one line that says what happened, and with --verbose where to see it."""
    verbose = bool(options.get("verbose"))
    url = f" {data['commit_url'] or data['repo_url']}" if verbose else ""
    lines = [f"push (experimental): {data['repo_id']}@{one_line(data['branch'])} — {_what(data)}{url}"]
    where = lines[0].split(" — ", 1)[0]
    if data.get("would_create_repo"):
        lines.append(f"{where} — dry-run: would create the private repository")
    if data.get("would_create_branch"):
        lines.append(f"{where} — dry-run: would create the branch")
    if verbose and "dry_run" in data:
        lines += _files(data)
    view.write("\n".join(lines) + "\n")


def _what(data: Mapping[str, Any]) -> str:
    if "dry_run" in data:
        return "dry-run: " + ("no changes" if data["no_changes"] else _counts(data["dry_run_summary"]))
    if data["no_changes"]:
        return "no changes"
    if data["commit_sha"] is not None:
        return f"commit {data['commit_sha'][:7]} ({_counts(data['change_summary'])})"
    return f"check-only: {_health(data['workspace_health'])}"


def _counts(summary: Mapping[str, Any]) -> str:
    modified = "?" if summary["modified"] is None else summary["modified"]
    return f"+{summary['added']} ~{modified} -{summary['deleted']}"


def _health(health: Mapping[str, Any]) -> str:
    errors = sum(anomaly["severity"] == "error" for anomaly in health["anomalies"])
    warnings = len(health["anomalies"]) - errors
    words = ["healthy"] if health["healthy"] else [_number(errors, "error")]
    words += [_number(warnings, "warning")] if warnings else []
    words += [_number(health["files_count"], "file"), format_size(health["total_bytes"], " ")]
    return ", ".join(words)


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _files(data: Mapping[str, Any]) -> list[str]:
    signs = (("+", "added"), ("~", "modified"), ("-", "deleted"))
    lines = []
    for sign, kind in signs:
        names = data[f"{kind}_files"]
        lines += [f"  {sign} {one_line(name)}" for name in names]
        more = (data["dry_run_summary"][kind] or 0) - len(names)
        lines += [f"  {sign} … and {more} more"] if more > 0 else []
    return lines

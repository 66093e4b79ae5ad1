"""The table of `list`: which rows and columns people see, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Callable

from mlxk2.output.view import View
from mlxk2.text import one_line
from mlxk2.units import format_age, format_size

Model = Mapping[str, Any]
Options = Mapping[str, Any]
Column = tuple[str, Callable[[Model], str]]

_WRAPPED = ("Name", "Reason")
_LEAST_WRAPPED = 12
_GAP = 2
_GIVEN_UP = ("Modified", "Hash", "Type", "Framework", "Runtime", "Size", "Reason", "Integrity", "Health")

_HEALTH_STYLES = {"healthy": "green", "healthy*": "yellow", "unhealthy": "red"}


def render_list(data: Mapping[str, Any], options: Options, view: View) -> None:
    """Print the models that the flags ask for, and how many others there are."""
    models = data["models"]
    rows = [model for model in models if is_shown(model, options)]
    if rows:
        view.write_rich(_table(rows, options, view))
    elif not models:
        view.write("No models found.\n")
    hidden = len(models) - len(rows)
    if hidden:
        view.write(f"{'' if not rows else chr(10)}{hidden} more: --all\n")


def is_shown(model: Model, options: Options) -> bool:
    """Without flags people see MLX chat models, with --verbose all MLX models, with --all everything."""
    if options.get("all"):
        return True
    is_mlx = model["framework"] == "MLX"
    return is_mlx and (bool(options.get("verbose")) or model["model_type"] == "chat")


def short_name(name: str) -> str:
    """Drop the default organisation."""
    prefix = "mlx-community/"
    return name[len(prefix) :] if name.startswith(prefix) else name


def health_word(model: Model) -> str:
    """Sound files that cannot be run are "healthy*"."""
    runs = model["health"] == "unhealthy" or model["runtime_compatible"]
    return str(model["health"]) if runs else "healthy*"


def modified(model: Model, now: float) -> str:
    """Say how long ago the model changed."""
    if model["last_modified"] is None:
        return "-"
    moment = datetime.strptime(model["last_modified"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    return format_age(now - moment.timestamp())


def _columns(options: Options, view: View) -> list[Column]:
    verbose = bool(options.get("verbose"))
    columns: list[Column] = [
        ("Name", lambda m: one_line(m["name"] if verbose else short_name(m["name"]))),
        ("Hash", lambda m: (m["hash"] or "-")[:7]),
        ("Size", lambda m: format_size(m["size_bytes"], " ")),
        ("Modified", lambda m: modified(m, view.now)),
        ("Type", lambda m: m["model_type"]),
    ]
    if verbose or options.get("all"):
        columns.append(("Framework", lambda m: m["framework"]))
    if options.get("health") and verbose:
        columns.append(("Integrity", lambda m: m["health"]))
        columns.append(("Runtime", _runtime_word))
        columns.append(("Reason", lambda m: one_line(m["reason"] or "-")))
    elif options.get("health"):
        columns.append(("Health", health_word))
    return columns


def _runtime_word(model: Model) -> str:
    if model["health"] != "healthy":
        return "-"
    return "yes" if model["runtime_compatible"] else "no"


def _fitting(columns: list[Column], rows: list[Model], width: int | None) -> list[Column]:
    """Leave out columns until the names have room: what is given up first tells least."""
    for title in _GIVEN_UP:
        if width is None or width >= sum(_least_width(column, rows) + _GAP for column in columns) - _GAP:
            break
        columns = [column for column in columns if column[0] != title]
    return columns


def _least_width(column: Column, rows: list[Model]) -> int:
    title, cell = column
    widest = max(len(cell(model)) for model in rows)
    return max(len(title), min(widest, _LEAST_WRAPPED) if title in _WRAPPED else widest)


def _table(rows: list[Model], options: Options, view: View) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _fitting(_columns(options, view), rows, view.width)
    for title, _ in columns:
        wraps = title in _WRAPPED
        table.add_column(
            title,
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
            justify="right" if title == "Size" else "left",
            min_width=_LEAST_WRAPPED if wraps else None,
        )
    for model in rows:
        cells = [cell(model) for _, cell in columns]
        table.add_row(*(Text(text, style=_HEALTH_STYLES.get(text, "")) for text in cells))
    return table

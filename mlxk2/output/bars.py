"""Progress of a long transfer on a terminal: a bar for the whole, and one for each large file on its way."""

from __future__ import annotations

from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mlxk2 import events
from mlxk2.text import one_line

_MOST_FILES = 8
_LONGEST_NAME = 40
_REDRAWS_A_SECOND = 10


class Bars:
    """Takes events; draws while it is entered, and leaves nothing on the screen but warnings."""

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        console = Console(
            file=stream,
            force_terminal=True,
            no_color=not color,
            color_system="standard" if color else None,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            refresh_per_second=_REDRAWS_A_SECOND,
        )
        self._tasks: dict[str | None, TaskID] = {}
        self._moving: set[str | None] = set()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Warned):
            self._progress.console.print(f"warning: {one_line(event.message)}", soft_wrap=True)
        elif isinstance(event, events.Started):
            self._task(None, one_line(event.label))
        elif isinstance(event, events.Progress):
            self._move(event)

    def _move(self, event: events.Progress) -> None:
        is_done = event.done >= event.total
        is_one_too_many = event.name not in self._tasks and len(self._tasks) > _MOST_FILES
        if event.name is not None and (is_done or is_one_too_many):
            self._drop(event.name)
            return
        task = self._task(event.name, one_line(event.name or "all files"))
        if event.name in self._moving:
            self._progress.update(task, completed=event.done)
        else:
            # What was there before says nothing about the speed.
            self._progress.reset(task, total=event.total or None, completed=event.done)
            self._moving.add(event.name)

    def _task(self, name: str | None, label: str) -> TaskID:
        if name not in self._tasks:
            short = label if len(label) <= _LONGEST_NAME else "…" + label[-_LONGEST_NAME + 1 :]
            self._tasks[name] = self._progress.add_task(short, total=None)
        return self._tasks[name]

    def _drop(self, name: str) -> None:
        self._moving.discard(name)
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)

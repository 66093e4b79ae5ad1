"""The output of a batch: a file with one envelope a line. It grows by whole lines, and a batch may go on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from mlxk2.aside import written_aside
from mlxk2.errors import OutputFailed, UsageError
from mlxk2.operations.batch_ledger import Ledger
from mlxk2.operations.batch_prompts import Id, is_id
from mlxk2.store.model_ref import WORKSPACE, ModelRef

# How every line begins, which no other file does: half a line is taken away only where it is half of one of ours.
_BEGINNINGS = (
    b'{"status": "success", "command": "run", "data": {"id": ',
    b'{"status": "error", "command": "run", "data": null, "error": {"type": ',
)
_KEYS = {"status", "command", "data", "error"}
_OTHER_FILE = "mlxk2 run MODEL --input prompts.jsonl --output answers.jsonl"


class AskedFor(NamedTuple):
    """What an answer is an answer to: fingerprints of the prompt, and of the options that shape all answers."""

    prompt: str
    options: str


class _Written(NamedTuple):
    """One line of a file of answers. `model` is None where there is no answer, `asked` where the line has none."""

    id: Id
    model: str | None
    asked: AskedFor | None = None


@dataclass(frozen=True)
class AnswersState:
    """What a file of answers holds. `complete_bytes`: up to the end of its last whole line.

    `lacks_end`: the last line is whole but for its end. `outdated`: how many lines are failures that are tried again,
    or answers to `changed` prompts that are another one now. `other_options`: how many answers are kept that were
    asked for with other options.
    """

    size_bytes: int = 0
    complete_bytes: int = 0
    lacks_end: bool = False
    outdated: int = 0
    changed: int = 0
    other_options: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the answers that are there."""
        found = []
        if self.changed:
            found.append(f"{_answers(self.changed)} to another prompt than the input has now, and asked for again")
        if self.other_options:
            found.append(
                f"{_answers(self.other_options)} kept that had other options (system text, sampling, limits or form):"
                " name another --output to ask all of them again"
            )
        return tuple(found)


class AnswersFile:
    """A file that answers are appended to, one whole line at a time, by one process at a time."""

    def __init__(self, path: Path, state: AnswersState, ledger: Ledger) -> None:
        self._path = path
        self._state = state
        self._ledger = ledger
        self._handle = -1
        self._size = 0
        self._is_new = False

    @classmethod
    def look(cls, path: Path, source: Path, ref: ModelRef, ledger: Ledger, options: str = "") -> AnswersState:
        """Read what is there, and note which prompts have an answer; `options`: the fingerprint of what is asked.

        Raises: UsageError where `path` cannot be the file of answers to the prompts in `source` by the model `ref`.
        """
        if not path.exists():
            if not path.parent.is_dir():
                raise UsageError(f"--output: there is no folder {path.parent}", hint=_OTHER_FILE)
            return AnswersState()
        if not path.is_file():
            raise UsageError(f"--output: {path} is no file", hint=_OTHER_FILE)
        if path.samefile(source):
            raise UsageError("--output is the file of prompts itself", hint=_OTHER_FILE)
        try:
            return _read(path, ref, ledger, options)
        except OSError as error:
            raise UsageError(f"--output: {path} cannot be read: {error.strerror}", hint=_OTHER_FILE) from error

    def __enter__(self) -> AnswersFile:
        """Open the file and bring it in order: half a line at its end and outdated failures go.

        Raises: OutputFailed where it cannot be written, or somebody else writes it.
        """
        with ExitStack() as undo:
            undo.callback(self._close)
            try:
                self._open()
                if self._state.outdated:
                    self._leave_out_outdated()
                else:
                    self._repair()
            except OSError as error:
                raise self._failed(error) from error
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._is_new and not self._size:
            # Nothing came of it: what was not there before is not there now.
            with suppress(OSError):
                os.unlink(self._path)
        self._close()

    def append(self, line: str) -> None:
        """Add a line, which is in the system's hands when this returns. Raises: OutputFailed; nothing is added then."""
        data = line.encode("utf-8") + b"\n"
        try:
            written = os.write(self._handle, data)
            while written < len(data):
                written += os.write(self._handle, data[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, self._size)
            raise self._failed(error) from error
        self._size += len(data)

    def _open(self) -> None:
        self._is_new = not self._path.exists()
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        found = os.fstat(self._handle)
        is_ours = _locked(self._handle) and os.path.samestat(found, self._path.stat())
        if not is_ours or found.st_size != self._state.size_bytes:
            raise OutputFailed(
                f"another process writes to {self._path}",
                hint=_OTHER_FILE,
                file=str(self._path),
            )
        self._size = self._state.size_bytes

    def _repair(self) -> None:
        if self._size > self._state.complete_bytes:
            os.ftruncate(self._handle, self._state.complete_bytes)
            self._size = self._state.complete_bytes
        if self._state.lacks_end:
            os.write(self._handle, b"\n")
            self._size += 1

    def _leave_out_outdated(self) -> None:
        """Put a file in its place that lacks them, all at once."""
        target = self._path.resolve()
        earlier, self._handle = self._handle, -1
        # The earlier one stays locked until the other, locked as well, is in its place.
        with open(earlier, "rb"), written_aside(target) as fresh:
            self._handle = os.open(fresh, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            _locked(self._handle)
            with open(self._handle, "wb", closefd=False) as copy:
                for raw, written in _lines(target):
                    if written is not None and not _is_outdated(written, self._ledger):
                        copy.write(raw if raw.endswith(b"\n") else raw + b"\n")
        self._size = os.fstat(self._handle).st_size

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _failed(self, error: OSError) -> OutputFailed:
        kept = "; what was written is kept, and the same command goes on from there" if self._size else ""
        return OutputFailed(
            f"{self._path} cannot be written: {error.strerror or error}{kept}",
            hint=None if self._size else _OTHER_FILE,
            file=str(self._path),
        )


def _answers(count: int) -> str:
    return "1 answer is" if count == 1 else f"{count} answers are"


def _is_outdated(written: _Written, ledger: Ledger) -> bool:
    """Whether a line is to go: a failure that is tried again, or an answer to what is no longer asked."""
    content = ledger.content(written.id)
    if content is None:
        return False
    return written.model is None or (written.asked is not None and written.asked.prompt != content)


def _read(path: Path, ref: ModelRef, ledger: Ledger, options: str) -> AnswersState:
    complete, lacks_end, outdated, changed, other_options = 0, False, 0, 0, 0
    for number, (raw, written) in enumerate(_lines(path), start=1):
        is_whole = raw.endswith(b"\n")
        if written is None:
            if is_whole or not _begins_well(raw):
                raise UsageError(f"--output: {path} is no file of answers (line {number})", hint=_OTHER_FILE)
            break
        complete += len(raw)
        lacks_end = not is_whole
        if written.model is not None and not _is_same_model(ref, written.model):
            raise UsageError(f"--output: {path} has answers of {written.model}", hint=_OTHER_FILE)
        if _is_outdated(written, ledger):
            outdated += 1
            changed += written.model is not None
        elif written.model is not None and ledger.note_answer(written.id):
            other_options += written.asked is not None and written.asked.options != options
    return AnswersState(path.stat().st_size, complete, lacks_end, outdated, changed, other_options)


def _is_same_model(ref: ModelRef, name: str) -> bool:
    """Whether answers of `name` are of this model; a folder may be spelled in many ways."""
    return name == ref.name or (ref.kind == WORKSPACE and Path(name).name == ref.path.name)


def _lines(path: Path) -> Iterator[tuple[bytes, _Written | None]]:
    """Yield each line, and what it says; None where it is none of ours."""
    with path.open("rb") as file:
        if not _begins_well(file.read(max(map(len, _BEGINNINGS)))):
            # Whatever this is, its first line may be as long as the file.
            yield b"\n", None
            return
        file.seek(0)
        for raw in file:
            yield raw, _written(raw)


def _begins_well(raw: bytes) -> bool:
    return any(raw.startswith(beginning) or beginning.startswith(raw) for beginning in _BEGINNINGS)


def _written(raw: bytes) -> _Written | None:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or set(answer) != _KEYS or answer["command"] != "run":
        return None
    part: Any = answer["data"] if answer["status"] == "success" else answer["error"]
    if not isinstance(part, dict) or not is_id(part.get("id")):
        return None
    if answer["status"] != "success":
        return _Written(part["id"], None)
    return _Written(part["id"], str(part.get("model")), _asked(part.get("asked")))


def _asked(value: Any) -> AskedFor | None:
    given = value if isinstance(value, dict) else {}
    prompt, options = given.get("prompt"), given.get("options")
    return AskedFor(prompt, options) if isinstance(prompt, str) and isinstance(options, str) else None


def _locked(handle: int) -> bool:
    """Lock an open file; True also where its file system has no locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True

"""What a model is and whether it will run here, from a list of its files and a few reads: before it is fetched.

A stand-in of the folder is laid out (texts as they are, weights as sparse files behind their true headers), and the
usual inspection looks at it, so that no rule is written twice. Knows no network: the caller reads.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from mlxk2.errors import MlxkError
from mlxk2.inspection.describe import Inspection, inspect_model
from mlxk2.inspection.framework import PYTORCH, UNKNOWN
from mlxk2.inspection.gguf_types import MAGIC
from mlxk2.inspection.memory import MemoryNeed, memory_need
from mlxk2.inspection.quantization import Quantization
from mlxk2.store.model_ref import CACHE, ModelRef

# (path, start, length) -> bytes; fewer where the file ends before. Called from several threads.
Read = Callable[[str, int, int], bytes]

_TEXTS = ("config.json", "tokenizer_config.json", "generation_config.json", "chat_template.json", "chat_template.jinja")
_LARGEST_TEXT = 16 * 2**20
_CARD = "README.md"
_CARD_BYTES = 16 * 1024
_INDEX = ".index.json"
_HEADER = ".safetensors"
_FIRST_READ = 64 * 1024
_LARGEST_HEADER = 25 * 2**20
# Of all texts, and of all headers.
_MOST_BYTES = 64 * 2**20
_MOST_HEADERS = 4096
_LENGTH = struct.Struct("<Q")
_GGUF = ".gguf"
_LARGEST_FILE = 2**40
_LONGEST_NAME = 255
_READERS = 8

_File = tuple[str, int]  # path, and how many bytes


@dataclass(frozen=True)
class Preview:
    """The part of the model object that can be told from configuration and headers. Fields as in the JSON answer."""

    framework: str
    model_type: str
    architecture: str | None
    runtime_compatible: bool
    reason: str | None
    context_length: int | None
    parameters: int | None
    quantization: Quantization | None
    memory: MemoryNeed


def preview_model(name: str, revision: str, files: Sequence[tuple[str, int]], read: Read, *, headers: bool) -> Preview:
    """Describe a model of which only the list of files (path, size in bytes) is at hand.

    Without `headers` no weight file is looked into, but one where nothing else tells the framework; parameters and
    memory are then unknown. Raises: whatever `read` raises.
    """
    from tempfile import TemporaryDirectory

    listed = [file for file in files if _is_harmless(file[0])]
    # First what is loaded first: a folder below may hold anything.
    weights = sorted((file for file in listed if file[0].endswith(_HEADER)), key=lambda file: ("/" in file[0], file))
    with TemporaryDirectory(prefix="mlxk2-preview-") as made:
        folder = Path(made)
        _lay_out(folder, listed)
        _put(folder, _at_once(lambda file: read(file[0], 0, file[1]), _texts(listed)))
        is_measured = headers and _put_headers(folder, weights, read)
        inspection = inspect_model(ModelRef(name, folder, revision, CACHE))
        if not headers and weights and inspection.info.framework in (PYTORCH, UNKNOWN):
            # The metadata of one weight file may still say that they are MLX's.
            _put_headers(folder, weights[:1], read)
            inspection = inspect_model(ModelRef(name, folder, revision, CACHE))
        return _preview(inspection, is_measured=is_measured)


def _preview(inspection: Inspection, *, is_measured: bool) -> Preview:
    info, need = inspection.info, memory_need(inspection.files)
    architecture = (inspection.files.config or {}).get("model_type")
    return Preview(
        framework=info.framework,
        model_type=info.model_type,
        architecture=architecture if isinstance(architecture, str) else None,
        runtime_compatible=info.runtime_compatible,
        reason=info.reason,
        context_length=info.context_length,
        parameters=info.parameters if is_measured else None,
        quantization=info.quantization,
        memory=need if is_measured else MemoryNeed(None, need.kv_bytes_per_token, None),
    )


def _is_harmless(path: str) -> bool:
    """Whether a listed path can be laid out; the others are refused elsewhere."""
    parts = path.split("/")
    try:
        return "\0" not in path and not any(
            part in ("", ".", "..") or len(part.encode()) > _LONGEST_NAME for part in parts
        )
    except UnicodeEncodeError:
        return False


def _texts(files: Iterable[_File]) -> list[_File]:
    """The small files that say what a model is, and how much of each to read."""
    wanted = [(path, min(size, _CARD_BYTES) if path == _CARD else size) for path, size in files if _is_text(path)]
    wanted.sort(key=lambda file: _TEXTS.index(file[0]) if file[0] in _TEXTS else len(_TEXTS))
    chosen, room = [], _MOST_BYTES
    for path, length in wanted:
        if 0 < length <= min(_LARGEST_TEXT, room):
            chosen.append((path, length))
            room -= length
    return chosen


def _is_text(path: str) -> bool:
    return path in _TEXTS or path == _CARD or ("/" not in path and path.endswith(_INDEX))


def _lay_out(folder: Path, files: Iterable[_File]) -> None:
    """Make every file in its true length: a hole, behind what a sound weight file would begin with."""
    for path, size in files:
        place = folder / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(place, "xb") as file:
                file.write(_stand_in(path, size)[: max(size, 0)])
                file.truncate(max(min(size, _LARGEST_FILE), 0))
        except OSError:
            # A file where a folder should be, or a size that no file system has: refused elsewhere.
            continue


def _stand_in(path: str, size: int) -> bytes:
    """The start of a weight file that was not read, so that it looks sound in its length."""
    if path.lower().endswith(_GGUF):
        return MAGIC
    if not path.endswith(_HEADER):
        return b""
    header = b""
    for _ in range(3):
        # The length of the data stands in the header, and so changes the header's length.
        data = size - _LENGTH.size - len(header)
        header = b'{"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (data, data)
    return _LENGTH.pack(len(header)) + header if data >= 0 else b""


class _Room:
    """How many bytes may still be taken in. For several threads."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self._lock = threading.Lock()

    def takes(self, count: int) -> bool:
        """Take `count` bytes off what is left, if they are."""
        with self._lock:
            fits = count <= self._left
            self._left -= count if fits else 0
            return fits


def _put_headers(folder: Path, weights: Sequence[_File], read: Read) -> bool:
    """Put the true headers where the weights will be; tells whether all could be had, in the room for them."""
    room = _Room(_MOST_BYTES)
    looked_at = weights[:_MOST_HEADERS]
    is_whole = _put(folder, _at_once(lambda file: _header(file, read, room), looked_at))
    return is_whole and len(looked_at) == len(weights)


def _put(folder: Path, starts: Iterable[tuple[_File, bytes]]) -> bool:
    """Write the starts of files that were laid out; tells whether there were any of all of them."""
    is_whole = True
    for (path, _), start in starts:
        try:
            with open(folder / path, "r+b") as file:
                file.write(start)
        except OSError:
            is_whole = False
        is_whole = is_whole and bool(start)
    return is_whole


def _header(file: _File, read: Read, room: _Room) -> bytes:
    """Read the header of a weight file with its length; empty where it is too long to look at."""
    path, size = file
    start = read(path, 0, min(_FIRST_READ, size))
    # What is too short for a header, or says that it is longer than its file, shows that by what is there.
    end = len(start)
    if end >= _LENGTH.size and _LENGTH.size + _LENGTH.unpack_from(start)[0] <= size:
        end = _LENGTH.size + _LENGTH.unpack_from(start)[0]
    if end > _LARGEST_HEADER or not room.takes(end):
        return b""
    if end > len(start):
        start += read(path, len(start), end - len(start))
    return start[:end] if len(start) >= end else b""


def _at_once(work: Callable[[_File], bytes], files: Sequence[_File]) -> Iterator[tuple[_File, bytes]]:
    """Do `work` for several files at a time; gives each with its bytes, as they come.

    The threads are daemons and not waited for: a server that is silent must not hold up Ctrl-C.
    Raises: what `work` raises.
    """
    waiting: SimpleQueue[_File] = SimpleQueue()
    done: SimpleQueue[tuple[_File, bytes | Exception | None]] = SimpleQueue()
    stop = threading.Event()
    for file in files:
        waiting.put(file)

    def run() -> None:
        while not stop.is_set() and not waiting.empty():
            try:
                file = waiting.get_nowait()
            except Empty:
                return
            found: bytes | Exception | None = None
            try:
                found = work(file)
            except (MlxkError, OSError) as problem:
                found = problem
            finally:
                done.put((file, found))

    for _ in range(min(_READERS, len(files))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in files:
            file, found = done.get()
            if not isinstance(found, bytes):
                raise found or RuntimeError(f"{file[0]} could not be read")
            yield file, found
    finally:
        stop.set()

"""What a model is and whether it will run here, from a list of its files and a few reads: before it is fetched.

A stand-in of the folder is laid out (texts as they are, weights as sparse files behind their true headers), and the
usual inspection looks at it, so that no rule is written twice. Knows no network: the caller reads.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
_LENGTH = struct.Struct("<Q")
_GGUF = ".gguf"
_LARGEST_FILE = 2**40
_THREADS = 8


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

    listed = [(path, size) for path, size in files if _is_harmless(path)]
    with TemporaryDirectory(prefix="mlxk2-preview-") as made:
        folder = Path(made)
        weights = [(path, size) for path, size in listed if path.endswith(_HEADER)]
        _lay_out(folder, listed, _texts(listed, read))
        looked_at = _put_headers(folder, weights if headers else [], read)
        inspection = inspect_model(ModelRef(name, folder, revision, CACHE))
        if not headers and weights and inspection.info.framework in (PYTORCH, UNKNOWN):
            # The metadata of one weight file may still say that they are MLX's.
            _put_headers(folder, weights[:1], read)
            inspection = inspect_model(ModelRef(name, folder, revision, CACHE))
        return _preview(inspection, is_measured=headers and looked_at == len(weights))


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
    return not any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts) and "\0" not in path


def _texts(files: Iterable[tuple[str, int]], read: Read) -> dict[str, bytes]:
    """Read the small files that say what a model is, several at a time."""
    from concurrent.futures import ThreadPoolExecutor

    wanted = [(path, size) for path, size in files if path in _TEXTS or ("/" not in path and path.endswith(_INDEX))]
    lengths = {path: size for path, size in wanted if 0 < size <= _LARGEST_TEXT}
    lengths.update({path: min(size, _CARD_BYTES) for path, size in files if path == _CARD and size})
    with ThreadPoolExecutor(_THREADS) as pool:
        contents = pool.map(lambda item: read(item[0], 0, item[1]), lengths.items())
        return dict(zip(lengths, contents))


def _lay_out(folder: Path, files: Iterable[tuple[str, int]], texts: dict[str, bytes]) -> None:
    """Make every file in its true length; what was not read is a hole."""
    for path, size in files:
        place = folder / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(place, "xb") as file:
                start = texts.get(path) or _stand_in(path, size)
                file.write(start[:size])
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


def _put_headers(folder: Path, weights: Sequence[tuple[str, int]], read: Read) -> int:
    """Put the true headers where the weights will be; returns how many could be had."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda item: _header(item[0], item[1], read), weights))
    for (path, size), header in zip(weights, found):
        if header is not None:
            with open(folder / path, "r+b") as file:
                file.write(header)
                file.truncate(size)
    return sum(header is not None for header in found)


def _header(path: str, size: int, read: Read) -> bytes | None:
    """Read the header of a weight file with its length; None where it is none, or too long to look at."""
    start = read(path, 0, min(_FIRST_READ, size))
    if len(start) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(start)[0]
    if end > min(_LARGEST_HEADER, size):
        return None
    if end > len(start):
        start += read(path, len(start), end - len(start))
    return start[:end] if len(start) >= end else None

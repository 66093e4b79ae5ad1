"""Content on disk, named by its sha256, and what the Hub records about a file. Knows no repositories and no HTTP."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Union

Content = Union[bytes, str, Path]

LFS_SUFFIXES = (
    ".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz", ".h5", ".joblib", ".mlmodel", ".model", ".msgpack",
    ".npy", ".npz", ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar", ".safetensors", ".tar",
    ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst",
)  # fmt: skip
LFS_FROM_BYTES = 10 * 1024 * 1024
SAMPLE_BYTES = 8192
LINK_FROM_BYTES = 64 * 1024 * 1024
BLOCK = 1024 * 1024


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Decide whether a file goes to large file storage: by its suffix, a NUL byte in its start, or its size."""
    if size == 0:
        return False
    return PurePosixPath(path).suffix.lower() in LFS_SUFFIXES or b"\0" in sample or size >= LFS_FROM_BYTES


def pointer(sha256: str, size: int) -> bytes:
    """Give the text that git holds in place of an LFS file. Source: the Git LFS pointer specification, version 1."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_sha1(data: bytes) -> str:
    """Hash a blob as git does."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file of a commit. `oid` is git's: of the content, or of the pointer if `lfs`."""

    size: int
    sha256: str
    oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub sends as the ETag of the file, without quotes."""
        return self.sha256 if self.lfs else self.oid

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_lfs(cls, sha256: str, size: int) -> Entry:
        return cls(size, sha256, git_sha1(pointer(sha256, size)), True)


class ObjectStore:
    """A folder of files named by their sha256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def add(self, path: str, content: Content) -> Entry:
        """Store what belongs at `path` of a repository: bytes, or the content of a file on disk."""
        if isinstance(content, bytes):
            return self._add_bytes(path, content)
        source = Path(content)
        size = source.stat().st_size
        with source.open("rb") as stream:
            sample = stream.read(SAMPLE_BYTES)
        if not is_lfs(path, size, sample):
            return self._add_bytes(path, source.read_bytes())
        return Entry.of_lfs(self._add_file(source, size), size)

    def add_stream(self, stream: BinaryIO, expected: str) -> int:
        """Store what `stream` gives; returns its length. Raises: ValueError if it does not hash to `expected`."""
        handle, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with os.fdopen(handle, "wb") as out:
                found, size = _copy_and_hash(stream, out)
            if found != expected:
                raise ValueError(f"content hashes to {found}")
            self._keep(Path(name), expected)
        finally:
            Path(name).unlink(missing_ok=True)
        return size

    def _add_bytes(self, path: str, data: bytes) -> Entry:
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            handle, name = tempfile.mkstemp(dir=self._incoming)
            with os.fdopen(handle, "wb") as out:
                out.write(data)
            self._keep(Path(name), sha256)
        if is_lfs(path, len(data), data[:SAMPLE_BYTES]):
            return Entry.of_lfs(sha256, len(data))
        return Entry(len(data), sha256, git_sha1(data), False)

    def _add_file(self, source: Path, size: int) -> str:
        if size >= LINK_FROM_BYTES:
            with source.open("rb") as stream:
                sha256, _ = _copy_and_hash(stream, None)
            if not self.has(sha256):
                self._link(source, sha256)
            return sha256
        handle, name = tempfile.mkstemp(dir=self._incoming)
        with os.fdopen(handle, "wb") as out, source.open("rb") as stream:
            sha256, _ = _copy_and_hash(stream, out)
        self._keep(Path(name), sha256)
        return sha256

    def _link(self, source: Path, sha256: str) -> None:
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(os.path.realpath(source), target)
        except OSError:  # another file system
            temporary = self._incoming / sha256
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)

    def _keep(self, temporary: Path, sha256: str) -> None:
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        os.replace(temporary, target)


def _copy_and_hash(stream: BinaryIO, out: BinaryIO | None) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while True:
        block = stream.read(BLOCK)
        if not block:
            return digest.hexdigest(), size
        digest.update(block)
        size += len(block)
        if out is not None:
            out.write(block)

"""The hub client's upload of large files, watched: how far it is, and a way to stop it. Knows no Hub and no commit."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, BinaryIO, Callable, NamedTuple, cast

from mlxk2.events import Progress
from mlxk2.hub.translate import foreign_errors

_REPORT_BYTES = 1 << 20


class Stopped(RuntimeError):
    """Raised where the client reads a file of an upload that was given up."""


class _News(NamedTuple):
    path: str
    done: int


class Watch:
    """What the threads of one upload share: news of files, and whether to give up."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.news: SimpleQueue[_News | None] = SimpleQueue()
        self.stop = threading.Event()

    def additions(self, places: Mapping[str, str]) -> list[Any]:
        """Make the client's operations for files; they hand out files that are watched while they are uploaded."""
        from huggingface_hub import CommitOperationAdd

        watch = self

        class Watched(CommitOperationAdd):  # type: ignore[misc]
            @contextmanager
            def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
                """Open the file; the client asks for a bar where it uploads, and for none where it only looks."""
                path = self.path_in_repo
                with _WatchedFile(places[path], path, watch.stop, watch.news if with_tqdm else None) as file:
                    yield cast("BinaryIO", file)

        return [Watched(path_in_repo=path, path_or_fileobj=place) for path, place in places.items()]

    def run(self, work: Callable[[], None]) -> Generator[Progress, None, None]:
        """Do `work` in a thread, and report how far it is; it ends soon where the generator is left. Units: bytes."""
        total, done = sum(self.sizes.values()), dict.fromkeys(self.sizes, 0)
        whole = 0
        outcome: Future[None] = Future()
        outcome.add_done_callback(lambda _: self.news.put(None))
        # A daemon: a server that says nothing would keep the process from ending.
        threading.Thread(target=_fulfil, args=(outcome, work), daemon=True).start()
        try:
            yield Progress(0, total, "bytes")
            for news in iter(self.news.get, None):
                whole += news.done - done[news.path]
                done[news.path] = news.done
                yield Progress(news.done, self.sizes[news.path], "bytes", news.path)
                yield Progress(whole, total, "bytes")
            outcome.result()
        finally:
            self.stop.set()


def _fulfil(outcome: Future[None], work: Callable[[], None]) -> None:
    """Do the work; what the client raises is raised again where the outcome is asked for."""
    try:
        work()
        outcome.set_result(None)
    except foreign_errors() as error:
        outcome.set_exception(error)
    finally:
        if not outcome.done():
            outcome.set_exception(RuntimeError("the upload ended without a word"))


class _WatchedFile(io.BufferedReader):
    """A file that tells how far it was read, and fails once the upload is given up."""

    def __init__(self, place: str, path: str, stop: threading.Event, news: SimpleQueue[Any] | None) -> None:
        super().__init__(io.FileIO(place))
        self._path = path
        self._stop = stop
        self._news = news
        self._unreported = 0

    def read(self, size: int | None = -1) -> bytes:
        if self._stop.is_set():
            raise Stopped(self._path)
        data = super().read(-1 if size is None else size)
        self._unreported += len(data)
        if self._news is not None and (not data or self._unreported >= _REPORT_BYTES):
            self._unreported = 0
            self._news.put(_News(self._path, self.tell()))
        return data

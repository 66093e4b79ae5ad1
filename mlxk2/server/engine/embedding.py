"""Embeddings, a few texts between two steps of the answers. Knows no connection."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mlxk2 import errors
from mlxk2.runner.speech import backend
from mlxk2.server.protocol import Begun, Embedded, Failed, Problem, RequestEvent

from .model import ServedModel

# What is read together: enough to be worth it, little enough that answers go on.
_MOST_TEXTS = 16
_MOST_TOKENS = 1024


@dataclass
class _Work:
    id: str
    texts: list[tuple[int, ...]]
    vectors: list[tuple[float, ...]] = field(default_factory=list)
    has_begun: bool = False


class Embedder:
    """Embeds texts in the order in which they came."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._waiting: deque[_Work] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, id: str, texts: list[tuple[int, ...]]) -> tuple[RequestEvent, ...]:
        """Take texts as token ids; return what is to be told."""
        self._waiting.append(_Work(id, texts))
        return self._begun()

    def cancel(self, id: str) -> None:
        """Forget a request."""
        self._waiting = deque(work for work in self._waiting if work.id != id)

    def step(self) -> tuple[RequestEvent, ...]:
        """Embed a few texts of the oldest request; return what is to be told."""
        if not self._waiting:
            return ()
        work, told = self._waiting[0], self._begun()
        try:
            work.vectors += backend().embed(self._model.runner.engine(), _next_texts(work))
        except errors.MlxkError as error:
            self._waiting.popleft()
            return (*told, Failed(work.id, Problem.of(error)), *self._begun())
        if len(work.vectors) < len(work.texts):
            return told
        self._waiting.popleft()
        return (*told, Embedded(work.id, tuple(work.vectors), sum(map(len, work.texts))), *self._begun())

    def _begun(self) -> tuple[RequestEvent, ...]:
        """Tell whose turn it is now, once; what its texts have of tokens is told with the vectors."""
        if not self._waiting or self._waiting[0].has_begun:
            return ()
        self._waiting[0].has_begun = True
        return (Begun(self._waiting[0].id, 0, 0),)


def _next_texts(work: _Work) -> list[tuple[int, ...]]:
    start = len(work.vectors)
    found = work.texts[start : start + _MOST_TEXTS]
    while len(found) > 1 and len(found) * max(map(len, found)) > _MOST_TOKENS:
        found.pop()
    return found

"""What several ranks do in step, so that all of them end alike: with a value, or with the failure of any one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from mlxk2.errors import MlxkError, PeerLost, kind_of

if TYPE_CHECKING:
    from mlxk2.runner.mlx_backend.distributed import Ranks

T = TypeVar("T")

# What shows on each machine how they differ.
_SHOWS = {"versions": "mlxk2 version", "model": "mlxk2 show MODEL"}


class Together:
    """What the ranks do in step. Each method must be called by all of them at the same point."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def do(self, step: Callable[[], T]) -> T:
        """Do something on every rank; the first failure of any is raised on all of them, with its `rank`."""
        done: list[T] = []
        failure: MlxkError | None = None
        try:
            done.append(step())
        except MlxkError as error:
            failure = error
        for rank, report in enumerate(self._ranks.gather(_written(failure))):
            if report:
                raise _read(report, rank)
        return done[0]

    def by_rank_0(self, text: str) -> str:
        """Return what rank 0 says."""
        return self._ranks.gather(text.encode("utf-8", "surrogatepass"))[0].decode("utf-8", "surrogatepass")

    def check_same(self, what: str, values: dict[str, str | None], error_type: type[MlxkError]) -> None:
        """Raise an error where another rank has other values than rank 0."""
        said = self._ranks.gather(json.dumps(values).encode())
        other = next((rank for rank, words in enumerate(said) if words != said[0]), None)
        if other is not None:
            raise error_type(
                f"rank {other} has another {what} than rank 0",
                hint=_SHOWS.get(what),
                detail={"rank_0": json.loads(said[0]), "other": json.loads(said[other])},
                rank=other,
            )

    def part(self) -> None:
        """Return when every rank has its answer: who ends before takes away what the others still wait for."""
        # Who is gone by now is missed by nobody.
        with suppress(PeerLost):
            self._ranks.finish()
            self._ranks.gather(b"")


def _written(failure: MlxkError | None) -> bytes:
    if failure is None:
        return b""
    parts: dict[str, Any] = {
        "type": failure.type,
        "message": failure.message,
        "hint": failure.hint,
        "extra": failure.extra,
    }
    return json.dumps(parts, default=str).encode()


def _read(report: bytes, rank: int) -> MlxkError:
    """The failure that a rank reports; it is told where it did not happen on the rank that speaks."""
    parts = json.loads(report)
    message = parts["message"] if rank == 0 else f"rank {rank}: {parts['message']}"
    return kind_of(parts["type"])(message, hint=parts["hint"], **{**parts["extra"], "rank": rank})

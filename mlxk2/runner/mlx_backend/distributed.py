"""One model on several machines: the ranks find each other, each loads its part, and they generate in step.

How ranks reach each other is MLX's business; `mlx.launch` tells it by the environment.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Callable

import mlx.core as mx

from mlxk2 import errors
from mlxk2.runner.request import Decoding

from .engine import Engine, Step
from .kv_state import KVState
from .library import MlxLm, accepted, import_mlx_lm, translated
from .sampling import Sampler

TENSOR, PIPELINE = "tensor", "pipeline"

# What MLX says when another rank does not answer; other failures of its backends are of this machine alone.
_LOST = ("connection to a peer was lost", "Couldn't connect")
_BACKENDS = ("[ring]", "[jaccl]", "[nccl]", "[distributed]")

Beat = Callable[[], None]


class Ranks:
    """The processes that run one model together, as one of them sees them."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank = int(group.rank())
        self.size = int(group.size())
        self._ahead: Any = None

    def gather(self, words: bytes) -> tuple[bytes, ...]:
        """Return what every rank said, in their order; all must call this at the same point.

        Raises: PeerLost.
        """
        with kept_together("the ranks could not exchange a message"):
            sizes = self._all(mx.array([len(words)], dtype=mx.uint32)).tolist()
            longest = max(max(sizes), 1)
            padded = mx.array(list(words.ljust(longest, b"\0")), dtype=mx.uint8)
            said = bytes(self._all(padded).tolist())
        return tuple(said[rank * longest : rank * longest + size] for rank, size in enumerate(sizes))

    def as_rank_0_has_it(self, part: Any) -> Any:
        """Return what `part` is on rank 0, to be evaluated later; all must call this at the same point."""
        # Other hardware may round differently: each rank would go its own way from the first close call on.
        self._ahead = self._all(part)[: part.shape[0]]
        return self._ahead

    def finish(self) -> None:
        """Wait for the step that was begun ahead: on another stream, the next words would get between its own.

        Raises: PeerLost.
        """
        with kept_together("the model failed after the answer"):
            mx.eval(self._ahead)

    def _all(self, part: Any) -> Any:
        return mx.distributed.all_gather(part, group=self.group, stream=mx.cpu)


def join(backend: str, patience_s: float) -> Ranks:
    """Wait for all ranks to connect; Python stands still meanwhile, and without a watcher the process ends in the end.

    Raises: UsageError when the environment does not describe a group; PeerLost.
    """
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(patience_s, exit=True, file=nowhere)
        try:
            with kept_together("the ranks could not connect", errors.UsageError):
                return Ranks(mx.distributed.init(strict=True, backend=backend))
        finally:
            faulthandler.cancel_dump_traceback_later()


def way_to_divide(model_dir: Path, ranks: Ranks, ways: Sequence[str]) -> str:
    """Return the first of `ways` in which the model can be divided; tried on weights that are never read.

    Raises: IncompatibleModel with mlx-lm's words.
    """
    mlx_lm = import_mlx_lm()
    refusals = []
    for way in ways:
        with translated("mlx-lm cannot load the model", errors.IncompatibleModel):
            options = accepted(mlx_lm.utils.load_model, lazy=True, strict=True, trust_remote_code=False)
            model = mlx_lm.utils.load_model(model_dir, **options)[0]
        try:
            with translated(f"{way} parallel", errors.IncompatibleModel):
                _divide(model, ranks, way)
            return way
        except errors.IncompatibleModel as refused:
            refusals.append(refused.message)
    raise errors.IncompatibleModel(f"the model cannot be divided between {ranks.size} ranks ({'; '.join(refusals)})")


def load_part(model_dir: Path, ranks: Ranks, way: str, beat: Beat) -> RankEngine:
    """Load this rank's part of the weights, evaluated, and wait until every rank has its own.

    Raises: IncompatibleModel with mlx-lm's words; PeerLost.
    """
    mlx_lm = import_mlx_lm()
    options: dict[str, Any] = {f"{way}_group": ranks.group, "trust_remote_code": False}
    # Without it, the tokenizer may run code from the folder.
    options["tokenizer_config"] = {"trust_remote_code": False}
    with kept_together("mlx-lm cannot load the model", errors.IncompatibleModel):
        model = mlx_lm.utils.sharded_load(str(model_dir), **options)[0]
    return RankEngine(model, mlx_lm, ranks, beat)


class RankEngine(Engine):
    """A part of a model. All ranks must ask theirs for the same; what rank 0 draws is what all of them continue."""

    def __init__(self, model: Any, mlx_lm: MlxLm, ranks: Ranks, beat: Beat) -> None:
        super().__init__(model, mlx_lm)
        self._ranks = ranks
        self._beat = beat

    def prefill(self, prompt_ids: Sequence[int], state: KVState, checkpoint_at: int = 0) -> Iterator[int]:
        """Let all ranks read the prompt, as Engine does. Raises: PeerLost."""
        with kept_together("the model failed while reading the prompt"):
            for place in super().prefill(prompt_ids, state, checkpoint_at):
                self._beat()
                yield place

    def decode(self, prompt_ids: Sequence[int], state: KVState, decoding: Decoding) -> Generator[Step, None, None]:
        """Yield the tokens that rank 0 draws, as Engine does. Raises: PeerLost."""
        steps = super().decode(prompt_ids, state, decoding)
        with kept_together("the model failed while generating"), closing(steps):
            for step in steps:
                self._beat()
                yield step

    def close(self) -> None:
        """Let go of the weights; what was still being computed may fail where a peer is gone."""
        with suppress(RuntimeError):
            super().close()

    def _sampler(self, decoding: Decoding) -> Sampler:
        draw = super()._sampler(decoding)

        def draw_together(logprobs: Any) -> Any:
            return self._ranks.as_rank_0_has_it(draw(logprobs))

        return draw_together


@contextmanager
def kept_together(what: str, error_type: type[errors.MlxkError] = errors.GenerationFailed) -> Iterator[None]:
    """Turn the failure of another rank into PeerLost, every other one into `error_type`."""
    try:
        with translated(what, error_type):
            yield
    except errors.MlxkError as error:
        said = str(error.detail or error.message)
        if any(words in said for words in _LOST) and any(name in said for name in (*_BACKENDS, "Couldn't connect")):
            message = "the connection to another rank was lost: the last lines of that rank may tell why"
            raise errors.PeerLost(message, detail=said) from error
        raise


def _divide(model: Any, ranks: Ranks, way: str) -> None:
    """Divide a model that has not been evaluated, as `sharded_load` will. Raises: IncompatibleModel."""
    if way == TENSOR:
        if not hasattr(model, "shard"):
            raise errors.IncompatibleModel(f"{way} parallel: mlx-lm does not support it")
        model.shard(ranks.group)
        return
    if not hasattr(getattr(model, "model", None), "pipeline"):
        raise errors.IncompatibleModel(f"{way} parallel: mlx-lm does not support it")
    model.model.pipeline(ranks.group)

"""Several sequences decoded together, by mlx-lm's BatchGenerator (0.31.2 and later). Knows ids and rows only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx

from mlxk2 import errors
from mlxk2.runner.request import CacheOptions, Decoding, Sampling

from .cache_kinds import empty_layers
from .device import on_metal, settle
from .engine import Engine, Step
from .library import ENGINE_FAILURES, MlxLm, translated
from .logprobs import likeliest
from .sampling import Processor, Sampler, make_processors, make_sampler
from .shared_prefix import SharedPrefix

# Prompts are read in chunks between two steps of the others: so many side by side, so many ids of each.
_PREFILL_ROWS = 8
_CPU_PREFILL_STEP, _GPU_PREFILL_STEP = 64, 512

# Rows come and go, each time in arrays of another size, and MLX keeps those that were freed.
_STEPS_BETWEEN_CLEARING = 32

# Two prompts of different length, to see whether padding changes what a model makes of them.
_LONG, _SHORT = 9, 4
# Rounding, which the longer of the two shows, is allowed; `_CERTAINLY_WRONG` is more than any rounding does.
_ROUNDING_FACTOR, _LEAST_ROUNDING, _CERTAINLY_WRONG = 20.0, 1e-4, 0.1


class Joined(NamedTuple):
    """A row that has joined, and how many ids of its prompt had been read already."""

    row: int
    cached_tokens: int


class RowStep(NamedTuple):
    """One step of one row; with `is_last` its budget is used up, and it is no longer in the batch."""

    row: int
    step: Step
    is_last: bool


class Batch:
    """Sequences that are prefilled and decoded together, each with sampler, processors and budget of its own.

    Rows may join and leave between any two steps. After an error of `step` the whole batch is of no use any more.
    """

    def __init__(self, engine: Engine, options: CacheOptions, width: int) -> None:
        self._engine = engine
        self._shared: Any = SharedPrefix(engine, options)
        # Rows are sampled in one call where they share this one object.
        self._greedy = make_sampler(engine.mlx_lm, Sampling(temperature=0), 0)
        self._generator: Any = _make_generator(engine, width)
        self._logprobs_wanted: dict[int, int] = {}
        self._steps = 0

    @property
    def rows_kept(self) -> int:
        """How many rows' memory is used for what the prompts begin with alike."""
        return 1 if len(self._shared) else 0

    def add(self, prompt_ids: Sequence[int], decoding: Decoding) -> Joined:
        """Let a sequence join. What it has in common with the one before is read once.

        Shape: `prompt_ids`: (T,), each in [0, vocab_size).
        Raises: IncompatibleModel, GenerationFailed.
        """
        self._engine.check_ids(prompt_ids)
        read, layers = self._shared.split(prompt_ids)
        (row,) = self._generator.insert(
            [list(prompt_ids[len(read) :])],
            max_tokens=[decoding.max_tokens],
            caches=[layers],
            all_tokens=[read],
            samplers=[self._sampler(decoding)],
            logits_processors=[self._processors(decoding)],
        )
        if decoding.top_logprobs is not None:
            self._logprobs_wanted[row] = decoding.top_logprobs
        return Joined(int(row), len(read))

    def remove(self, rows: Iterable[int]) -> None:
        """Let rows leave; those that have left already are no error."""
        leaving = list(rows)
        if leaving:
            self._generator.remove(leaving)
        for row in leaving:
            self._logprobs_wanted.pop(row, None)

    def step(self) -> list[RowStep]:
        """Return the next token of each row that has read its prompt, and let the others read on.

        Raises: GenerationFailed.
        """
        with translated("the model failed while generating", errors.GenerationFailed):
            _, responses = self._generator.next()
            self._steps += 1
            if self._steps % _STEPS_BETWEEN_CLEARING == 0:
                mx.clear_cache()
            return [RowStep(found.uid, self._step(found), found.finish_reason is not None) for found in responses]

    def close(self) -> None:
        """Let go of every row's memory; the batch is of no use afterwards."""
        self._generator = self._shared = None
        settle()

    def _step(self, response: Any) -> Step:
        wanted = self._logprobs_wanted.get(response.uid)
        return Step(response.token, None if wanted is None else likeliest(response.logprobs, response.token, wanted))

    def _sampler(self, decoding: Decoding) -> Sampler:
        if decoding.sampling.is_greedy:
            return self._greedy
        return make_sampler(self._engine.mlx_lm, decoding.sampling, decoding.vocab_size)

    def _processors(self, decoding: Decoding) -> list[Processor]:
        processors = make_processors(self._engine.mlx_lm, decoding.sampling)
        if decoding.mask is not None:
            from .token_mask import mask_processor

            processors.append(mask_processor(decoding.mask, decoding.vocab_size, decoding.stop_ids))
        if not processors and not _keeps_places(self._engine.mlx_lm):
            processors.append(_unchanged)
        return processors


def batch_obstacle(engine: Engine, options: CacheOptions, prompt_ids: Sequence[int]) -> str | None:
    """Say why the sequences of this model must be decoded one after the other; None where they need not be.

    `prompt_ids` are any that the model may read.

    Raises: IncompatibleModel where the model's cache does not honour an option.
    """
    if not hasattr(getattr(engine.mlx_lm.generate, "BatchGenerator", None), "insert_segments"):
        return "this mlx-lm has no continuous batching"
    layers = empty_layers(engine.model, engine.mlx_lm, options)
    single = sorted({type(layer).__name__ for layer in layers if not _merges(layer)})
    if single:
        return f"its {', '.join(single)} is of one sequence only"
    try:
        is_right = _pads_well(engine, options, prompt_ids)
    except ENGINE_FAILURES as error:
        return f"mlx-lm cannot batch this architecture ({type(error).__name__})"
    return None if is_right else "mlx-lm's batches are wrong for this architecture"


def _merges(layer: Any) -> bool:
    """Whether the layers of several sequences can be one; where the oldest positions are kept for ever, they cannot."""
    parts = getattr(layer, "caches", None) or (layer,)
    return all(hasattr(part, "merge") and not getattr(part, "keep", 0) for part in parts)


def _pads_well(engine: Engine, options: CacheOptions, prompt_ids: Sequence[int]) -> bool:
    """Try two short prompts of different length, together and alone: some architectures take padding for text."""
    ids = (list(prompt_ids) * _LONG)[:_LONG]
    prompts, following = (ids, ids[-_SHORT:]), ids[0]
    generator = _make_generator(engine, len(prompts))

    def sampler(logprobs: Any) -> Any:
        # Whatever is likeliest: both ways go on with the same token.
        return mx.full(logprobs.shape[:-1], following, dtype=mx.uint32)

    rows = generator.insert(
        [list(prompt) for prompt in prompts],
        max_tokens=[2] * len(prompts),
        caches=[empty_layers(engine.model, engine.mlx_lm, options) for _ in prompts],
        samplers=[sampler] * len(prompts),
    )
    together: dict[int, list[Any]] = {row: [] for row in rows}
    for _ in range(_LONG):
        for found in generator.next()[1]:
            together[found.uid].append(found.logprobs)
    differences = []
    for prompt, row in zip(prompts, rows):
        layers = empty_layers(engine.model, engine.mlx_lm, options)
        alone = engine.model(mx.array([[*prompt, following]]), cache=layers)[0, -2:]
        differences.append(max(_difference(left, right) for left, right in zip(together[row], alone)))
    rounding, padded = differences
    return rounding < _CERTAINLY_WRONG and padded <= max(_ROUNDING_FACTOR * rounding, _LEAST_ROUNDING)


def _difference(left: Any, right: Any) -> float:
    """How far two rows of logits are apart, of their own length; what is added to all of them does not count."""
    left, right = (row.astype(mx.float32) - row.astype(mx.float32).mean() for row in (left, right))
    return float((mx.linalg.norm(left - right) / mx.linalg.norm(right)).item())


def _make_generator(engine: Engine, width: int) -> Any:
    with _wired_limit_kept():
        return engine.mlx_lm.generate.BatchGenerator(
            engine.model,
            completion_batch_size=width,
            prefill_batch_size=min(_PREFILL_ROWS, width),
            prefill_step_size=_GPU_PREFILL_STEP if on_metal() else _CPU_PREFILL_STEP,
        )


@contextmanager
def _wired_limit_kept() -> Iterator[None]:
    """A BatchGenerator raises the limit of wired memory when it is made, and lowers it again whatever it is by then."""
    original = mx.set_wired_limit
    mx.set_wired_limit = lambda _limit: None
    try:
        yield
    finally:
        mx.set_wired_limit = original


def _keeps_places(mlx_lm: MlxLm) -> bool:
    """Whether rows without a processor keep their place beside those that have one; since 0.32."""
    return hasattr(mlx_lm.generate, "StopSequences")


def _unchanged(_tokens: Any, logits: Any) -> Any:
    return logits

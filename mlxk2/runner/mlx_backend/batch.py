"""Several sequences decoded together, by mlx-lm's BatchGenerator (0.31.2 and later). Knows ids and rows only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from mlxk2 import errors
from mlxk2.runner.request import CacheOptions, Decoding, Sampling

from .cache_kinds import empty_layers
from .device import on_metal, settle
from .engine import Engine, Step
from .kv_state import appends
from .library import ENGINE_FAILURES, MlxLm, translated
from .logprobs import likeliest
from .prefix_store import PrefixStore, Reading, cut_layers
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


@dataclass
class _Row(Reading):
    top_logprobs: int | None


class Batch:
    """Sequences that are prefilled and decoded together, each with sampler, processors and budget of its own.

    Rows may join and leave between any two steps. After an error of `step` the whole batch is of no use any more.
    What was read is kept in `store`, and found there; without one only what a prompt has in common with the last.
    """

    def __init__(self, engine: Engine, options: CacheOptions, width: int, store: PrefixStore | None = None) -> None:
        self._engine = engine
        self._store = store
        self._shared: Any = SharedPrefix(engine, options) if store is None else None
        self._can_be_cut = all(map(appends, empty_layers(engine.model, engine.mlx_lm, options)))
        # Rows are sampled in one call where they share this one object.
        self._greedy = make_sampler(engine.mlx_lm, Sampling(temperature=0), 0)
        self._generator: Any = _make_generator(engine, width)
        self._rows: dict[int, _Row] = {}
        self._steps = 0

    @property
    def rows_kept(self) -> int:
        """How many rows' memory is used for what the prompts begin with alike."""
        return 1 if self._shared is not None and len(self._shared) else 0

    @property
    def can_be_cut(self) -> bool:
        """Whether what was read of one prompt is of use for every other one that begins alike."""
        return self._can_be_cut

    def add(self, prompt_ids: Sequence[int], decoding: Decoding, stops: Sequence[int] = ()) -> Joined:
        """Let a sequence join. What it has in common with an earlier one is read once.

        After so many ids as `stops` says, what was read is kept, where that is the only way back to there.

        Shape: `prompt_ids`: (T,), each in [0, vocab_size).
        Raises: IncompatibleModel, GenerationFailed.
        """
        self._engine.check_ids(prompt_ids)
        read, layers = (self._shared if self._store is None else self._store).split(prompt_ids)
        places = () if self._can_be_cut else tuple(stop for stop in stops if len(read) < stop < len(prompt_ids))
        cuts = (len(read), *sorted(set(places)), len(prompt_ids))
        (row,) = self._generator.insert_segments(
            [[list(prompt_ids[start:end]) for start, end in zip(cuts, cuts[1:])]],
            max_tokens=[decoding.max_tokens],
            caches=[layers],
            all_tokens=[read],
            samplers=[self._sampler(decoding)],
            logits_processors=[self._processors(decoding)],
        )
        self._rows[row] = _Row(tuple(prompt_ids), len(read), places, decoding.top_logprobs)
        return Joined(int(row), len(read))

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """How far each row's prompt has been read: `is_being_read` says the same until that changes."""
        return tuple((number, row.read) for number, row in self._rows.items())

    def is_being_read(self, prompt_ids: Sequence[int]) -> bool:
        """Return whether a row is just reading much of what this prompt begins with: it will soon be found in the store."""
        store = self._store
        if store is None:
            return False
        rows: dict[int, Reading] = dict(self._rows)
        return store.is_coming(prompt_ids, rows, partial(self._keep, store) if self._can_be_cut else None)

    def remove(self, rows: Iterable[int]) -> None:
        """Let rows leave; those that have left already are no error."""
        leaving = list(rows)
        if self._store is not None:
            for row in leaving:
                self._keep(self._store, row, is_leaving=True)
        if leaving:
            self._generator.remove(leaving)
        for row in leaving:
            self._rows.pop(row, None)

    def step(self) -> list[RowStep]:
        """Return the next token of each row that has read its prompt, and let the others read on.

        Raises: GenerationFailed.
        """
        with translated("the model failed while generating", errors.GenerationFailed):
            progress, responses = self._generator.next()
            for found in progress:
                self._note_progress(found)
            self._steps += 1
            if self._steps % _STEPS_BETWEEN_CLEARING == 0:
                mx.clear_cache()
            return list(map(self._row_step, responses))

    def close(self) -> None:
        """Let go of every row's memory; the batch is of no use afterwards."""
        self._generator = self._shared = self._store = None
        settle()

    def _row_step(self, response: Any) -> RowStep:
        is_last = response.finish_reason is not None
        row = self._rows[response.uid]
        if is_last and self._store is not None:
            self._store.insert(response.all_tokens, response.prompt_cache, is_leaving=True)
        wanted = row.top_logprobs
        logprobs = None if wanted is None else likeliest(response.logprobs, response.token, wanted)
        return RowStep(response.uid, Step(response.token, logprobs), is_last)

    def _note_progress(self, response: Any) -> None:
        row = self._rows[response.uid]
        done, total = response.progress
        row.read = len(row.ids) - total + done
        if self._store is not None and response.end_of_segment and row.read in row.stops:
            self._keep(self._store, response.uid)

    def _keep(self, store: PrefixStore, row: int, length: int | None = None, *, is_leaving: bool = False) -> None:
        """Keep what a row has read and said; only `length` ids of it, where that is given."""
        layers, ids = self._generator.extract_cache([row]).get(row, ((), ()))
        if not ids or any(layer.empty() for layer in layers):
            return
        count = len(ids) if length is None else min(length, len(ids))
        store.insert(ids[:count], cut_layers(layers, len(ids) - count), is_leaving=is_leaving)

    def _sampler(self, decoding: Decoding) -> Sampler:
        if decoding.sampling.is_greedy:
            return self._greedy
        return make_sampler(self._engine.mlx_lm, decoding.sampling, decoding.vocab_size, len(decoding.said))

    def _processors(self, decoding: Decoding) -> list[Processor]:
        processors = make_processors(self._engine.mlx_lm, decoding.sampling, said=decoding.said)
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

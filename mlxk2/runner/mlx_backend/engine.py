"""A loaded model that reads prompts and produces token ids. Knows numbers only: no text, no template.

Its limits are those that keep MLX from crashing. Works with mlx-lm 0.28 to 0.32: keyword arguments only.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlxk2 import errors
from mlxk2.runner.request import CacheOptions, Decoding

from .cache_kinds import empty_layers
from .device import on_metal, settle
from .kv_state import KVState
from .library import MlxLm, translated
from .logprobs import TokenLogprobs, likeliest
from .prompt_cache_file import load_state, save_state
from .sampling import Processor, Sampler, below, make_processors, make_sampler

# Ctrl-C strikes between prefill steps, which take seconds on a CPU.
_CPU_PREFILL_STEP, _GPU_PREFILL_STEP = 64, 2048

# MLX keeps freed buffers for reuse; a long prompt would collect one size after the other.
_STEPS_BETWEEN_CLEARING = 16


class Step(NamedTuple):
    """One decode step: the token, and log probabilities where they were asked for."""

    token: int
    logprobs: TokenLogprobs | None = None


class Engine:
    """A loaded model, and a smaller one that guesses ahead of it where `draft` is given. One thread at a time."""

    def __init__(self, model: Any, mlx_lm: MlxLm, draft: Any = None) -> None:
        self.model = model
        self.mlx_lm = mlx_lm
        self._draft = draft

    def new_state(self, options: CacheOptions) -> KVState:
        """Return an empty KV cache as `options` want it.

        Raises: IncompatibleModel where this model's cache does not honour an option.
        """
        make_draft = None if self._draft is None else lambda: empty_layers(self._draft, self.mlx_lm, CacheOptions())
        # Asked once for its errors; afterwards it cannot fail.
        state = KVState(self.mlx_lm, lambda: empty_layers(self.model, self.mlx_lm, options), make_draft)
        if make_draft is not None and not self.mlx_lm.caches.can_trim_prompt_cache([*state.layers, *state.draft]):
            raise errors.IncompatibleModel(
                "a draft model needs a KV cache that can be cut back, which one of these two models has not",
                hint="run it without --draft-model",
            )
        return state

    def prefill(self, prompt_ids: Sequence[int], state: KVState, checkpoint_at: int = 0) -> Iterator[int]:
        """Let the model read all but the last id of the prompt, as far as `state` does not hold them already.

        Yields how many ids have been read, the kept ones first. A checkpoint is saved after `checkpoint_at` ids.

        Shape: `prompt_ids`: (T,), each in [0, vocab_size).
        Raises: GenerationFailed.
        """
        self.check_ids(prompt_ids)
        end = len(prompt_ids) - 1
        checkpoint_at = min(checkpoint_at, end)
        with translated("the model failed while reading the prompt", errors.GenerationFailed):
            place = state.rewind(prompt_ids)
        yield place
        stops = sorted({checkpoint_at, end})
        chunks = _chunks(place, stops, _GPU_PREFILL_STEP if on_metal() else _CPU_PREFILL_STEP)
        with translated("the model failed while reading the prompt", errors.GenerationFailed):
            for number, (start, stop) in enumerate(chunks):
                with state.changing():
                    self._read(prompt_ids[start:stop], state)
                    state.ids = list(prompt_ids[:stop])
                    if stop == checkpoint_at:
                        state.save_checkpoint()
                if number % _STEPS_BETWEEN_CLEARING == _STEPS_BETWEEN_CLEARING - 1:
                    mx.clear_cache()
                yield stop

    def decode(self, prompt_ids: Sequence[int], state: KVState, decoding: Decoding) -> Generator[Step, None, None]:
        """Yield the tokens that follow a prompt which has been prefilled; closing it early is safe.

        Raises: GenerationFailed.
        """
        said: list[int] = []
        steps = self._steps(prompt_ids, state, decoding)
        state.begin()
        try:
            with translated("the model failed while generating", errors.GenerationFailed), closing(steps):
                for token, logprobs, *_ in steps:
                    said.append(token)
                    wanted = decoding.top_logprobs
                    yield Step(token, None if wanted is None else likeliest(logprobs, token, wanted))
        except GeneratorExit:
            # Left between two steps: the layers hold everything that was said.
            state.settle([*prompt_ids, *said])
            raise
        state.settle([*prompt_ids, *said])

    def load_state(self, path: Path, ids: Sequence[int], state: KVState, options: CacheOptions) -> bool:
        """Let `state` hold what a prompt cache file holds; False where the file cannot be used."""
        # Nothing is computed: the graph alone tells what this model's layers look like.
        expected = self.new_state(options).layers
        self.model(mx.array([list(ids[:1])]), cache=expected)
        return load_state(self.mlx_lm, path, ids, state, expected)

    def save_state(self, path: Path, state: KVState, owner: Mapping[str, str]) -> None:
        """Write what `state` holds into a file. Raises: OutputFailed."""
        save_state(self.mlx_lm, path, state, owner)

    def _read(self, ids: Sequence[int], state: KVState) -> None:
        for model, layers in ((self.model, state.layers), (self._draft, state.draft)):
            if layers:
                model(mx.array([list(ids)]), cache=layers)
                mx.eval([layer.state for layer in layers])

    def _steps(self, prompt_ids: Sequence[int], state: KVState, decoding: Decoding) -> Any:
        options = {
            "prompt": mx.array(list(prompt_ids[-1:])),
            "model": self.model,
            "max_tokens": decoding.max_tokens,
            "sampler": self._sampler(decoding),
            "logits_processors": self._processors(prompt_ids[:-1], decoding) or None,
        }
        if self._draft is None:
            return self.mlx_lm.generate.generate_step(**options, prompt_cache=state.layers)
        layers = [*state.layers, *state.draft]
        return self.mlx_lm.generate.speculative_generate_step(
            **options, draft_model=self._draft, num_draft_tokens=decoding.draft_tokens, prompt_cache=layers
        )

    def _sampler(self, decoding: Decoding) -> Sampler:
        return make_sampler(self.mlx_lm, decoding.sampling, decoding.vocab_size, len(decoding.said))

    def _processors(self, before: Sequence[int], decoding: Decoding) -> list[Processor]:
        processors = make_processors(self.mlx_lm, decoding.sampling, before, decoding.said)
        if self._draft is not None:
            # Padded vocabularies may differ: neither may say what the other cannot read.
            processors.append(below(decoding.vocab_size))
        if decoding.mask is not None:
            from .token_mask import mask_processor

            processors.append(mask_processor(decoding.mask, decoding.vocab_size, decoding.stop_ids))
        return processors

    def check_ids(self, prompt_ids: Sequence[int]) -> None:
        """MLX reads beyond its arrays when an id is out of range; the model itself knows best.

        Raises: IncompatibleModel.
        """
        known = getattr(getattr(self.model, "args", None), "vocab_size", None)
        if isinstance(known, int) and max(prompt_ids) >= known:
            raise errors.IncompatibleModel(f"the prompt has token {max(prompt_ids)}, the model knows only {known}")

    def close(self) -> None:
        """Let go of the weights and of MLX's memory cache."""
        self.model = self._draft = None
        gc.collect()
        settle()


def _chunks(start: int, stops: Sequence[int], step: int) -> Iterator[tuple[int, int]]:
    """Cut [start, last stop) into pieces of at most `step` that end at every stop."""
    for stop in stops:
        while start < stop:
            end = min(start + step, stop)
            yield start, end
            start = end

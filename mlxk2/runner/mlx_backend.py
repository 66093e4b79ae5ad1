"""The engine: loads weights and produces token ids. The only module here that imports mlx and mlx-lm.

It knows numbers only: no text, no template, no limits but those that keep MLX from crashing. Works with mlx-lm 0.28
to 0.32: keyword arguments, and only those that the installed functions take.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import os
import resource
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import mlx.core as mx

from mlxk2 import errors

from .request import Sampling

# What mlx and mlx-lm raise for models and requests that they cannot handle; some model modules even exit.
ENGINE_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SystemExit,
    TypeError,
    ValueError,
)

# Ctrl-C strikes between prefill steps, which take seconds on a CPU.
_CPU_PREFILL_STEP, _GPU_PREFILL_STEP = 64, 2048

# mlx-lm names every missing parameter of a model, thousands of them.
_LONGEST_DETAIL = 2000
_DAMAGED_HINT = "config.json and weights may not belong together: mlxk2 health MODEL --deep compares the files"


@dataclass(frozen=True)
class _MlxLm:
    """The functions of mlx-lm that are used."""

    load_model: Callable[..., Any]
    load_tokenizer: Callable[..., Any]
    generate_step: Callable[..., Any]
    make_sampler: Callable[..., Any]
    make_logits_processors: Callable[..., Any]


class Engine:
    """A loaded model. One thread at a time."""

    def __init__(self, model: Any, mlx_lm: _MlxLm) -> None:
        self._model = model
        self._mlx_lm = mlx_lm

    def steps(
        self, prompt_ids: Sequence[int], sampling: Sampling, max_tokens: int, vocab_size: int
    ) -> Generator[int, None, None]:
        """Yield token ids, one per decode step, at most `max_tokens`; closing it early is safe.

        Shape: `prompt_ids`: (T,), each in [0, vocab_size).
        Raises: GenerationFailed.
        """
        self._check_ids(prompt_ids)
        _seed(sampling.seed)
        options = {
            "prompt": mx.array(list(prompt_ids)),
            "model": self._model,
            "max_tokens": max_tokens,
            "sampler": self._sampler(sampling, vocab_size),
            "logits_processors": self._processors(sampling),
            "prefill_step_size": _GPU_PREFILL_STEP if _on_metal() else _CPU_PREFILL_STEP,
        }
        with translated("the model failed while generating", errors.GenerationFailed):
            for token, _logprobs in self._mlx_lm.generate_step(**options):
                yield token

    def _check_ids(self, prompt_ids: Sequence[int]) -> None:
        """MLX reads beyond its arrays when an id is out of range; the model itself knows best."""
        known = getattr(getattr(self._model, "args", None), "vocab_size", None)
        if isinstance(known, int) and max(prompt_ids) >= known:
            raise errors.IncompatibleModel(f"the prompt has token {max(prompt_ids)}, the model knows only {known}")

    def _sampler(self, sampling: Sampling, vocab_size: int) -> Any:
        if sampling.is_greedy:
            return self._mlx_lm.make_sampler(temp=0.0)
        # A filter that lets all tokens pass raises inside a compiled function and spoils the random state.
        top_k = sampling.top_k if sampling.top_k < vocab_size else 0
        return self._mlx_lm.make_sampler(
            temp=sampling.temperature, top_p=sampling.top_p, min_p=sampling.min_p, top_k=top_k
        )

    def _processors(self, sampling: Sampling) -> Any:
        penalty = sampling.repetition_penalty
        return self._mlx_lm.make_logits_processors(repetition_penalty=penalty) if penalty != 1 else None

    def close(self) -> None:
        """Let go of the weights and of MLX's memory cache."""
        self._model = None
        gc.collect()
        _settle()


def load(model_dir: Path) -> Engine:
    """Load the weights in `model_dir`, evaluated.

    Raises: IncompatibleModel with mlx-lm's words.
    """
    mlx_lm = _import_mlx_lm()
    options = _accepted(mlx_lm.load_model, lazy=False, strict=True, trust_remote_code=False)
    with translated("mlx-lm cannot load the model", errors.IncompatibleModel, _DAMAGED_HINT):
        loaded = mlx_lm.load_model(model_dir, **options)
    return Engine(loaded[0], mlx_lm)


def load_tokenizer(model_dir: Path) -> Any:
    """Return mlx-lm's tokenizer wrapper; needs the real transformers.

    Raises: IncompatibleModel with the library's words.
    """
    mlx_lm = _import_mlx_lm()
    with translated("the tokenizer cannot be loaded", errors.IncompatibleModel):
        return mlx_lm.load_tokenizer(model_dir, tokenizer_config_extra={"trust_remote_code": False})


def render_by_code(tokenizer: Any, chat: list[dict[str, str]], *, thinking: bool) -> str:
    """Return the conversation as text, by mlx-lm's own code for templates that are no text.

    Raises: GenerationFailed with the library's words.
    """
    with translated("the model's chat template failed", errors.GenerationFailed):
        return str(
            tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
        )


def recommended_memory_bytes() -> int | None:
    """Return what the device says a process should use at most, None where it does not say."""
    info = mx.device_info() if hasattr(mx, "device_info") else {}
    value = info.get("max_recommended_working_set_size")
    return int(value) if value else None


def _import_mlx_lm() -> _MlxLm:
    with translated("mlx-lm cannot be imported", errors.DependencyMissing), file_limit_kept():
        utils = importlib.import_module("mlx_lm.utils")
        # Named by hand: the package has a function `generate` that hides the module.
        generate = importlib.import_module("mlx_lm.generate")
        samplers = importlib.import_module("mlx_lm.sample_utils")
        return _MlxLm(
            load_model=utils.load_model,
            load_tokenizer=utils.load_tokenizer,
            generate_step=generate.generate_step,
            make_sampler=samplers.make_sampler,
            make_logits_processors=samplers.make_logits_processors,
        )


@contextmanager
def file_limit_kept() -> Iterator[None]:
    """mlx-lm lowers the limit of open files for good when it is imported, or fails where it is already lower."""
    original = resource.setrlimit
    resource.setrlimit = lambda *_args: None
    try:
        yield
    finally:
        resource.setrlimit = original


@contextmanager
def translated(what: str, error_type: type[errors.MlxkError], hint: str | None = None) -> Iterator[None]:
    """Turn whatever mlx and mlx-lm raise into `error_type` with their own words."""
    try:
        yield
    except errors.MlxkError:
        raise
    except ENGINE_FAILURES as error:
        raise error_type(f"{what}: {_first_line(error)}", detail=str(error)[:_LONGEST_DETAIL], hint=hint) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(" :") if lines else type(error).__name__


def _accepted(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those of `options` that the installed version of `function` takes."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}


def _seed(seed: int | None) -> None:
    # Seeding each time also repairs a random state that an earlier failure left broken.
    mx.random.seed(int.from_bytes(os.urandom(8), "little") if seed is None else seed)


def _on_metal() -> bool:
    metal = getattr(mx, "metal", None)
    return metal is not None and bool(metal.is_available())


def _settle() -> None:
    """Wait for what is still being computed and return unused buffers."""
    mx.synchronize()
    if hasattr(mx, "clear_cache"):
        mx.clear_cache()


@atexit.register
def _leave() -> None:
    # A process that ends while MLX's stream threads live is aborted now and then.
    mx.synchronize()
    if hasattr(mx, "clear_streams"):
        mx.clear_streams()

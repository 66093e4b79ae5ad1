"""What the APIs ask alike of how an answer is made: sampling, budget, stop strings, and how many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlxk2.runner.request import GenerationRequest, Sampling
from mlxk2.server.errors import BadRequest
from mlxk2.server.settings import ServerSettings

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
_MOST_STOPS = 64
_LONGEST_STOP = 1024
_LARGEST_SEED = 2**64 - 1


def sampling_of(body: Any, settings: ServerSettings) -> Sampling:
    """Return how to sample: what the body says, else the server's own values. Raises: UsageError, BadRequest."""
    fields = {name: getattr(body, name, None) for name in _SAMPLING}
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    bias = getattr(body, "logit_bias", None)
    if bias:
        given["logit_bias"] = {_token_id(key): value for key, value in bias.items()}
    return replace(settings.sampling, **given)


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise BadRequest(f"logit_bias: {key[:40]!r} is no token id", param="logit_bias")
    return int(key)


def stops_of(stop: str | list[str] | None, name: str = "stop") -> tuple[str, ...]:
    """Return the stop strings. Raises: BadRequest."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MOST_STOPS or any(len(text) > _LONGEST_STOP for text in stops):
        raise BadRequest(f"{name}: at most {_MOST_STOPS} strings of at most {_LONGEST_STOP} characters", param=name)
    if not all(stops):
        raise BadRequest(f"{name} must not be empty", param=name)
    return stops


def budget_of(settings: ServerSettings, **given: int | None) -> int | None:
    """Return the budget of tokens: the first that is given, else the server's. Raises: BadRequest."""
    for name, value in given.items():
        if value is not None:
            if value < 1:
                raise BadRequest(f"{name} must be at least 1, not {value}", param=name)
            return value
    return settings.max_tokens


def choices_of(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """Return the same request so many times; where there is a seed, each with one of its own."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * count
    seeds = [(seed + number) & _LARGEST_SEED for number in range(count)]
    return [replace(request, sampling=replace(request.sampling, seed=one)) for one in seeds]


def count_of(n: int | None, settings: ServerSettings) -> int:
    """Return how many answers are asked for. Raises: BadRequest."""
    if n is not None and not 1 <= n <= settings.max_choices:
        raise BadRequest(f"n must be between 1 and {settings.max_choices}, not {n}", param="n")
    return n or 1


def check_stream_options(options: object, stream: bool | None) -> None:
    """Raises: BadRequest for options of a stream where there is none."""
    if options is not None and not stream:
        raise BadRequest("stream_options: only with stream", param="stream_options")

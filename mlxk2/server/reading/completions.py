"""A completion's request, understood: one request for each prompt and each choice."""

from __future__ import annotations

from typing import Union

from mlxk2.runner.request import GenerationRequest
from mlxk2.server.errors import TOO_LONG, BadRequest
from mlxk2.server.schemas.openai_text import CompletionRequest, EmbeddingRequest, TextsValue
from mlxk2.server.settings import ServerSettings

from .sampling import budget_of, check_stream_options, choices_of, count_of, sampling_of, stops_of

NAMES = {"logprobs": "logprobs", TOO_LONG: "prompt"}
# Those of a text to embed.
INPUT_NAMES = {"prompt": "input", TOO_LONG: "input"}
_MOST_PROMPTS = 256
# As many as OpenAI's API takes.
_MOST_INPUTS = 2048
_LARGEST_ID = 2**31 - 1
Text = Union[str, tuple[int, ...]]


def read_completions(body: CompletionRequest, settings: ServerSettings) -> list[GenerationRequest]:
    """Return `n` requests a prompt, in the order of the choices. Raises: UsageError, BadRequest."""
    count = count_of(body.n, settings)
    if body.best_of is not None and body.best_of != count:
        raise BadRequest("best_of: not supported unless it is n", param="best_of")
    prompts = _texts_of(body.prompt, "prompt", _MOST_PROMPTS // count)
    _check_extras(body, prompts)
    requests = []
    for prompt in prompts:
        request = GenerationRequest(
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_ids=None if isinstance(prompt, str) else prompt,
            suffix=body.suffix or None,
            sampling=sampling_of(body, settings),
            max_tokens=budget_of(settings, max_tokens=body.max_tokens),
            stop=stops_of(body.stop),
            top_logprobs=body.logprobs,
        )
        requests += choices_of(request, count)
    return requests


def read_inputs(body: EmbeddingRequest, settings: ServerSettings) -> tuple[Text, ...]:
    """Return the texts to embed, as they are or as ids. Raises: BadRequest."""
    return tuple(_texts_of(body.input, "input", _MOST_INPUTS))


def _texts_of(given: TextsValue, name: str, most: int) -> list[Text]:
    if isinstance(given, str):
        texts: list[Text] = [given]
    elif given and isinstance(given[0], int):
        texts = [_ids(given, name)]
    elif len(given) > most:
        raise BadRequest(f"{name}: {len(given)} texts at once, {most} at most", param=name)
    else:
        texts = [part if isinstance(part, str) else _ids(part, name) for part in given]
    if not texts or not all(texts):
        raise BadRequest(f"{name} must not be empty", param=name)
    return texts


def _ids(given: object, name: str) -> tuple[int, ...]:
    ids = tuple(given) if isinstance(given, list) else ()
    if ids and not 0 <= min(ids) <= max(ids) <= _LARGEST_ID:
        raise BadRequest(f"{name}: token ids are numbers from 0 on", param=name)
    return ids


def _check_extras(body: CompletionRequest, prompts: list[Text]) -> None:
    check_stream_options(body.stream_options, body.stream)
    are_texts = all(isinstance(prompt, str) for prompt in prompts)
    if body.echo and not are_texts:
        raise BadRequest("echo: only with prompts that are text", param="echo")
    if body.echo and body.logprobs is not None:
        raise BadRequest("echo: not together with logprobs, which are those of the answer alone", param="echo")
    if body.suffix and not are_texts:
        raise BadRequest("suffix: only with prompts that are text", param="suffix")

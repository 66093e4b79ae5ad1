"""Chat completions, completions and embeddings."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlxk2.errors import GenerationFailed
from mlxk2.server.answers import JsonResponse
from mlxk2.server.protocol import Embed, Embedded
from mlxk2.server.reading.chat import read_chat
from mlxk2.server.reading.completions import NAMES, read_completions, read_inputs
from mlxk2.server.schemas.openai_chat import ChatRequest
from mlxk2.server.schemas.openai_text import CompletionRequest, EmbeddingRequest
from mlxk2.server.writing.chat import ChatWriter
from mlxk2.server.writing.completions import CompletionWriter
from mlxk2.server.writing.failures import openai_failure

from .serving import Asked, answered, documented, exchange_of, streaming, understood_of, whole_name

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions", openapi_extra=documented(ChatRequest), response_class=JsonResponse)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    body, requests = await understood_of(request, ChatRequest, read_chat)
    options = body.stream_options
    writer = ChatWriter(
        len(requests), wants_usage=options is not None and options.include_usage, wants_logprobs=body.logprobs
    )
    answer = streaming if body.stream else answered
    return await answer(request, Asked(body.model, requests), writer)


@router.post("/v1/completions", openapi_extra=documented(CompletionRequest), response_class=JsonResponse)
async def completions(request: Request) -> Response:
    """Continue texts, as they are."""
    body, requests = await understood_of(request, CompletionRequest, read_completions)
    options = body.stream_options
    writer = CompletionWriter(
        [(one.prompt or "") if body.echo else "" for one in requests],
        choices_a_prompt=body.n or 1,
        wants_usage=options is not None and options.include_usage,
        wants_logprobs=body.logprobs is not None,
    )
    asked = Asked(body.model, requests)
    if body.stream:
        return await streaming(request, asked, writer, partial(openai_failure, names=NAMES))
    return await answered(request, asked, writer)


@router.post("/v1/embeddings", openapi_extra=documented(EmbeddingRequest), response_class=JsonResponse)
async def embeddings(request: Request) -> Response:
    """Embed texts."""
    body, inputs = await understood_of(request, EmbeddingRequest, read_inputs)
    async with exchange_of(request) as exchange:
        name = await whole_name(exchange, body.model)
        done = await exchange.result(exchange.last(body.model, lambda id: Embed(id, inputs)))
    if not isinstance(done, Embedded):
        raise GenerationFailed("the engine answered something else")
    data = [
        {"object": "embedding", "index": number, "embedding": _spelled(vector, body.encoding_format)}
        for number, vector in enumerate(done.vectors)
    ]
    usage = {"prompt_tokens": done.prompt_tokens, "total_tokens": done.prompt_tokens}
    return JsonResponse({"object": "list", "data": data, "model": name, "usage": usage})


def _spelled(vector: Sequence[float], encoding: str) -> Any:
    if encoding == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")

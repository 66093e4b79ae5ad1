"""Anthropic's Messages API."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlxk2.errors import GenerationFailed
from mlxk2.server.answers import JsonResponse
from mlxk2.server.protocol import Count, Counted
from mlxk2.server.reading.anthropic import read_messages
from mlxk2.server.schemas.anthropic import CountRequest, MessagesRequest
from mlxk2.server.writing.anthropic import PING, MessageWriter, anthropic_failure

from .serving import Asked, answered, documented, exchange_of, streaming, understood_of, whole_name

router = APIRouter(tags=["Anthropic"])


@router.post("/v1/messages", openapi_extra=documented(MessagesRequest), response_class=JsonResponse)
async def messages(request: Request) -> Response:
    """Answer a conversation, in the form of Anthropic's API."""
    body, asked_for = await understood_of(request, MessagesRequest, read_messages)
    writer, asked = MessageWriter(), Asked(body.model, [asked_for])
    if body.stream:
        return await streaming(request, asked, writer, anthropic_failure, PING)
    return await answered(request, asked, writer)


@router.post("/v1/messages/count_tokens", openapi_extra=documented(CountRequest), response_class=JsonResponse)
async def count_tokens(request: Request) -> Response:
    """Count the tokens of a prompt."""
    body, asked = await understood_of(request, CountRequest, read_messages)
    async with exchange_of(request) as exchange:
        await whole_name(exchange, body.model)
        done = await exchange.result(exchange.last(body.model, lambda id: Count(id, asked)))
    if not isinstance(done, Counted):
        raise GenerationFailed("the engine answered something else")
    return JsonResponse({"input_tokens": done.tokens})

"""OpenAI's Responses API, without a memory: each request brings everything."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlxk2.runner.request import GenerationRequest
from mlxk2.server.answers import JsonResponse
from mlxk2.server.reading.responses import read_responses
from mlxk2.server.schemas.openai_responses import ResponsesRequest
from mlxk2.server.writing.responses import ResponseWriter

from .serving import Asked, answered, documented, streaming, understood_of

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/responses", openapi_extra=documented(ResponsesRequest), response_class=JsonResponse)
async def responses(request: Request) -> Response:
    """Answer a conversation, in the form of the Responses API."""
    body, asked = await understood_of(request, ResponsesRequest, read_responses)
    packs = "reasoning.encrypted_content" in (body.include or ())
    writer = ResponseWriter(_echo(body, asked), packs)
    all_asked = Asked(body.model, [asked])
    if body.stream:
        return await streaming(request, all_asked, writer, writer.failure)
    return await answered(request, all_asked, writer)


def _echo(body: ResponsesRequest, asked: GenerationRequest) -> dict[str, Any]:
    """Return what the answer repeats, as it was understood."""
    echoed = {"text", "reasoning", "tool_choice", "tools"}
    said = body.model_dump(mode="json", by_alias=True, exclude_none=True, include=echoed)
    text = said.get("text", {})
    reasoning = said.get("reasoning", {})
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "temperature": asked.sampling.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": said.get("tool_choice", "auto"),
        "tools": said.get("tools", []),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": asked.sampling.top_p,
        "user": body.user,
    }

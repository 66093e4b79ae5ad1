"""The answers as the OpenAPI document describes them: what a client can count on, not every field."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_NUMBER = {"type": "integer"}
_MAYBE_NUMBER = {"type": ["integer", "null"]}
_FLAG = {"type": "boolean"}


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": fields}


def _list(of: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "array", "items": of or {"type": "object"}}


_MODEL = _object(
    id=_TEXT, object={"const": "model"}, created=_NUMBER, owned_by=_TEXT, context_length=_MAYBE_NUMBER,
    capabilities=_list(_TEXT), loaded=_FLAG,
)  # fmt: skip
_USAGE = _object(prompt_tokens=_NUMBER, completion_tokens=_NUMBER, total_tokens=_NUMBER)

ANSWERS: dict[str, dict[str, Any]] = {
    "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_MAYBE_TEXT, code=_TEXT)),
    "AnthropicError": _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT)),
    "ChatAnswer": _object(
        id=_TEXT, object={"const": "chat.completion"}, created=_NUMBER, model=_TEXT, choices=_list(), usage=_USAGE
    ),
    "CompletionAnswer": _object(
        id=_TEXT, object={"const": "text_completion"}, created=_NUMBER, model=_TEXT, choices=_list(), usage=_USAGE
    ),
    "ResponsesAnswer": _object(
        id=_TEXT, object={"const": "response"}, created_at=_NUMBER, status=_TEXT, model=_TEXT, output=_list(),
        usage={"type": ["object", "null"]},
    ),
    "MessagesAnswer": _object(
        id=_TEXT, type={"const": "message"}, role={"const": "assistant"}, model=_TEXT, content=_list(),
        stop_reason=_MAYBE_TEXT, usage=_object(input_tokens=_NUMBER, output_tokens=_NUMBER),
    ),
    "CountAnswer": _object(input_tokens=_NUMBER),
    "EmbeddingAnswer": _object(object={"const": "list"}, data=_list(), model=_TEXT, usage={"type": "object"}),
    "Model": _MODEL,
    "Models": _object(object={"const": "list"}, data=_list(_MODEL)),
    "ModelLoaded": _object(id=_TEXT, object={"const": "model"}, loaded=_FLAG),
    "Health": _object(status={"enum": ["healthy", "unhealthy"]}, service=_TEXT),
    "Status": _object(
        state=_TEXT, problem=_MAYBE_TEXT, uptime_s={"type": "number"}, running=_NUMBER, waiting=_NUMBER,
        max_concurrency=_NUMBER, max_queue=_NUMBER, restarts=_NUMBER, loaded=_list(),
    ),
}  # fmt: skip

# What is answered at which address, where it is JSON.
OF_PATHS = {
    "/v1/chat/completions": "ChatAnswer",
    "/v1/completions": "CompletionAnswer",
    "/v1/responses": "ResponsesAnswer",
    "/v1/messages": "MessagesAnswer",
    "/v1/messages/count_tokens": "CountAnswer",
    "/v1/embeddings": "EmbeddingAnswer",
    "/v1/models": "Models",
    "/v1/models/{name}": "Model",
    "/v1/models/{name}/load": "ModelLoaded",
    "/v1/models/{name}/unload": "ModelLoaded",
    "/health": "Health",
    "/v1/status": "Status",
}
STREAMED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})

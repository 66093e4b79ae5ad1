"""The OpenAPI document: what FastAPI knows of the routes, and the schemas of their bodies."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from mlxk2.server.answers import speaks_anthropic
from mlxk2.server.metrics import CONTENT_TYPE
from mlxk2.server.schemas.answers import ANSWERS, OF_PATHS, STREAMED
from mlxk2.server.schemas.anthropic import CountRequest, MessagesRequest
from mlxk2.server.schemas.openai_chat import ChatRequest
from mlxk2.server.schemas.openai_responses import ResponsesRequest
from mlxk2.server.schemas.openai_text import CompletionRequest, EmbeddingRequest
from mlxk2.server.security import OPEN_PATHS

BODIES: tuple[type[BaseModel], ...] = (
    ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesRequest, MessagesRequest, CountRequest,
)  # fmt: skip
_REFERENCE = "#/components/schemas/{model}"
_TEXT = {"schema": {"type": "string"}}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document; it is made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for body in BODIES:
            schema = body.model_json_schema(ref_template=_REFERENCE)
            schemas |= schema.pop("$defs", {})
            schemas[body.__name__] = schema
        schemas |= ANSWERS
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        for path, operations in made["paths"].items():
            for operation in operations.values():
                operation["responses"] = _answers(path)
                if path in OPEN_PATHS:
                    operation["security"] = []
        made["components"]["securitySchemes"] = _KEYS
        # A server without keys answers everybody.
        made["security"] = [*({name: []} for name in _KEYS), *([] if app.state.serving.settings.api_keys else [{}])]
        app.openapi_schema = made
    made_before: dict[str, Any] = app.openapi_schema
    return made_before


def _answers(path: str) -> dict[str, Any]:
    error = _json("AnthropicError" if speaks_anthropic(path) else "Error")
    answers = {
        "200": {"description": "The answer.", "content": _content(path)},
        "4XX": {"description": "The request cannot be answered.", "content": error},
        "5XX": {"description": "The server cannot answer now.", "content": error},
    }
    if path == "/health":
        answers["503"] = {"description": "The server cannot answer now.", "content": _json("Health")}
    return answers


def _content(path: str) -> dict[str, Any]:
    if path == "/metrics":
        return {CONTENT_TYPE.partition(";")[0]: _TEXT}
    content = _json(OF_PATHS[path])
    if path in STREAMED:
        content["text/event-stream"] = _TEXT
    return content


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=name)}}}

"""The OpenAPI document: what FastAPI knows of the routes, and the schemas of their bodies."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from mlxk2.server.schemas.anthropic import CountRequest, MessagesRequest
from mlxk2.server.schemas.openai_chat import ChatRequest
from mlxk2.server.schemas.openai_responses import ResponsesRequest
from mlxk2.server.schemas.openai_text import CompletionRequest, EmbeddingRequest

BODIES: tuple[type[BaseModel], ...] = (
    ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesRequest, MessagesRequest, CountRequest,
)  # fmt: skip
_REFERENCE = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "type": {"type": "string"},
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
    },
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
        schemas["Error"] = _ERROR
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        for path in made["paths"].values():
            for operation in path.values():
                _describe_errors(operation)
        app.openapi_schema = made
    made_before: dict[str, Any] = app.openapi_schema
    return made_before


def _describe_errors(operation: dict[str, Any]) -> None:
    answers = operation.setdefault("responses", {})
    answers.pop("422", None)
    content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")}}}
    answers["4XX"] = {"description": "The request cannot be answered.", "content": content}
    answers["5XX"] = {"description": "The server cannot answer now.", "content": content}

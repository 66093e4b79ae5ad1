"""What all routes share: the parts of the application, and a request's way from its body to its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from mlxk2.errors import MlxkError, ModelNotFound
from mlxk2.runner.request import GenerationRequest
from mlxk2.server.answers import JsonResponse, error_response
from mlxk2.server.bodies import Bodies
from mlxk2.server.body import read_body, understood
from mlxk2.server.errors import code_of
from mlxk2.server.exchange import Collected, Exchange, Numbered, collect
from mlxk2.server.host_types import HostLike
from mlxk2.server.metrics import Metrics
from mlxk2.server.models import Models
from mlxk2.server.record import record_of
from mlxk2.server.schemas.anthropic import CountRequest, MessagesRequest
from mlxk2.server.schemas.openai_chat import ChatRequest
from mlxk2.server.schemas.openai_responses import ResponsesRequest
from mlxk2.server.schemas.openai_text import CompletionRequest, EmbeddingRequest
from mlxk2.server.settings import ServerSettings
from mlxk2.server.sse import COMMENT, Failure, streamed
from mlxk2.server.writing.failures import openai_failure

Body = TypeVar(
    "Body", ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesRequest, MessagesRequest, CountRequest
)
Result = TypeVar("Result")

_LONGEST_NAME = 4096


@dataclass(frozen=True)
class Serving:
    """The parts that routes work with."""

    host: HostLike
    settings: ServerSettings
    models: Models
    metrics: Metrics
    bodies: Bodies


class Asked(NamedTuple):
    """What is asked of which model."""

    model: str | None
    requests: Sequence[GenerationRequest]

    def events(self, exchange: Exchange) -> AsyncIterator[Numbered]:
        """Yield the events of all answers. Raises: MlxkError."""
        return exchange.generate(self.model, self.requests)


class Writer(Protocol):
    """What makes an API's answers; `model` is the name that they call the model by."""

    model: str

    def whole(self, answers: Sequence[Collected]) -> dict[str, Any]:
        """Return the complete object."""
        ...

    def frames(self, events: AsyncIterator[Numbered]) -> AsyncIterator[bytes]:
        """Yield the stream's frames."""
        ...


def serving_of(request: Request) -> Serving:
    """Return the parts of the application that serves the request."""
    serving = request.app.state.serving
    assert isinstance(serving, Serving)
    return serving


async def understood_of(
    request: Request, schema: type[Body], read: Callable[[Body, ServerSettings], Result]
) -> tuple[Body, Result]:
    """Return the request's body and what `read` makes of it; note what it calls the model.

    Raises: BadRequest and its like, QueueFull, ModelNotFound, what `read` raises.
    """
    serving = serving_of(request)
    with serving.bodies.place() as take:
        raw = await read_body(request, serving.settings, take)
        body = await serving.bodies.work(len(raw), understood, raw, schema)
        _note_model(request, body.model)
        return body, await serving.bodies.work(len(raw), read, body, serving.settings)


def _note_model(request: Request, asked: str | None) -> None:
    """Note what the request calls the model, until its whole name is known. Raises: ModelNotFound."""
    if asked is not None and len(asked) > _LONGEST_NAME:
        raise ModelNotFound(f"no model has a name of {len(asked)} characters", param="model")
    record_of(request.scope).model = asked or serving_of(request).host.snapshot().model or ""


async def whole_name(exchange: Exchange, asked: str | None) -> str:
    """Return the model's name as /v1/models lists it, and note it. Raises: ModelNotFound and its like."""
    name = await exchange.result(exchange.host.name_of(asked))
    exchange.record.model = name
    return name


@asynccontextmanager
async def exchange_of(request: Request) -> AsyncIterator[Exchange]:
    """Watch the client for as long as one works for it."""
    serving = serving_of(request)
    exchange = Exchange(serving.host, serving.settings, record_of(request.scope), request.receive)
    try:
        yield exchange
    finally:
        exchange.close()


async def answered(request: Request, asked: Asked, writer: Writer) -> Response:
    """Return one complete answer. Raises: MlxkError."""
    async with exchange_of(request) as exchange:
        writer.model = await whole_name(exchange, asked.model)
        answers = await exchange.result(collect(asked.events(exchange), len(asked.requests)))
    return JsonResponse(writer.whole(answers))


async def streaming(
    request: Request, asked: Asked, writer: Writer, fail: Failure = openai_failure, idle: bytes = COMMENT
) -> Response:
    """Return an answer that comes in pieces. Raises: MlxkError, as long as nothing was sent."""
    serving, record = serving_of(request), record_of(request.scope)
    record.stream = True
    exchange = Exchange(serving.host, serving.settings, record, request.receive)
    with ExitStack() as undo:
        undo.callback(exchange.close)
        writer.model = await whole_name(exchange, asked.model)
        answer = await streamed(exchange, asked.events(exchange), writer.frames, fail, idle)
        undo.pop_all()
    return answer


def refused(request: Request, error: MlxkError, names: Mapping[str, str] | None = None) -> Response:
    """Return the answer that says what is wrong."""
    record_of(request.scope).error = code_of(error)
    return error_response(request.scope["path"], error, names)


def documented(schema: type[BaseModel]) -> dict[str, Any]:
    """Return what the OpenAPI document says of a route's body."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}

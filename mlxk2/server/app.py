"""The application: routes behind a gate behind a log. Knows a host, and no engine."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlxk2 import __version__
from mlxk2.errors import InternalError, MlxkError
from mlxk2.server.access_log import AccessLog, id_headers
from mlxk2.server.answers import error_response
from mlxk2.server.bodies import Bodies
from mlxk2.server.errors import Forbidden, MethodNotAllowed, NoSuchRoute
from mlxk2.server.host_types import HostLike
from mlxk2.server.metrics import Metrics
from mlxk2.server.models import Catalog, Models, nothing_cached
from mlxk2.server.openapi import document
from mlxk2.server.reading import anthropic as anthropic_reading
from mlxk2.server.reading import chat as chat_reading
from mlxk2.server.reading import completions as completions_reading
from mlxk2.server.reading import responses as responses_reading
from mlxk2.server.record import record_of
from mlxk2.server.routes.anthropic import router as anthropic
from mlxk2.server.routes.methods import heads_of, methods_at
from mlxk2.server.routes.openai import router as openai
from mlxk2.server.routes.responses import router as responses
from mlxk2.server.routes.serving import Serving, refused
from mlxk2.server.routes.state import router as state
from mlxk2.server.security import Gate
from mlxk2.server.settings import ServerSettings

_APIS = (openai, responses, anthropic, state)
_ROUTERS = (*_APIS, heads_of(_APIS))

# The words of each API for the fields that an error names.
_NAMES = {
    "/v1/chat/completions": chat_reading.NAMES,
    "/v1/completions": completions_reading.NAMES,
    "/v1/embeddings": completions_reading.INPUT_NAMES,
    "/v1/responses": responses_reading.NAMES,
    "/v1/messages": anthropic_reading.NAMES,
}


def create_app(host: HostLike, settings: ServerSettings, list_models: Catalog = nothing_cached) -> FastAPI:
    """Return the application that answers for `host`; `list_models` describes the models of the cache."""
    metrics = Metrics(host)
    app = FastAPI(
        title="MLX Knife",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(settings, metrics),
        exception_handlers={MlxkError: _told, HTTPException: _http_error, Exception: _bug},
        redirect_slashes=False,
    )
    app.state.serving = Serving(
        host, settings, Models(list_models, host, settings), metrics, Bodies(host, settings.max_body_bytes)
    )
    for router in _ROUTERS:
        app.include_router(router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def _middleware(settings: ServerSettings, metrics: Metrics) -> list[Middleware]:
    """The outermost first: what the gate refuses is logged and counted too."""
    layers: list[Any] = [Middleware(AccessLog, on_begin=metrics.begin, on_end=metrics.end)]
    if settings.cors_origins:
        cors = Middleware(
            _Cors,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "request-id", "retry-after"],
        )
        layers.append(cors)
    return [*layers, Middleware(Gate, settings=settings), Middleware(_RouteNames)]


class _Cors(CORSMiddleware):
    """Refuses in our own words."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks whether a page may ask."""
        told = super().preflight_response(request_headers)
        if told.status_code < 400:
            return told
        words = bytes(told.body).decode("ascii")
        answer = error_response("/", Forbidden(f"{words}; serve's flag --cors-origin ORIGIN lets a site in"))
        for name, value in told.headers.items():
            answer.headers.setdefault(name, value)
        return answer


class _RouteNames:
    """Notes the route's pattern: paths themselves are endless in number, and metrics must not be."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                route = scope.get("route")
                record_of(scope).route = getattr(route, "path_format", "other")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, MlxkError)
    names = next((names for path, names in _NAMES.items() if request.url.path.startswith(path)), None)
    return refused(request, error, names)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path[:100]
    if error.status_code == 405:
        answer = refused(request, MethodNotAllowed(f"{method} is not possible for {path}"))
        routes = [*request.app.routes, *(route for router in _ROUTERS for route in router.routes)]
        answer.headers["allow"] = ", ".join(sorted(methods_at(request.scope, routes)))
        return answer
    return refused(request, NoSuchRoute(f"there is nothing at {method} {path}", hint="see /docs"))


async def _bug(request: Request, error: Exception) -> Response:
    """Answer in front of everything else, the log's headers included; the traceback goes to the log."""
    answer = refused(request, InternalError("the server failed; its log says how"))
    for name in id_headers(request.scope["path"]):
        answer.headers[name] = record_of(request.scope).request_id
    return answer

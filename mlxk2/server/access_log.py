"""Request ids, and one line a request once its answer has ended. Never a header, a query or a word of what was said."""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from datetime import datetime, timezone
from typing import Any, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlxk2.server.answers import speaks_anthropic
from mlxk2.server.record import RequestRecord, put_record
from mlxk2.server.settings import ServerSettings
from mlxk2.text import one_line

LOGGER = logging.getLogger("mlxk2.access")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LONGEST_PATH = 200
_LONGEST_NAME = 200


class AccessLog:
    """Gives each request an id and a record, and tells `on_end` and the log how it ended."""

    def __init__(self, app: ASGIApp, on_begin: Callable[[RequestRecord], None], on_end: Callable[..., None]) -> None:
        self._app, self._on_begin, self._on_end = app, on_begin, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(_request_id(Headers(scope=scope)))
        put_record(scope, record)
        self._on_begin(record)
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name in id_headers(scope["path"]):
                    headers[name] = record.request_id
                headers.setdefault("x-content-type-options", "nosniff")
            await send(message)

        # Without an answer: the client has left, or a bug is on its way to the outermost handler.
        unanswered = 500
        try:
            await self._app(scope, receive, noting)
            unanswered = 499
        finally:
            status = status or unanswered
            duration = time.perf_counter() - record.started
            self._on_end(record, scope["method"], status, duration)
            _write(scope, record, status, duration)


def _write(scope: Scope, record: RequestRecord, status: int, duration: float) -> None:
    client = scope.get("client")
    fields = {
        "request_id": record.request_id,
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": one_line(scope["path"])[:_LONGEST_PATH],
        "status": status,
        "duration_s": round(duration, 4),
    }
    if record.model is not None or record.prompt_tokens:
        fields |= {
            "model": None if record.model is None else one_line(record.model[:_LONGEST_NAME]),
            "stream": record.stream,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "ttft_s": None if record.ttft_s is None else round(record.ttft_s, 4),
            "finish_reason": record.finish_reason,
        }
    if record.error is not None:
        fields["error"] = record.error
    LOGGER.info("request", extra={"fields": fields})


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else new_request_id()


def id_headers(path: str) -> tuple[str, ...]:
    """Return the headers that tell an answer's id; Anthropic's clients look for one of their own."""
    return ("x-request-id", "request-id") if speaks_anthropic(path) else ("x-request-id",)


def new_request_id() -> str:
    """Return an id that no other request has."""
    return f"req_{uuid.uuid4().hex}"


class JsonLines(logging.Formatter):
    """Every record one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Spell a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=True, default=str)


class PlainLines(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Spell a record."""
        fields = getattr(record, "fields", {})
        known = " ".join(f"{name}={one_line(str(value))}" for name, value in fields.items() if value is not None)
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        text = f"{when} {record.levelname.lower()}: {one_line(record.getMessage())}" + (f" {known}" if known else "")
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return text


def log_config(settings: ServerSettings) -> dict[str, Any]:
    """Return what `logging` and uvicorn are to do: everything to standard error, in one form."""
    form = JsonLines if settings.log_json else PlainLines
    level = settings.log_level.upper()
    heard = {"handlers": ["stderr"], "level": level, "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": form}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "mlxk2": heard,
            "uvicorn": heard,
            "uvicorn.error": {"level": level},
            "uvicorn.access": {"handlers": [], "propagate": False},
            "py.warnings": heard,
            "asyncio": heard,
        },
    }


def uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    """Return what uvicorn needs to be told besides the application and where to listen."""
    return {
        "log_config": log_config(settings),
        "log_level": settings.log_level,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "lifespan": "on",
        "timeout_keep_alive": 30,
    }

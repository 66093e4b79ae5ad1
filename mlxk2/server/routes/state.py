"""How the server is: health, models, metrics; and the pages for people."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from mlxk2.server.answers import JsonResponse
from mlxk2.server.body import check_nothing_asked
from mlxk2.server.host_types import FAILED, RESTARTING, STOPPING
from mlxk2.server.metrics import CONTENT_TYPE
from mlxk2.server.record import record_of
from mlxk2.server.status import status_of

from .serving import exchange_of, serving_of, whole_name


class _ModelName(Convertor[str]):
    """A name with its slashes, unless it ends as the addresses do that load and unload."""

    regex = r".*(?<!/load)(?<!/unload)"

    def convert(self, value: str) -> str:
        """Return the name."""
        return value

    def to_string(self, value: str) -> str:
        """Return the part of the address."""
        return value


register_url_convertor("model", _ModelName())

SERVICE = "mlx-knife-server-2.0"
router = APIRouter(tags=["Server"])

# The pages ask this server and nobody else, nobody may frame them, and only what is in their files runs.
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src {styles}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@router.get("/health", response_class=JsonResponse)
async def health(request: Request) -> Response:
    """Tell whether the server can answer; a model that is being loaded, or none, is no illness."""
    snapshot = serving_of(request).host.snapshot()
    if snapshot.state not in (RESTARTING, FAILED, STOPPING):
        return JsonResponse({"status": "healthy", "service": SERVICE})
    # Anybody may ask; why it is so, with the names in it, is for those who have the key: /v1/status.
    told = {"status": "unhealthy", "service": SERVICE, "state": snapshot.state}
    return JsonResponse(told, status_code=503, headers={"retry-after": "1"})


@router.get("/v1/status", response_class=JsonResponse)
async def status(request: Request) -> Response:
    """Tell what is loaded, and how busy the server is; `mlxk2 ps` asks this."""
    return JsonResponse(status_of(serving_of(request).host.snapshot()))


@router.get("/v1/models", response_class=JsonResponse)
async def models(request: Request) -> Response:
    """List the models that can be asked."""
    return JsonResponse({"object": "list", "data": await serving_of(request).models.listed()})


@router.get("/v1/models/{name:model}", response_class=JsonResponse)
async def model(request: Request, name: str) -> Response:
    """Describe one model."""
    return JsonResponse(await serving_of(request).models.one(name))


@router.post("/v1/models/{name:path}/load", response_class=JsonResponse)
async def load(request: Request, name: str) -> Response:
    """Load a model; answer when it is loaded."""
    await check_nothing_asked(request, serving_of(request).settings)
    record_of(request.scope).model = name
    async with exchange_of(request) as exchange:
        name = await whole_name(exchange, name)
        await exchange.result(exchange.host.load(name))
    return JsonResponse({"id": name, "object": "model", "loaded": True})


@router.post("/v1/models/{name:path}/unload", response_class=JsonResponse)
async def unload(request: Request, name: str) -> Response:
    """Unload a model; answer when its memory is the system's again."""
    await check_nothing_asked(request, serving_of(request).settings)
    record_of(request.scope).model = name
    async with exchange_of(request) as exchange:
        # The loaded one goes even if it is not on disk any more.
        is_known = name == exchange.host.snapshot().model
        name = name if is_known else await whole_name(exchange, name)
        await exchange.result(exchange.host.unload(name))
    return JsonResponse({"id": name, "object": "model", "loaded": False})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Count and measure, for Prometheus."""
    return Response(serving_of(request).metrics.text(), headers={"content-type": CONTENT_TYPE})


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Show a page to chat with a model."""
    return _page("chat.html")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Show the addresses and their fields."""
    return _page("docs.html")


@router.get("/favicon.ico", include_in_schema=False)
async def icon() -> Response:
    """Browsers ask for one; there is none."""
    return Response(status_code=204)


def _page(name: str) -> Response:
    text, policy = _page_and_policy(name)
    headers = {"content-security-policy": policy, "cache-control": "no-cache", "referrer-policy": "no-referrer"}
    return Response(text, media_type="text/html", headers=headers)


@cache
def _page_and_policy(name: str) -> tuple[str, str]:
    text = (files("mlxk2.server.page") / name).read_text(encoding="utf-8")
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, inside in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(inside.encode("utf-8")).digest()).decode("ascii")
        hashes[kind].append(f"'sha256-{digest}'")
    return text, _POLICY.format(scripts=" ".join(hashes["script"]), styles=" ".join(hashes["style"]))

"""What the framework leaves out of HTTP: HEAD wherever there is GET, and all methods of an address where one is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope


def heads_of(routers: Sequence[APIRouter]) -> APIRouter:
    """Return routes that answer HEAD as GET is answered; the HTTP server itself leaves the body out."""
    heads = APIRouter()
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute) and "GET" in route.methods:
            heads.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                include_in_schema=False,
                response_class=route.response_class,
            )
    return heads


def methods_at(scope: Scope, routes: Sequence[BaseRoute]) -> set[str]:
    """Return the methods that are possible at the address of a request."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found

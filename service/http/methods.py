"""Which methods a path has (RFC 9110, section 15.5.6)."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match


def allowed_methods(routes: Iterable[BaseRoute], scope: Mapping[str, Any]) -> str:
    """The methods of all documented routes with this path, for the header Allow; "" if no route has the path.
    Starlette names the methods of one route only."""
    matching = [
        route
        for route in routes
        if isinstance(route, APIRoute) and route.include_in_schema and route.matches({**scope})[0] is not Match.NONE
    ]
    methods = {method for route in matching if route.path == matching[0].path for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def check_method(request: Request) -> None:
    """Refuse a wrong method, where a catch-all route accepts every method.

    Raises:
        HTTPException: 405, if the service has the path.
    """
    if allowed := allowed_methods(request.app.state.routes, request.scope):
        raise HTTPException(405, headers={"Allow": allowed})

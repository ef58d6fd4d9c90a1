"""Which methods a path has (RFC 9110, sections 9.3.7 and 15.5.6)."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

ANY_PATH = "/{rest:path}"
"""The end of the path of a route that refuses, in the form of a foreign API, what no other route answers."""


def allowed_methods(routes: Iterable[BaseRoute], scope: Mapping[str, Any]) -> str:
    """The methods of all routes with this path, for the header Allow; "" if no route has the path. Starlette names the
    methods of one route only."""
    matching = [
        route
        for route in routes
        if isinstance(route, APIRoute)
        and not route.path.endswith(ANY_PATH)
        and route.matches({**scope})[0] is not Match.NONE
    ]
    methods = {method for route in matching if route.path == matching[0].path for method in route.methods or ()}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods | {"OPTIONS"})) if methods else ""


def check_method(request: Request) -> None:
    """Refuse a wrong method, where a catch-all route accepts every method.

    Raises:
        HTTPException: 405, if the service has the path.
    """
    if allowed := allowed_methods(request.app.state.routes, request.scope):
        raise HTTPException(405, headers={"Allow": allowed})

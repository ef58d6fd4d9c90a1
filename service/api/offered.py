"""Which methods a path has (RFC 9110, section 15.5.6)."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


class WrongMethodError(HTTPException):
    """The path has other methods."""

    def __init__(self, methods: Iterable[str]) -> None:
        found = {*methods}
        super().__init__(405, headers={"Allow": ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))})


def wrong_method(routes: Iterable[BaseRoute], scope: Mapping[str, Any]) -> WrongMethodError:
    """With all methods of the path; Starlette names those of one of its routes only."""
    tried = list(routes)

    def has(method: str) -> bool:
        return any(route.matches({**scope, "method": method})[0] is Match.FULL for route in tried)

    return WrongMethodError(filter(has, METHODS))


def check_method(router: APIRouter, request: Request) -> None:
    """Refuse a wrong method where a catch-all route takes all of them.

    Raises:
        WrongMethodError: the path is one of the router's.
    """
    methods = {
        method
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema and route.matches(request.scope)[0] is Match.PARTIAL
        for method in route.methods or ()
    }
    if methods:
        raise WrongMethodError(methods)

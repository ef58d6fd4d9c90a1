"""What a catch-all route says of a path that exists, asked for with another method."""

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match


def check_method(router: APIRouter, request: Request) -> None:
    """Refuse a wrong method as HTTP has it, with those that the path has (RFC 9110, section 15.5.6).

    Raises:
        HTTPException: 405, if the path is one of the router's.
    """
    allowed = {
        method
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema and route.matches(request.scope)[0] is Match.PARTIAL
        for method in route.methods or ()
    }
    if allowed:
        raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})

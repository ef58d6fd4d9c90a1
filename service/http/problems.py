"""Turns every error into application/problem+json (RFC 9457), or under /v1 into OpenAI's form of an error. Never shows
the input, or the text of an unexpected exception."""

import random
from collections.abc import Iterator, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.errors import (
    BodyEncodingError,
    CarryError,
    ForbiddenError,
    InvalidRequestError,
    MalformedBodyError,
    QueueFullError,
    RetryLaterError,
    RouteNotFoundError,
    StepsPerMinuteError,
    UnauthorizedError,
)
from service.http.methods import allowed_methods
from service.http.schemas import Answer, Problem
from service.validation import explain

PROBLEM = "application/problem+json"

_HTTP_CODES = {404: RouteNotFoundError.code, 405: "method_not_allowed"}


OPENAI = "/v1/"
"""Prefix of the paths that OpenAI's clients call."""
WITHOUT_PREFIX = frozenset({"/completions", "/chat/completions"})
"""The paths that they call if their base URL lacks the prefix."""
_OPENAI_CODES = {
    UnauthorizedError.code: "invalid_api_key",
    QueueFullError.code: "rate_limit_exceeded",
    StepsPerMinuteError.code: "rate_limit_exceeded",
}

RequestOrScope = Request | MutableMapping[str, Any]


def problem_answer(error: CarryError, request: RequestOrScope) -> Response:
    """The answer to send for an error."""
    answer = _answer(problem_of(error, request), request)
    if isinstance(error, RetryLaterError) or error.status == 503:
        seconds = error.retry_after if isinstance(error, RetryLaterError) else 1
        answer.headers["Retry-After"] = str(seconds)
        # Random, or clients that were refused together would retry together. The steps of a key do not come earlier.
        earliest, latest = (1.0, 1.2) if isinstance(error, StepsPerMinuteError) else (0.1, 1.0)
        answer.headers["Retry-After-Ms"] = str(round(1000 * seconds * random.uniform(earliest, latest)))
    if isinstance(error, BodyEncodingError):
        answer.headers["Accept-Encoding"] = "gzip, zstd"  # RFC 9110, section 15.5.16
    if isinstance(error, UnauthorizedError):
        answer.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, ForbiddenError) and error.scope is not None:
        answer.headers["WWW-Authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return answer


def problem_of(error: CarryError, request: RequestOrScope) -> dict[str, Any]:
    """The problem document of an error."""
    errors = [{"path": error.path, "message": error.detail}] if error.path else []
    return _document(error.status, error.code, error.detail, request, errors)


def problem_codes(of: type[CarryError] = CarryError) -> Iterator[str]:
    """The codes of all problems."""
    if of is CarryError:
        yield from (*_HTTP_CODES.values(), "http_error")
    else:
        yield of.code
    for error in of.__subclasses__():
        yield from problem_codes(error)


def openai_error(document: dict[str, Any]) -> dict[str, Any]:
    """A problem document in the form of OpenAI's API."""
    status, code, errors = document["status"], document["code"], document.get("errors")
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    param = errors[0]["path"].removeprefix("$").removeprefix(".") if errors else ""
    message = document["detail"].removeprefix("$.")
    if param and not message.startswith(param):
        message = f"{param}: {message}"
    return {"error": {"message": message, "type": kind, "param": param or None, "code": _OPENAI_CODES.get(code, code)}}


def _answer(document: dict[str, Any], request: RequestOrScope) -> Response:
    """The answer for a problem document, in the form that clients of this path read."""
    status = document["status"]
    if not request["path"].startswith(OPENAI) and request["path"] not in WITHOUT_PREFIX:
        return Response(orjson.dumps(document), status, media_type=PROBLEM)
    # OpenAI's API answers 400 to bad values.
    return Response(
        orjson.dumps(openai_error(document)), 400 if status == 422 else status, media_type="application/json"
    )


def _document(
    status: int, code: str, detail: str, request: RequestOrScope, errors: Sequence[dict[str, str]] = ()
) -> dict[str, Any]:
    scope = request.scope if isinstance(request, Request) else request
    scope["carry.problem"] = code  # for the metrics
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": _printable(detail),
        "code": code,
        "request_id": request.get("carry.request_id", ""),
        "trace_id": request.get("carry.trace_id", ""),
    }
    if errors:
        # The name of a field may be invalid unicode.
        document["errors"] = [{key: _printable(text) for key, text in error.items()} for error in errors]
    return document


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def documented(*statuses: int, model: type[Answer] = Problem) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for OpenAPI. `model`: their form, that of another service's API if it is no `Problem`."""
    media: dict[str, Any] = {"content": {PROBLEM: {}}} if model is Problem else {}
    return {status: {"description": HTTPStatus(status).phrase, "model": model, **media} for status in statuses}


def install(app: FastAPI) -> None:
    """Register the handlers of exceptions."""

    @app.exception_handler(CarryError)
    async def _ours(request: Request, error: CarryError) -> Response:
        if error.status == 500:
            structlog.get_logger().error("model failed", exc_info=error)
        return problem_answer(error, request)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        details = error.errors()
        if any(item["type"] == "json_invalid" for item in details):
            return problem_answer(MalformedBodyError("the body is not valid JSON"), request)
        detail, errors = explain(details)
        document = _document(InvalidRequestError.status, InvalidRequestError.code, detail, request, errors)
        return _answer(document, request)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI raises it for a body that it cannot decode
            return problem_answer(MalformedBodyError("the body is not valid JSON in UTF-8"), request)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = allowed_methods(request.app.state.routes, request.scope)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        code = _HTTP_CODES.get(error.status_code, "http_error")
        answer = _answer(_document(error.status_code, code, HTTPStatus(error.status_code).phrase, request), request)
        answer.headers.update(headers)
        return answer

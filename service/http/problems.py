"""Turns every error into application/problem+json (RFC 9457), and under /v1 into the form that OpenAI's clients read.
Never shows the input or an unexpected error's text."""

import random
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from service.errors import CarryError, InvalidRequestError, MalformedBodyError, QueueFullError, UnauthorizedError
from service.http.methods import allowed_methods
from service.http.schemas import Problem

PROBLEM = "application/problem+json"

NO_SERIES = "must be a list of at least one number or null, or an object of such lists by feature name"

_HTTP_CODES = {404: "route_not_found", 405: "method_not_allowed"}


OPENAI = "/v1/"
"""What the paths begin with that OpenAI's clients call."""
WITHOUT_PREFIX = frozenset({"/completions", "/chat/completions"})
"""What they call if they were told a base URL without it."""
_OPENAI_CODES = {UnauthorizedError.code: "invalid_api_key", QueueFullError.code: "rate_limit_exceeded"}

At = Mapping[str, Any]
"""A request, or its scope."""


def problem_answer(error: CarryError, at: At) -> Response:
    """The answer that tells one of our errors."""
    answer = _answer(problem_of(error, at), at)
    if isinstance(error, QueueFullError) or error.status == 503:
        seconds = error.retry_after if isinstance(error, QueueFullError) else 1
        answer.headers["Retry-After"] = str(seconds)
        # Clients that were refused together would come back together.
        answer.headers["Retry-After-Ms"] = str(round(1000 * seconds * random.uniform(0.1, 1.0)))
    if isinstance(error, UnauthorizedError):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def problem_of(error: CarryError, at: At) -> dict[str, Any]:
    """The problem document of one of our errors."""
    errors = [{"path": error.path, "message": error.detail}] if error.path else []
    return _document(error.status, error.code, error.detail, at, errors)


def openai_error(document: dict[str, Any]) -> dict[str, Any]:
    """A problem document in the form of OpenAI's API."""
    status, code, errors = document["status"], document["code"], document.get("errors")
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    param = errors[0]["path"].removeprefix("$").removeprefix(".") if errors else ""
    message = document["detail"].removeprefix("$.")
    if param and not message.startswith(param):
        message = f"{param}: {message}"
    return {"error": {"message": message, "type": kind, "param": param or None, "code": _OPENAI_CODES.get(code, code)}}


def _answer(document: dict[str, Any], at: At) -> Response:
    """A problem document, in the form that those read who call this path."""
    status = document["status"]
    if not at["path"].startswith(OPENAI) and at["path"] not in WITHOUT_PREFIX:
        return Response(orjson.dumps(document), status, media_type=PROBLEM)
    # That API says 400 of bad values.
    return Response(
        orjson.dumps(openai_error(document)), 400 if status == 422 else status, media_type="application/json"
    )


def _document(status: int, code: str, detail: str, at: At, errors: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": _printable(detail),
        "code": code,
        "request_id": at.get("carry.request_id", ""),
    }
    if errors:
        # A field's name may be no valid unicode.
        document["errors"] = [{key: _printable(text) for key, text in error.items()} for error in errors]
    return document


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, for OpenAPI."""
    return {
        status: {"description": HTTPStatus(status).phrase, "model": Problem, "content": {PROBLEM: {}}}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(CarryError)
    async def _ours(request: Request, error: CarryError) -> Response:
        if error.status == 500:
            structlog.get_logger().error("model failed", exc_info=error)
        return problem_answer(error, request)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if any(item["type"] == "json_invalid" for item in found):
            return problem_answer(MalformedBodyError("the body is not valid JSON"), request)
        detail, errors = _explained(found)
        return _answer(
            _document(InvalidRequestError.status, InvalidRequestError.code, detail, request, errors), request
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # what FastAPI raises for a body that it cannot even try to parse
            return problem_answer(MalformedBodyError("the body is not valid JSON in UTF-8"), request)
        code = _HTTP_CODES.get(error.status_code, "http_error")
        answer = _answer(_document(error.status_code, code, HTTPStatus(error.status_code).phrase, request), request)
        answer.headers.update(error.headers or {})
        if error.status_code == 405:
            answer.headers["Allow"] = allowed_methods(request.app.state.routes, request.scope)
        return answer


def as_invalid_request(error: ValidationError, prefix: tuple[int | str, ...]) -> InvalidRequestError:
    """Why a part of the body, at `prefix`, is refused."""
    found = [{**item, "loc": (*prefix, *item["loc"])} for item in error.errors(include_url=False, include_input=False)]
    _, errors = _explained(found)
    return InvalidRequestError(errors[0]["message"], errors[0]["path"])


def _explained(found: Sequence[Any]) -> tuple[str, list[dict[str, str]]]:
    errors = [{"path": json_path(item["loc"]), "message": _message(item)} for item in found[:20]]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{errors[0]['path']}: {errors[0]['message']}{more}", errors


def _message(item: dict[str, Any]) -> str:
    """pydantic's words, and ours where its say too little of what is accepted."""
    if item["type"] == "model_attributes_type":
        return "must be a JSON object, sent with Content-Type: application/json"
    if {"series", "future"}.intersection(item["loc"]) and item["type"] in ("float_type", "finite_number"):
        return "must be a finite number, or null where the value is missing"
    if "series" in item["loc"] and item["type"] in ("list_type", "too_short"):
        return NO_SERIES
    return str(item["msg"]).removeprefix("Value error, ")


def json_path(location: Sequence[int | str]) -> str:
    """A pydantic location as a JSON path: ("body", "series", 3) -> $.series[3]."""
    path = "$"
    for part in location[1:] if location and location[0] in ("body", "query", "path") else location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):  # the tags of schemas.ForecastBody.series
            path += f".{part}"
    return path

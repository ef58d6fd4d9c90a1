"""The paths that model platforms call: SageMaker's POST /invocations, and the routes that Vertex AI names.

A platform has one path for all predictions. The fields of the body say which of Carry's calls it is for, and the answer
is that call's own. Vertex AI's bodies have `instances`, each of them such a body, and `parameters` for all; the answer
has their `predictions`. Knows no kind of model: each names its calls (`Kind.calls`).
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Header, Request, Response
from fastapi.openapi.models import Example
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequestError, LimitExceededError
from service.http import health
from service.http.bodies import replay
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_pieces import json_pieces, large_json_answer
from service.http.json_route import JsonRoute
from service.http.problems import documented
from service.kind import Kind
from service.settings import Settings

AT_ONCE = 64
"""Instances of one body that run at the same time."""
EXAMPLES: dict[str, Example] = {
    "a forecast": {"value": {"series": [112, 118, 132, 129, None, 135], "horizon": 3}},
    "a text": {"value": {"prompt": "The old house ", "max_length": 20}},
    "instances": {
        "summary": "As Vertex AI sends them",
        "value": {"instances": [{"series": [3, 4, 6, 5]}, {"series": [7, 8, 8, 9]}], "parameters": {"horizon": 2}},
    },
}
CustomAttributes = Annotated[
    str | None,
    Header(
        alias="X-Amzn-SageMaker-Custom-Attributes",
        max_length=1024,
        description="The path of another call, such as `/anomalies`, for the body.",
    ),
]


class _Forwarded(Response):
    """The answer of another route to this body."""

    def __init__(self, app: ASGIApp, path: str, body: bytes) -> None:
        super().__init__()
        self._app = app
        self._path = path
        self._sent = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In the same scope, so that logs and metrics show the call that was made.
        scope["path"], scope["raw_path"] = self._path, self._path.encode()
        await self._app(scope, replay(self._sent, receive), send)


def create_router(kinds: Sequence[Kind[Any]], settings: Settings) -> APIRouter:
    """The routes of the platforms, for the calls of these kinds."""
    paths = {field: path for kind in kinds for path, fields in kind.calls.items() for field in fields}
    all_paths = [path for kind in kinds for path in kind.calls]
    router = APIRouter(tags=["platforms"], route_class=JsonRoute)

    async def post_invocations(
        body: Annotated[dict[str, Any], Body(openapi_examples=EXAMPLES)],
        call: Context,
        request: Request,
        attributes: CustomAttributes = None,
    ) -> Response:
        """Any call of Carry's for a prediction, at the path of SageMaker. The body's fields say which: `series` is a
        forecast, `prompt` a text, and so on. With `instances` and `parameters`, as Vertex AI sends them, the answer has
        a list of `predictions`."""
        router: ASGIApp = request.app.router
        if attributes is not None and attributes not in all_paths:
            raise InvalidRequestError(f"must be one of {', '.join(all_paths)}", "X-Amzn-SageMaker-Custom-Attributes")
        if "instances" not in body:
            return _Forwarded(router, attributes or _path_of(body, paths, "$"), await request.body())
        calls = _instances(body, settings.max_batch_requests)
        targets = [attributes or _path_of(item, paths, f"$.instances[{i}]") for i, item in enumerate(calls)]
        predictions: list[Any] = []
        for start in range(0, len(calls), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            answers = await asyncio.gather(
                *(_answer(router, request, targets[i], i, calls[i]) for i in range(len(calls))[part])
            )
            for answer in answers:
                if isinstance(answer, Response):
                    return answer
                predictions.append(answer)
        return await large_json_answer(json_pieces({"predictions": predictions}), call.deadline)

    router.post(
        "/invocations",
        operation_id="invoke",
        summary="Predict, as SageMaker and Vertex AI ask",
        response_model=dict[str, Any],
        openapi_extra=TIMEOUT_HEADERS,
        responses=documented(400, 401, 404, 409, 410, 413, 422, 429, 503, 504, 507),
    )(post_invocations)
    if settings.predict_route is not None:
        router.post(settings.predict_route, include_in_schema=False)(post_invocations)
    if settings.health_route is not None:
        router.get(settings.health_route, include_in_schema=False)(health.get_health)
    return router


def _path_of(body: Mapping[str, Any], paths: Mapping[str, str], at: str) -> str:
    """The path of the call that a body is for.

    Raises:
        InvalidRequestError: its fields are of none, or of several.
    """
    found = {paths[field] for field in body if field in paths}
    if len(found) != 1:
        names = ", ".join(f"`{field}` ({path})" for field, path in paths.items())
        raise InvalidRequestError(f"must have one of the fields {names}", at)
    return found.pop()


def _instances(body: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """Each instance, with the parameters that it does not set itself.

    Raises:
        InvalidRequestError: the body has not the form of Vertex AI's.
    """
    instances, parameters = body["instances"], body.get("parameters") or {}
    if others := body.keys() - {"instances", "parameters"}:
        raise InvalidRequestError("unknown field: beside `instances`, only `parameters`", f"$.{min(others)}")
    if not isinstance(instances, list) or not instances:
        raise InvalidRequestError("must be a list of at least one object", "$.instances")
    if not isinstance(parameters, dict):
        raise InvalidRequestError("must be an object", "$.parameters")
    if len(instances) > limit:
        raise LimitExceededError(f"at most {limit} instances in one call", "$.instances")
    for i, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise InvalidRequestError("must be an object, such as the body of POST /forecast", f"$.instances[{i}]")
        if {**parameters, **instance}.get("stream"):
            raise InvalidRequestError("an instance is not streamed: leave it out", f"$.instances[{i}].stream")
    return [{**parameters, **instance} for instance in instances]


async def _answer(app: ASGIApp, request: Request, path: str, i: int, instance: Mapping[str, Any]) -> Any:
    """The answer to an instance: its JSON, or the whole response if it is refused."""
    scope = {**request.scope, "path": path, "raw_path": path.encode()}
    status, body = 500, bytearray()
    headers: dict[str, str] = {}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            headers.update({name.decode(): value.decode() for name, value in message["headers"]})
        else:
            body.extend(message.get("body", b""))

    try:
        # As the client sent it: the call itself says what is wrong with NaN, or with half of a surrogate pair.
        await app(scope, replay(json.dumps(instance).encode(), request.receive), send)
    finally:
        scope["carry.call"].end()
    answer = orjson.loads(bytes(body))
    if status < 400:
        return answer
    if "errors" in answer:  # a problem; calls under /v1 have the errors of other APIs
        answer["errors"] = [{**error, "path": f"$.instances[{i}]{error['path'][1:]}"} for error in answer["errors"]]
    kept = {name: value for name, value in headers.items() if name.startswith(("content-type", "retry-after"))}
    return Response(orjson.dumps(answer), status, kept)

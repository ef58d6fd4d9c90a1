"""JSON bodies and answers by orjson: with the standard library and a second validation, two hundred numbers in and two
hundred out would cost as much as the model (docs/performance.md)."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.errors import MalformedBodyError
from service.http.json_reading import LARGE, read_json
from service.http.schemas import Answer

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _Request(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            return await read_json(body)
        except ValueError as error:
            # The standard library is slow, and keeps all others waiting.
            if len(body) >= LARGE:
                raise MalformedBodyError("the body is not valid JSON in UTF-8") from error
            # What is no JSON but nearly (NaN, half a surrogate pair) is let through to be refused by the field's name.
            return json.loads(body)


class JsonRoute(APIRoute):
    """A route whose body is read by orjson."""

    def get_route_handler(self) -> Handler:
        """The handler, given a request that does so."""
        handler: Handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


def to_json(answer: Answer | dict[str, Any]) -> bytes:
    """An answer as it is, not validated a second time; in a dict, NumPy arrays too."""
    if isinstance(answer, Answer):
        return answer.__pydantic_serializer__.to_json(answer)
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def json_answer(answer: Answer | dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """It, to send."""
    return Response(to_json(answer), status, headers, media_type="application/json")

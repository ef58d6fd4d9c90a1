"""JSON bodies and answers by orjson. With the standard library, and answers validated a second time, 200 numbers in and
200 out take as long as the model (docs/performance.md)."""

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
            # The standard library is slow: other requests would wait.
            if len(body) >= LARGE:
                raise MalformedBodyError("the body is not valid JSON in UTF-8") from error
            # It accepts NaN and half a surrogate pair, so that the validation can name the field.
            return json.loads(body)


class JsonRoute(APIRoute):
    """A route that parses its body with orjson."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, with such a request."""
        handler: Handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


def to_json(answer: Answer | dict[str, Any]) -> bytes:
    """An answer as JSON, without a second validation. A dict may hold NumPy arrays."""
    if isinstance(answer, Answer):
        return answer.__pydantic_serializer__.to_json(answer)
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def json_answer(answer: Answer | dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer, to send."""
    return Response(to_json(answer), status, headers, media_type="application/json")

"""Answers in fewer bytes: gzip or zstd, as the client accepts them (RFC 9110, section 12.5.3)."""

import re
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.offload import offload_if_large

MIN_BYTES = 8 * 1024
"""Smaller answers are sent as they are: they fit in the first packets of a connection, so they arrive no later."""
LARGE_BYTES = 64 * 1024
"""Bytes from which compression runs on another thread. It takes about a millisecond for so many."""
MEDIA_TYPES = frozenset(
    {"application/json", "application/problem+json", "application/openmetrics-text", "text/html", "text/plain"}
)
"""What is compressed. No events: each must reach the client at once. No pictures: they are compressed already."""
_WEIGHT = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


# The lowest levels: numbers with all their digits hardly get smaller at the higher ones, which take several times as
# long.
COMPRESSORS: dict[str, Callable[[], _Compressor]] = {
    "zstd": lambda: zstandard.ZstdCompressor(level=1).compressobj(),
    "gzip": lambda: zlib.compressobj(level=1, wbits=zlib.MAX_WBITS | 16),
}
"""By the name of the coding; the first is the best."""


class CompressionMiddleware:
    """Compresses large answers of text. An answer with an ETag is sent as it is: the same ETag must not name other
    bytes, and clients send those of sessions back in If-Match."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        coding = best_coding(", ".join(Headers(scope=scope).getlist("accept-encoding")))
        head: Message | None = None
        compressor: _Compressor | None = None

        async def answer(message: Message) -> None:
            nonlocal head, compressor
            if message["type"] == "http.response.start":
                if not _is_compressible(Headers(raw=message["headers"])):
                    await send(message)
                else:
                    head = message
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            if head is not None:
                headers = MutableHeaders(raw=head["headers"])
                size = len(body) if not more else int(headers.get("content-length", 0))
                if size >= MIN_BYTES:
                    headers.add_vary_header("Accept-Encoding")
                    if coding is not None:
                        compressor = COMPRESSORS[coding]()
                        headers["Content-Encoding"] = coding
                        del headers["Content-Length"]
            if compressor is not None:
                body = await offload_if_large(len(body) > LARGE_BYTES, _run, compressor, body, more)
                if head is not None and not more:
                    MutableHeaders(raw=head["headers"])["Content-Length"] = str(len(body))
            if head is not None:
                start, head = head, None
                await send(start)
            if body or not more:
                await send({**message, "body": body})

        await self._app(scope, receive, answer)


def best_coding(accept_encoding: str, codings: tuple[str, ...] = tuple(COMPRESSORS)) -> str | None:
    """The coding of `codings`, best first, that a header Accept-Encoding prefers; None: no coding."""
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        name, has_weight, text = item.partition(";")
        match = _WEIGHT.fullmatch(text) if has_weight else None
        if match is not None or not has_weight:
            weights[name.strip().removeprefix("x-")] = float(match[1]) if match else 1.0
    # "*" stands for any coding, but not every client that sends it knows the newer ones.
    weights.setdefault("gzip", weights.get("*", 0.0))
    best = max(codings, key=lambda coding: weights.get(coding, 0.0))
    weight = weights.get(best, 0.0)
    return best if weight and weight >= weights.get("identity", 0.0) else None


def _is_compressible(headers: Headers) -> bool:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type in MEDIA_TYPES and "content-encoding" not in headers and "etag" not in headers


def _run(compressor: _Compressor, body: bytes, more: bool) -> bytes:
    compressed = compressor.compress(body)
    return compressed if more else compressed + compressor.flush()

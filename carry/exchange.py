"""Requests of the interface over HTTP, without input or output: what to send, when to send it again, how to read the
answer. carry/transport.py sends, receives and sleeps. Knows no HTTP client, no model and no data frame.

An exchange is one request to the service with all its repetitions. It is a generator: it yields `Send` and `Wait`, gets
the answer or the failure of each `Send`, and returns a `Response` or an error.
"""

import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any, TypeAlias, TypeVar

import numpy as np
import orjson
import zstandard

from carry.calls import Request, Response
from carry.errors import (
    CarryError,
    DeadlineExceededError,
    InvalidRequestError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnreachableError,
    error_of_problem,
)

T = TypeVar("T")

TIMEOUT = 300.0
"""Seconds for a request with its repetitions, as the service's own default."""
MAX_RETRIES = 4
BACKOFF, MAX_BACKOFF = 0.5, 8.0
"""Seconds before the first repetition, at most; twice as many before each further one."""
CONNECT_SECONDS = 10.0
"""Seconds in which a connection must come about; then the next attempt begins."""
COMPRESS_FROM = 2**20
"""Bytes of a body that is sent compressed."""
MAX_BATCH, MAX_BATCH_NUMBERS = 500, 200_000
"""Forecasts in one call of `POST /forecast/batch`, and numbers in them and their answers: small beside the service's
limits, and large enough that a batch costs no more than its forecasts."""
MAX_CONCURRENT = 8
"""Requests of one call that run at once."""

_SHARED = (
    *("model", "freq", "season_length", "lower", "upper", "non_negative"),
    *("horizon", "from_step", "quantiles", "levels", "include_history", "top_k", "per_step"),
)
"""Fields that the items of a batch may have in common."""
_STATELESS = frozenset({"/forecast", "/forecast/batch", "/anomalies", "/cross_validation", "/generate", "/predict"}) | {
    "/classify",
    "/classify/batch",
}
"""Routes that change nothing but the session that the body names."""
_BATCHED = frozenset({"/forecast", "/classify"})
"""Routes of which many requests make one of their `/batch`."""


@dataclass(frozen=True)
class Send:
    """Send this. The exchange gets an `Answer` or a `Failure`. `timeout`: seconds until it is too late; `connect`: for
    the connection alone. `stream`: read only the head of an answer that is a stream."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes | None
    timeout: float
    connect: float
    stream: bool = False


@dataclass(frozen=True)
class Wait:
    """Wait so many seconds. The exchange gets None."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """An answer, with its headers by names in lower case. `content` is empty for a stream."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. `sent`: whether the service may have got the request. `final`: it would be the same the
    next time."""

    reason: str
    sent: bool
    final: bool = False


Exchange: TypeAlias = Generator[Send | Wait, Answer | Failure | None, T]


@dataclass
class Wire:
    """How to talk to one service. `max_batch`: forecasts that it takes in one call, as far as its refusals told.

    clock: monotonic seconds; random: of the jitter.
    """

    api_key: str | None = None
    timeout: float = TIMEOUT
    max_retries: int = MAX_RETRIES
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = field(default_factory=lambda: Random().random)
    max_batch: int = MAX_BATCH

    def exchanges(
        self, requests: Sequence[Request]
    ) -> list[tuple[list[int], Exchange[Sequence[Response | CarryError]]]]:
        """The exchanges that answer these requests, each with the indices of the requests that it answers. They are
        independent of each other. Several forecasts make batches."""
        groups, fatal = _groups(requests, self.max_batch), _Fatal()
        return [(group, self._answers([requests[i] for i in group], fatal)) for group in groups]

    def _answers(self, requests: Sequence[Request], fatal: "_Fatal") -> Exchange[Sequence[Response | CarryError]]:
        """Answer one request, or several forecasts in batches, as large as the service takes them."""
        answers = yield from self._batches(requests, fatal)
        fatal.note(answers)
        return answers

    def _batches(self, requests: Sequence[Request], fatal: "_Fatal") -> Exchange[Sequence[Response | CarryError]]:
        if fatal.error is not None:
            return [fatal.error] * len(requests)
        if len(requests) == 1:
            try:
                return [(yield from self.exchange(requests[0]))]
            except CarryError as error:
                return [error]
        if len(requests) <= self.max_batch:
            try:
                response = yield from self.exchange(_batch(requests))
                return [_item(result, response) for result in response.body["results"]]
            except CarryError as error:
                if not _is_too_large(error):
                    return [error] * len(requests)
            self.max_batch = min(self.max_batch, -(-len(requests) // 2))
        half = -(-len(requests) // 2)
        first = yield from self._answers(requests[:half], fatal)
        second = yield from self._answers(requests[half:], fatal)
        return [*first, *second]

    def exchange(self, request: Request, stream: bool = False) -> Exchange[Response]:
        """Send one request until it is answered, and read the answer. A request that changes a session has one
        idempotency key for all its repetitions, so that it changes the session once.

        stream: the answer is a stream; the response has no body then. A stream that has begun is not sent again: the
        caller may have used its beginning.

        Raises:
            CarryError: the service refuses the request, cannot be reached, or does not answer in time.
        """
        began, attempt = self.clock(), 0
        send = self._prepare(request, stream)
        repeatable = not changes(request) or "Idempotency-Key" in send.headers
        while True:
            left = began + self.timeout - self.clock()
            if left <= 0:
                raise DeadlineExceededError(f"no answer within {self.timeout:g} s")
            headers = {**send.headers, "X-Request-Timeout": f"{left:.3f}"}
            outcome = yield replace(send, headers=headers, timeout=left, connect=min(left, CONNECT_SECONDS))
            assert outcome is not None
            if isinstance(outcome, Answer):
                if outcome.status < 300:
                    return _response(outcome, stream)
                error, again = _refusal(outcome, repeatable)
            else:
                error = UnreachableError(outcome.reason, outcome.sent)
                again = not outcome.final and (repeatable or not outcome.sent)
            seconds = self._pause(attempt, outcome)
            left = began + self.timeout - self.clock()
            if isinstance(outcome, Failure) and left <= 0:
                raise DeadlineExceededError(f"no answer within {self.timeout:g} s: {outcome.reason}") from None
            if not again or attempt == self.max_retries or seconds >= left:
                raise error
            yield Wait(seconds)
            attempt += 1

    def _prepare(self, request: Request, stream: bool) -> Send:
        headers = {"Accept": "text/event-stream" if stream else "application/json", **request.headers}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if "opentelemetry.sdk" in sys.modules:  # the program may be in a trace: the service goes on with it
            from opentelemetry.propagate import inject

            inject(headers)
        if changes(request) and _is_known(request):
            headers.setdefault("Idempotency-Key", uuid.uuid4().hex)
        content = None
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            content = to_json(request.body)
            if len(content) > COMPRESS_FROM:
                headers["Content-Encoding"] = "zstd"
                content = zstandard.ZstdCompressor().compress(content)
        return Send(request.method, request.path, headers, content, 0, 0, stream)

    def _pause(self, attempt: int, outcome: Answer | Failure) -> float:
        """Seconds until the next attempt: what the answer asks for, and a random time, so that clients that were
        refused together do not return together."""
        asked = retry_after(outcome.headers) if isinstance(outcome, Answer) else 0.0
        return asked + self.random() * min(MAX_BACKOFF, BACKOFF * 2.0**attempt)


@dataclass
class _Fatal:
    """The error of an exchange that all the others of its call would have, too: a thousand batches do not each wait for
    a service that is not there."""

    error: CarryError | None = None

    def note(self, answers: Sequence[Response | CarryError]) -> None:
        """Take note of the answers of an exchange."""
        for answer in answers:
            if isinstance(answer, UnauthorizedError) or (isinstance(answer, UnreachableError) and not answer.sent):
                self.error = answer


def changes(request: Request) -> bool:
    """Whether a request may change something in the service."""
    if request.method in ("GET", "HEAD"):
        return False
    if request.path not in _STATELESS:
        return True
    body = request.body or {}
    return body.get("session_id") is not None and body.get("commit", True) is not False


def _is_known(request: Request) -> bool:
    """Whether the route of a request that changes something takes an idempotency key: all routes of sessions do."""
    return request.path in _STATELESS or request.path.split("/")[1] == "sessions"


def to_json(body: Mapping[str, Any]) -> bytes:
    """A body as JSON. Arrays may be NumPy's.

    Raises:
        InvalidRequestError: it holds something that JSON cannot write.
    """
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY, default=_plain)
    except orjson.JSONEncodeError as error:
        raise InvalidRequestError(f"cannot be written as JSON: {error}", "$") from None


def _plain(value: Any) -> Any:
    """An array or a number that orjson does not write by itself, such as a column of a matrix."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds of a Retry-After header (RFC 9110, section 10.2.3); 0 if there is none. A date counts from the
    answer's own date, so that the clocks need not agree."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        seconds: float = (parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return 0.0
    return max(0.0, seconds)


def _response(answer: Answer, stream: bool) -> Response:
    if stream:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise _unexpected(answer)
        return Response({}, answer.headers)
    if not answer.content:
        return Response({}, answer.headers)
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise _unexpected(answer)
    return Response(body, answer.headers)


def _refusal(answer: Answer, repeatable: bool) -> tuple[CarryError, bool]:
    """The error of an answer, and whether to send the request again. `repeatable`: twice is as good as once."""
    try:
        problem = orjson.loads(answer.content)
        error = error_of_problem(problem, retry_after(answer.headers))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        # Not from the service, but from something before it: the service may have run the request, or not.
        return _unexpected(answer), answer.status in (429, 502, 503, 504) and (repeatable or answer.status == 429)
    # A caller with too many sessions has as many in a second; only a full queue says when to come again.
    full = answer.status == 429 and "retry-after" in answer.headers
    return error, full or (answer.status == 503 and repeatable)


def _unexpected(answer: Answer) -> UnexpectedAnswerError:
    kind = answer.headers.get("content-type", "no content type")
    text = " ".join(answer.content[:200].decode("utf-8", "replace").split())
    where = f", to {answer.headers['location']}" if "location" in answer.headers else ""
    detail = f"status {answer.status}{where} ({kind}) is no answer of Carry: {text or 'it is empty'}"
    error = UnexpectedAnswerError(detail, answer.status)
    error.request_id = answer.headers.get("x-request-id")
    return error


def _is_too_large(error: CarryError) -> bool:
    """Whether the service refuses a batch for its size alone, so that a part of it may pass."""
    return error.status == 413 or (error.code == "limit_exceeded" and error.path in ("$", "$.requests"))


def _groups(requests: Sequence[Request], max_batch: int) -> list[list[int]]:
    """The indices of requests to answer together: forecasts of equal options, up to the limits; others alone."""
    groups: list[list[int]] = []
    open_groups: dict[bytes, tuple[list[int], int]] = {}
    for i, request in enumerate(requests):
        body = request.body
        if request.path not in _BATCHED or body is None or body.get("session_id") is not None or request.headers:
            groups.append([i])
            continue
        options = to_json({"path": request.path, **{name: body[name] for name in _SHARED if name in body}})
        numbers = _numbers(body)
        group, total = open_groups.get(options, ([], 0))
        if not group or len(group) >= max_batch or total + numbers > MAX_BATCH_NUMBERS:
            group, total = [], 0
            groups.append(group)
        group.append(i)
        open_groups[options] = group, total + numbers
    return groups


def _numbers(body: Mapping[str, Any]) -> int:
    """About how many numbers or characters a request and its answer have. What is neither counts little: the service
    says what is wrong with it."""
    series, horizon = body.get("series", body.get("text")), body.get("horizon")
    lengths = [_length(values) for values in (series.values() if isinstance(series, dict) else [series])]
    levels = 2 * _length(body.get("levels")) + _length(body.get("quantiles")) + 1
    steps = (horizon if isinstance(horizon, int) else 1) + (
        max(lengths, default=0) if body.get("include_history") or body.get("per_step") else 0
    )
    return sum(lengths) + steps * levels


def _length(values: Any) -> int:
    return len(values) if isinstance(values, list | tuple | np.ndarray | str) else 0


def _batch(requests: Sequence[Request]) -> Request:
    """Forecasts of equal options as one request."""
    bodies = [request.body or {} for request in requests]
    shared = {name: bodies[0][name] for name in _SHARED if name in bodies[0]}
    items = [{name: value for name, value in body.items() if name not in _SHARED} for body in bodies]
    return Request(f"{requests[0].path}/batch", {"requests": items, **shared})


def _item(result: Mapping[str, Any], response: Response) -> Response | CarryError:
    """The answer of one forecast of a batch."""
    if "code" not in result:
        return Response(dict(result), response.headers)
    errors = [{**each, "path": _own_path(each["path"])} for each in result.get("errors") or []]
    return error_of_problem({**result, "errors": errors})


def _own_path(path: str) -> str:
    """A path in a batch, such as $.requests[3].series, as the path in the forecast itself: $.series."""
    _, bracket, rest = path.partition("]")
    return f"${rest}" if bracket and path.startswith("$.requests[") else path


class EventReader:
    """The server-sent events (WHATWG HTML, section 9.2) of a text, from the pieces of an answer, cut anywhere."""

    def __init__(self) -> None:
        self._unread = b""
        self._complete = False

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The data of the events that this piece completes.

        Raises:
            CarryError: an event is an error of the service.
        """
        *blocks, self._unread = (self._unread + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            name, data = b"message", []
            for line in block.split(b"\n"):
                key, _, value = line.partition(b":")
                if key == b"event":
                    name = value.strip()
                elif key == b"data":
                    data.append(value.removeprefix(b" "))
            if not data:  # a comment, which keeps the connection open
                continue
            event = orjson.loads(b"\n".join(data))
            if name == b"error":
                raise error_of_problem(event)
            self._complete = "finish_reason" in event
            yield event

    def check_complete(self) -> None:
        """Check that the last event of the text has come.

        Raises:
            UnreachableError: the answer ended before.
        """
        if not self._complete:
            raise UnreachableError("the answer ended before the text was complete")

"""The calls of the interface, without input or output: each is a generator that yields requests to the service, gets
their responses, and returns an object or a data frame. So one core serves every place: a model in this process
(carry/local.py), and a service over HTTP, synchronous and asynchronous (carry/client.py). Knows no engine and no HTTP
client.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from carry.answers import Forecast, by_level, floats
from service.errors import CarryError

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What a caller asks of the service, as its JSON says it. path: such as "/forecast" or "/sessions/{id}/rewind";
    body: JSON values, None for none; headers: If-Match."""

    path: str
    body: dict[str, Any] | None
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """What the service answers: JSON values, in which a list of numbers may be an array of NumPy, with NaN where JSON
    has null; and the headers, by their names in lower case."""

    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


Call = Generator[Sequence[Request], Sequence[Response | CarryError], T]
"""A call of the interface. The responses come in the order of the requests. Requests that are yielded together are
independent: they may run at once, and one may fail without the others."""

DEFAULT_LEVELS = (80.0, 95.0)
"""Central intervals in percent, where a call names neither levels nor quantiles."""


def forecast(
    series: Sequence[float | None] | dict[str, Sequence[Any]],
    horizon: int,
    *,
    model: str | None = None,
    levels: Sequence[float] | None = None,
    quantiles: Sequence[float] | None = None,
    freq: str | None = None,
    season_length: int | Sequence[int] | None = None,
) -> Call[Forecast]:
    """Forecast the `horizon` values that follow a series.

    Raises:
        CarryError: the service or the model refuses the series or an option.
    """
    body = {"model": model, "series": series, "horizon": horizon, "freq": freq, "season_length": season_length}
    body |= {"quantiles": quantiles, "levels": levels or (None if quantiles else DEFAULT_LEVELS)}
    [response] = yield [Request("/forecast", _present(body))]
    return _forecast(_body(response))


def _present(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without the fields that a call leaves out."""
    return {name: value for name, value in body.items() if value is not None}


def _body(response: Response | CarryError) -> dict[str, Any]:
    """The body of a response.

    Raises:
        CarryError: the response is this error.
    """
    if isinstance(response, CarryError):
        raise response
    return response.body


def _forecast(body: Mapping[str, Any]) -> Forecast:
    history = body["history"]
    return Forecast(
        median=floats(body["median"]),
        quantiles=by_level(body["quantiles"]),
        timestamps=body["timestamps"],
        season_length=body["season_length"],
        history=None if history is None else by_level(history["quantiles"]),
        model=_label(body),
    )


def _label(body: Mapping[str, Any]) -> str:
    return f"{body['model']['name']}@{body['model']['version']}"

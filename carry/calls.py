"""The calls of the interface, without input or output: each is a generator that yields requests to the service, gets
their responses, and returns an object or a data frame. So one core serves every place: a model in this process
(carry/local.py), and a service over HTTP, synchronous and asynchronous (carry/client.py). Knows no engine and no HTTP
client.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from carry import answers
from carry.answers import Accuracy, Anomalies, Answers, Classification, Forecast, Generation, Prediction
from carry.values import is_number, is_plain, is_several, json_series, number_of, python_of
from service.errors import CarryError, InvalidRequestError, WrongModelKindError

if TYPE_CHECKING:
    from carry.tables import Table

T = TypeVar("T")
Data = Any
"""Series of numbers, None or NaN where a value is missing. One: a list, an array (T,), a column of a data frame, or a
mapping with such a series for each feature of the model. Several: a list of lists or of mappings. Or a data frame of
pandas, polars or pyarrow: a row for each value, in the columns `unique_id` (may be absent: one series), `ds` and `y`,
and a column for each further feature of the model."""


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


class SeriesOptions(TypedDict, total=False):
    """Options of a call about series.

    freq: how often there is a value, as pandas says it ("MS", "D", "15min"); of a data frame, it is found in the times
    if absent. season_length: values per season, or of two seasons; that of the frequency, or found, if absent.
    lower, upper: no value can lie beyond; non_negative: the same as lower=0.
    start: of a plain series, the time of its first value (ISO 8601); with `freq`, answers have timestamps.
    id_column, time_column, target: of a data frame, its columns, if not unique_id, ds and y.
    """

    freq: str | None
    season_length: int | Sequence[int] | None
    lower: float | None
    upper: float | None
    non_negative: bool
    start: str | None
    id_column: str
    time_column: str
    target: str


class QuantileOptions(SeriesOptions, total=False):
    """levels: central intervals in percent, 80 and 95 if absent. quantiles: quantile levels instead, 0.001 to 0.999."""

    levels: Sequence[float] | None
    quantiles: Sequence[float] | None


class ForecastOptions(QuantileOptions, total=False):
    """include_history: of a plain series, also the one-step-ahead quantiles of its values. future: the features that
    the model knows ahead, after the last value: a mapping of lists, or with a data frame another one like it."""

    include_history: bool
    future: Any


def forecast(data: Data, horizon: int = 12, *, model: str | None = None, **options: Any) -> Call[Any]:
    """Forecast the `horizon` values that follow each series, with the `ForecastOptions`.

    Returns a `Forecast` of one series, `Answers` of several. Of a data frame, a frame of the same kind with `horizon`
    rows for each series, ids in the order in which they first come: the columns of id and time, then median, lo-80,
    hi-80 and so on; or q-0.1 and so on for `quantiles`.

    Raises:
        CarryError: the service or the model refuses an option or the only series. Of several series, those that it
            refuses are the `errors` of the `Answers`; of a data frame, they are left out, and a `SkippedSeriesWarning`
            lists them.
    """
    options = _checked(options, ForecastOptions)
    shared = {"model": model, "horizon": horizon, **_common(options), **_levels(options)}
    shared["include_history"] = options.get("include_history") or None
    future = options.get("future")
    if is_plain(data):
        futures = json_series(future, "$.future") if isinstance(future, Mapping) else future
        return (yield from _plain("/forecast", data, options, {**shared, "future": futures}))
    table = yield from _table(data, model, options, future)
    bodies = yield from _ask("/forecast", table, shared, horizon)
    return table.forecasts(bodies, horizon, *_columns(options))


class AnomalyOptions(SeriesOptions, total=False):
    """level: values outside of this central interval, in percent, are anomalies; 99 if absent."""

    level: float | None


def anomalies(data: Data, *, model: str | None = None, **options: Any) -> Call[Any]:
    """Find the values that lie outside of the interval forecast from the values before them, with the `AnomalyOptions`.

    Returns `Anomalies` of one series, `Answers` of several. Of a data frame, a frame of the same kind with its rows,
    ordered by series and time: the columns of id, time and value, then anomaly, median, lower, upper and score.

    Raises:
        CarryError: as `forecast`.
    """
    options = _checked(options, AnomalyOptions)
    shared = {"model": model, "level": options.get("level"), **_common(options)}
    if is_plain(data):
        return (yield from _plain("/anomalies", data, options, shared))
    table = yield from _table(data, model, options)
    return table.anomalies((yield from _ask("/anomalies", table, shared)))


class BacktestOptions(QuantileOptions, total=False):
    """step: values between the windows; the horizon if absent."""

    step: int | None


def backtest(data: Data, horizon: int = 12, windows: int = 1, *, model: str | None = None, **options: Any) -> Call[Any]:
    """Forecast each series from several points of its own past, the last window being its last `horizon` values, and
    compare with the values that followed, with the `BacktestOptions`.

    Returns a `Backtest` of one series, `Answers` of several, a `BacktestTable` of a data frame.

    Raises:
        CarryError: as `forecast`.
    """
    options = _checked(options, BacktestOptions)
    shared = {"model": model, "horizon": horizon, "windows": windows, "step": options.get("step")}
    shared |= {**_common(options), **_levels(options)}
    if is_plain(data):
        return (yield from _plain("/cross_validation", data, options, shared))
    table = yield from _table(data, model, options)
    return table.backtests((yield from _ask("/cross_validation", table, shared)), *_columns(options))


class GenerateOptions(TypedDict, total=False):
    """Options of a generated text, as `POST /generate` documents them."""

    source: str | None
    beams: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[str, float]
    stop: Sequence[str]
    seed: int | None
    n: int
    logprobs: int
    echo: bool
    unknown: str


def generate_request(
    prompt: str | None, max_length: int = 200, *, model: str | None = None, stream: bool = False, **options: Any
) -> Request:
    """The request of `generate`; with `stream`, its answer is a stream of events (`text_of`)."""
    body = {"model": model, "prompt": prompt, "max_length": max_length, **_checked(options, GenerateOptions)}
    return Request("/generate", _present(body | {"stream": stream or None}))


def generate(
    prompt: str | None = None, max_length: int = 200, *, model: str | None = None, **options: Any
) -> Call[Generation]:
    """Continue a text by at most `max_length` characters (words, in a word model), with the `GenerateOptions`. Of a
    model of pairs, instead of the prompt: a `source`.

    Raises:
        CarryError: the service or the model refuses an option.
    """
    [response] = yield [generate_request(prompt, max_length, model=model, **options)]
    return answers.generation(_body(response))


def text_of(event: Mapping[str, Any]) -> str:
    """The new text in an event of a stream; "" in the last one, which has none. Of several texts, the first's."""
    return str(event["text"]) if event.get("index") == 0 else ""


class PredictOptions(TypedDict, total=False):
    """Options of a prediction, as `POST /predict` documents them."""

    per_position: bool
    candidates: Sequence[str] | None
    unknown: str


def predict(text: str, top_k: int = 5, *, model: str | None = None, **options: Any) -> Call[Prediction]:
    """The `top_k` characters (words) that the model expects next after a text, with the `PredictOptions`.

    Raises:
        CarryError: the service or the model refuses an option.
    """
    body = {"model": model, "text": text, "top_k": top_k, **_checked(options, PredictOptions)}
    [response] = yield [Request("/predict", _present(body))]
    return answers.prediction(_body(response))


class ClassifyOptions(TypedDict, total=False):
    """top_k: classes to answer, the most probable; all if absent. per_step: of a sequence that is no data frame, also
    the probabilities after every step. id_column: of a data frame, if not unique_id."""

    top_k: int | None
    per_step: bool
    id_column: str


def classify(data: Data, *, model: str | None = None, **options: Any) -> Call[Any]:
    """Say which class each sequence is, with the `ClassifyOptions`.

    data: a text, or a list of texts; or series, as in `forecast`. Or a data frame: with a column `text`, a text a row;
    else a row for each step, in the order of time, the columns unique_id (may be absent: one series) and the model's
    features.

    Returns a `Classification` of one sequence, `Answers` of several. Of a data frame, a frame of the same kind with a
    row for each sequence: unique_id (of texts, the rows' columns instead), label, and a probability for each class.

    Raises:
        CarryError: as `forecast`.
    """
    options = _checked(options, ClassifyOptions)
    shared = {"model": model, "top_k": options.get("top_k"), "per_step": options.get("per_step") or None}
    if isinstance(data, str):
        [response] = yield [Request("/classify", _present({**shared, "text": data}))]
        return answers.classification(_body(response))
    if isinstance(data, list | tuple) and data and isinstance(data[0], str):
        responses = yield [Request("/classify", _present({**shared, "text": text})) for text in data]
        results = [None if isinstance(each, CarryError) else answers.classification(each.body) for each in responses]
        return Answers(results, {i: error for i, error in enumerate(responses) if isinstance(error, CarryError)})
    if is_plain(data):
        _refuse(options, ["id_column"], "names a column of a data frame, and this is none")
        return (yield from _plain("/classify", data, {}, shared))
    from carry.class_tables import SequenceTable

    _refuse(options, ["per_step"], "is an option of a sequence by itself, not of a data frame")
    table = SequenceTable(data, options.get("id_column", "unique_id"))
    responses = yield [Request("/classify", _present({**shared, **body})) for body in table.bodies()]
    return table.classes(responses)


class SessionCalls:
    """The calls of one session: the service remembers a series or a text, so that a call sends only what is new.

    It follows the session's version, and sends it with each call: if another caller has changed the session meanwhile,
    the call changes nothing and fails (`version_mismatch`). Use it from one thread at a time.

    id, model (name@version), version, position (values or characters read): as the last answer had them.
    """

    def __init__(self, fields: Mapping[str, Any], earlier: Sequence[int] = ()) -> None:
        """fields: those of a `SessionAnswer`; earlier: its earlier versions, oldest first."""
        self.id: str = fields["id"]
        self.model = answers.label(fields)
        self.version: int = fields["version"]
        self.position: int = fields["position"]
        self._earlier = [*earlier]

    @classmethod
    def create(
        cls,
        first: Any = None,
        *,
        model: str | None = None,
        freq: str | None = None,
        season_length: int | Sequence[int] | None = None,
        state: str | None = None,
    ) -> "Call[SessionCalls]":
        """A new session that has read `first`: a text, or a series (T,), or one for each feature. Or one that begins
        where an exported `state` ended.

        Raises:
            CarryError: the service refuses the input or the state.
        """
        body: dict[str, Any] = {"model": model, "freq": freq, "season_length": _season(season_length), "state": state}
        given: dict[str, Any] = {}
        if first is not None:
            given = {"prompt": first} if isinstance(first, str) else {"series": json_series(first)}
        [response] = yield [Request("/sessions", _present(body | given))]
        if "prompt" in given and isinstance(response, CarryError) and response.code == WrongModelKindError.code:
            # Not a model that continues texts: perhaps one that classifies them.
            [response] = yield [Request("/sessions", _present({**body, "text": first}))]
        return cls(_body(response))

    @classmethod
    def attach(cls, id: str) -> "Call[SessionCalls]":
        """A session that there is already, by its id.

        Raises:
            CarryError: there is none.
        """
        [response] = yield [Request(f"/sessions/{id}", None, "GET")]
        body = _body(response)
        return cls(body, [version["version"] for version in reversed(body["versions"])])

    def observe(self, new: Any) -> Call[None]:
        """Read what is new: a number (None: missing), numbers (T,), numbers for each feature, or a text.

        Raises:
            CarryError: the service refuses it; the session is as before.
        """
        if isinstance(new, str):
            body = yield from self._moved("/generate", {"prompt": new, "max_length": 0})
        else:
            body = yield from self._moved("/forecast", {"series": json_series(number_of(new)), "horizon": 1})
        self._advance(body["session"])

    def anomalies(self, new: Any, level: float | None = None) -> Call[Anomalies]:
        """Read what is new, and judge each value by the forecast before it: a number (None: missing), numbers (T,), or
        numbers for each feature. level: as in `AnomalyOptions`.

        Raises:
            CarryError: the service refuses it; the session is as before.
        """
        body = yield from self._moved("/anomalies", {"series": json_series(number_of(new)), "level": level})
        self._advance(body["session"])
        return answers.anomalies(body)

    def forecast(
        self, horizon: int = 12, *, levels: Sequence[float] | None = None, quantiles: Sequence[float] | None = None
    ) -> Call[Forecast]:
        """Forecast the next values. The session stays where it is."""
        body = {
            "series": [],
            "horizon": horizon,
            "commit": False,
            **_levels({"levels": levels, "quantiles": quantiles}),
        }
        return answers.forecast((yield from self._moved("/forecast", body)))

    def classify(self, new: Any, top_k: int | None = None) -> Call[Classification]:
        """Read what is new, and say which class the whole sequence is: a text, a number (None: missing), numbers (T,),
        or numbers for each feature; [] or "" if there is nothing new.

        Raises:
            CarryError: the service refuses it; the session is as before.
        """
        given = {"text": new} if isinstance(new, str) else {"series": json_series(number_of(new))}
        body = yield from self._moved("/classify", {**given, "top_k": top_k})
        self._advance(body["session"])
        return answers.classification(body)

    def accuracy(self) -> Call[Accuracy | None]:
        """How accurate the session's forecasts have been; None if no value came yet that it had forecast."""
        [response] = yield [self._request("GET", f"/sessions/{self.id}", None)]
        return answers.accuracy(_body(response))

    def generate_request(
        self, prompt: str | None = None, max_length: int = 200, *, stream: bool = False, **options: Any
    ) -> Request:
        """The request of `generate`; with `stream`, its answer is a stream of events (`text_of`, `end`)."""
        if prompt is None and options.get("source") is None:
            prompt = ""
        request = generate_request(prompt, max_length, stream=stream, **options)
        return self._request("POST", request.path, {**(request.body or {}), "session_id": self.id})

    def generate(self, prompt: str | None = None, max_length: int = 200, **options: Any) -> Call[Generation]:
        """Continue the session's text, after the prompt, if any. The session moves to the end of the new text."""
        [response] = yield [self.generate_request(prompt, max_length, **options)]
        body = _body(response)
        self._advance(body["session"])
        return answers.generation(body)

    def end(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of a stream: the last one says where the session is."""
        if event.get("session") is not None:
            self._advance(event["session"])

    def fork(self) -> "Call[SessionCalls]":
        """A copy of the session, which goes its own way."""
        [response] = yield [self._request("POST", f"/sessions/{self.id}/fork", {})]
        return SessionCalls(_body(response))

    def rewind(self, steps: int = 1) -> Call[None]:
        """Go back to where the session was `steps` changes ago. The service keeps a few versions (8 if not set).

        Raises:
            CarryError: the version is not kept.
        """
        if not 1 <= steps <= len(self._earlier):
            known = f"1 to {len(self._earlier)}" if self._earlier else "none: the session has not changed yet"
            raise InvalidRequestError(f"accepted are {known}", "$.steps")
        body = {"version": self._earlier[-steps]}
        [response] = yield [self._request("POST", f"/sessions/{self.id}/rewind", body)]
        answer = _body(response)
        del self._earlier[-steps:]
        self.version, self.position = answer["version"], answer["position"]

    def export(self) -> Call[str]:
        """The session's state, for `create` here or elsewhere: signed, URL-safe text."""
        [response] = yield [self._request("GET", f"/sessions/{self.id}/state", None)]
        return str(_body(response)["state"])

    def restore(self, state: str) -> Call[None]:
        """Go on from an exported state, of this session or of another one of the same model."""
        [response] = yield [self._request("PUT", f"/sessions/{self.id}/state", {"state": state})]
        self._advance(_body(response))

    def close(self) -> Call[None]:
        """Delete the session."""
        [response] = yield [self._request("DELETE", f"/sessions/{self.id}", None)]
        _body(response)

    def _moved(self, path: str, body: dict[str, Any]) -> Call[dict[str, Any]]:
        [response] = yield [self._request("POST", path, {**_present(body), "session_id": self.id})]
        return _body(response)

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Request:
        return Request(path, body, method, {"If-Match": f'"{self.version}"'})

    def _advance(self, session: Mapping[str, Any]) -> None:
        self._earlier.append(self.version)
        self.version, self.position = session["version"], session["position"]


_READ = {"/forecast": answers.forecast, "/anomalies": answers.anomalies, "/cross_validation": answers.backtest}
_READ["/classify"] = answers.classification


def _plain(path: str, data: Data, options: Mapping[str, Any], fields: Mapping[str, Any]) -> Call[Any]:
    """A call about one plain series, or about several. fields: of each request, beside the series and its start."""
    _refuse(options, _COLUMNS, "names a column of a data frame, and this is none")
    shared = {**fields, "start": options.get("start")}
    several = is_several(data)
    series = data if several else [data]
    responses = yield [Request(path, _present({**shared, "series": json_series(item)})) for item in series]
    read = _READ[path]
    if not several:
        return read(_body(responses[0]))
    results = [None if isinstance(response, CarryError) else read(response.body) for response in responses]
    return Answers(results, {i: error for i, error in enumerate(responses) if isinstance(error, CarryError)})


def _table(data: Data, model: str | None, options: Mapping[str, Any], future: Any = None) -> "Call[Table]":
    """A data frame as series. If it has further columns, asks which of them the model takes."""
    from carry.tables import Columns, Table, extra_columns

    _refuse(options, ["start", "include_history"], "is an option of a plain series, not of a data frame")
    columns = Columns(*(options.get(name, default) for name, default in _COLUMNS.items()))
    features: Sequence[str] = ()
    known_ahead: Sequence[str] = ()
    if future is not None or extra_columns(data, columns):
        manifest = yield from _manifest(model)
        features, known_ahead = manifest["features"], manifest["known_ahead"]
    return Table(data, columns, options.get("freq"), features, future, known_ahead)


_COLUMNS = {"id_column": "unique_id", "time_column": "ds", "target": "y"}


def _refuse(options: Mapping[str, Any], names: Iterable[str], reason: str) -> None:
    """Refuse options that have no meaning for these data.

    Raises:
        InvalidRequestError: one is set.
    """
    for name in names:
        if options.get(name):
            raise InvalidRequestError(reason, f"$.{name}")


def _manifest(model: str | None) -> Call[dict[str, Any]]:
    """The manifest of a forecaster."""
    if model is None:
        [response] = yield [Request("/models", None, "GET")]
        listed = _body(response)["models"]
        model = next((item["name"] for item in listed if item["kind"] == "forecast" and item["default"]), None)
        if model is None:
            raise InvalidRequestError("there is no default forecaster: name one", "$.model")
    [response] = yield [Request(f"/models/{model}", None, "GET")]
    manifest: dict[str, Any] = _body(response)["manifest"]
    return manifest


def _ask(path: str, table: "Table", shared: Mapping[str, Any], horizon: int = 0) -> Call[dict[int, dict[str, Any]]]:
    """Ask about each series of a table. The bodies of the answers, by the index of the series; the errors go to the
    table.

    Raises:
        CarryError: all series are refused, with the first one's reason.
    """
    requests = {i: Request(path, _present({**shared, **body})) for i, body in table.bodies(horizon)}
    responses = (yield [*requests.values()]) if requests else []
    bodies: dict[int, dict[str, Any]] = {}
    for i, response in zip(requests, responses, strict=True):
        if isinstance(response, CarryError):
            table.errors[i] = response
        else:
            bodies[i] = response.body
    table.report()
    return bodies


def _common(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: options.get(name) for name in ("freq", "lower", "upper")}
    return {
        **fields,
        "season_length": _season(options.get("season_length")),
        "non_negative": options.get("non_negative") or None,
    }


def _season(season_length: int | Sequence[int] | None) -> Any:
    return [*season_length] if isinstance(season_length, Sequence) else season_length


def _levels(options: Mapping[str, Any]) -> dict[str, Any]:
    levels, quantiles = options.get("levels"), options.get("quantiles")
    if levels is None and quantiles is None:
        levels = DEFAULT_LEVELS
    return {"levels": _listed(levels), "quantiles": _listed(quantiles)}


def _listed(numbers: Any) -> list[Any] | None:
    """Numbers as a list; one by itself, too."""
    several = [numbers] if is_number(numbers) else numbers
    return None if several is None else [python_of(number) for number in several]


def _columns(options: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """The central intervals and the quantiles that a table shows."""
    fields = _levels(options)
    return fields["levels"] or [], fields["quantiles"] or []


def _checked(options: Mapping[str, Any], accepted: Any) -> dict[str, Any]:
    """The options, if the call takes them.

    Raises:
        TypeError: it does not take one.
    """
    names = accepted.__annotations__.keys()
    for name in options:
        if name not in names:
            raise TypeError(f"there is no option {name!r}; accepted are: {', '.join(names)}")
    return dict(options)


def _present(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without the fields that a call leaves out."""
    return {name: python_of(value) for name, value in body.items() if value is not None}


def _body(response: Response | CarryError) -> dict[str, Any]:
    """The body of a response.

    Raises:
        CarryError: the response is this error.
    """
    if isinstance(response, CarryError):
        raise response
    return response.body

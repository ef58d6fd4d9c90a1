"""The synchronous face of the interface: the calls of carry/calls.py as methods, and sessions. Knows nothing of where
the calls run: a model in this process (carry/local.py) and a client (carry/client.py) say that.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, TypeVar, Unpack, overload

from carry import calls
from carry.answers import Accuracy, Anomalies, Classification, Forecast, Generation, Prediction
from carry.calls import (
    AnomalyOptions,
    BacktestOptions,
    Call,
    ClassifyOptions,
    Data,
    ForecastOptions,
    GenerateOptions,
    PredictOptions,
    Request,
    SessionCalls,
    text_of,
)

T = TypeVar("T")


class Events(Protocol):
    """The events of a stream. Closing them stops it."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...

    def __next__(self) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class Place(Protocol):
    """Where calls run."""

    def run(self, call: Call[T]) -> T:
        """The result of a call.

        Raises:
            CarryError: the call fails.
        """

    def stream(self, request: Request) -> Events:
        """The events of a stream, which has begun when this returns.

        Raises:
            CarryError: the request is refused; later, the stream fails.
        """


class Interface:
    """The calls of a model or of a service."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def forecast(
        self, data: Data, horizon: int = 12, *, model: str | None = None, **options: Unpack[ForecastOptions]
    ) -> Any:
        """Forecast the `horizon` values that follow each series.

        data: a list or an array (T,) of numbers, None or NaN where a value is missing; or a mapping with such a series
        for each feature of the model; or a list of such series. Or a data frame of pandas, polars or pyarrow with a row
        for each value: columns unique_id (may be absent: one series), ds and y, and one for each further feature.
        levels: central intervals in percent, 80 and 95 if absent; or quantiles: levels from 0.001 to 0.999.
        freq ("MS", "D", "15min"), season_length (12, [24, 168]): found if absent. lower, upper, non_negative: bounds.
        future: features that the model knows ahead: a mapping of lists, or a frame. include_history, start: of a plain
        series. id_column, time_column, target: of a frame, if not unique_id, ds and y.

        Returns a `Forecast` of one series: median (horizon,), quantiles, timestamps. `Answers` of several. Of a frame,
        a frame of the same kind: unique_id, ds, median, lo-80, hi-80, lo-95, hi-95 (q-0.1 and so on for `quantiles`).

        Raises:
            CarryError: an option or the only series is refused. Of several series, those refused are in `errors`; of a
                frame, they are left out, and a `SkippedSeriesWarning` lists them.
        """
        return self._place.run(calls.forecast(data, horizon, model=model, **options))

    def anomalies(self, data: Data, *, model: str | None = None, **options: Unpack[AnomalyOptions]) -> Any:
        """Find the values that lie outside of the interval forecast from the values before them.

        data and the options: as in `forecast`. level: of the interval, in percent, 99 if absent.

        Returns `Anomalies` of one series: anomaly, lower, upper, median, score, all (T,). `Answers` of several. Of a
        frame, a frame of the same kind: unique_id, ds, y, anomaly, median, lower, upper, score.

        Raises:
            CarryError: as `forecast`.
        """
        return self._place.run(calls.anomalies(data, model=model, **options))

    def backtest(
        self,
        data: Data,
        horizon: int = 12,
        windows: int = 1,
        *,
        model: str | None = None,
        **options: Unpack[BacktestOptions],
    ) -> Any:
        """Forecast each series from several points of its own past, and compare with the values that followed.

        data and the options: as in `forecast`. The last window is the last `horizon` values; each other begins `step`
        values before the next, the horizon if absent.

        Returns a `Backtest` of one series: windows and metrics. `Answers` of several. Of a frame, a `BacktestTable`:
        forecasts (unique_id, ds, cutoff, y, median, lo-80, ...) and metrics (unique_id, mase, ...), frames of the same
        kind.

        Raises:
            CarryError: as `forecast`.
        """
        return self._place.run(calls.backtest(data, horizon, windows, model=model, **options))

    def classify(self, data: Data, *, model: str | None = None, **options: Unpack[ClassifyOptions]) -> Any:
        """Say which class each sequence is.

        data: a text, or a list of texts; or series, as in `forecast`. Or a data frame: with a column `text`, a text a
        row; else a row for each step, in the order of time, the columns unique_id (may be absent: one series) and the
        model's features. top_k: classes to answer, all if absent; per_step: of a sequence that is no data frame, also
        the probabilities after every step; id_column: of a frame, if not unique_id.

        Returns a `Classification` of one sequence: label, probabilities. `Answers` of several. Of a frame, a frame of
        the same kind with a row for each sequence: its id (of texts, the frame's own columns), label, and a probability
        for each class.

        Raises:
            CarryError: as `forecast`.
        """
        return self._place.run(calls.classify(data, model=model, **options))

    @overload
    def generate(
        self,
        prompt: str | None = ...,
        max_length: int = ...,
        *,
        model: str | None = ...,
        stream: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: str | None = ...,
        max_length: int = ...,
        *,
        model: str | None = ...,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> "TextStream": ...
    def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        model: str | None = None,
        stream: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> "Generation | TextStream":
        """Continue a text by at most `max_length` characters (words, in a word model). Of a model of pairs, turn a
        `source` into its target: `generate(source="3. Mai 2021")`; without a `temperature`, the most probable one.

        Options: temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, logit_bias,
        stop, seed, n, logprobs, echo, unknown, as `POST /generate` documents them. beams: search the most probable
        texts with so many beginnings at a time, instead of sampling. stream: the text comes in pieces, as it is
        written; closing the stream stops the model.

        Raises:
            CarryError: the prompt or an option is refused.
        """
        if stream:
            request = calls.generate_request(prompt, max_length, model=model, stream=True, **options)
            return TextStream(self._place.stream(request))
        return self._place.run(calls.generate(prompt, max_length, model=model, **options))

    def predict(
        self, text: str, top_k: int = 5, *, model: str | None = None, **options: Unpack[PredictOptions]
    ) -> Prediction:
        """The `top_k` characters (words) that the model expects next after a text. Options: per_position, candidates,
        unknown, as `POST /predict` documents them.

        Raises:
            CarryError: the text or an option is refused.
        """
        return self._place.run(calls.predict(text, top_k, model=model, **options))

    def session(
        self,
        first: Any = None,
        *,
        model: str | None = None,
        freq: str | None = None,
        season_length: int | Sequence[int] | None = None,
        state: str | None = None,
    ) -> "Session":
        """Begin a session: it remembers a series or a text, so that a call sends only what is new.

        first: a text, a series (T,), or one for each feature. state: instead, where an exported state ended.

        Raises:
            CarryError: the input or the state is refused.
        """
        call = SessionCalls.create(first, model=model, freq=freq, season_length=season_length, state=state)
        return Session(self._place, self._place.run(call))


class SessionFacts:
    """What a session says of itself, synchronous or not."""

    def __init__(self, session: SessionCalls) -> None:
        self._calls = session

    @property
    def id(self) -> str:
        """Its id in the place where it is."""
        return self._calls.id

    @property
    def model(self) -> str:
        """name@version."""
        return self._calls.model

    @property
    def position(self) -> int:
        """Values or characters read so far, with the generated ones."""
        return self._calls.position

    @property
    def version(self) -> int:
        """The number of changes."""
        return self._calls.version


class Session(SessionFacts):
    """A series or a text that is remembered. Use it from one thread at a time. As a context manager, it is deleted at
    the end."""

    def __init__(self, place: Place, session: SessionCalls) -> None:
        super().__init__(session)
        self._place = place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def observe(self, new: Any) -> None:
        """Read what is new: a number (None: missing), numbers (T,), numbers for each feature, or a text.

        Raises:
            CarryError: it is refused; the session is as before.
        """
        self._place.run(self._calls.observe(new))

    def anomalies(self, new: Any, level: float | None = None) -> Anomalies:
        """Read what is new, and judge each value by the forecast before it: a number (None: missing), numbers (T,), or
        numbers for each feature. level: values outside of this central interval, in percent, are anomalies; 99 if
        absent.

        Raises:
            CarryError: it is refused; the session is as before.
        """
        return self._place.run(self._calls.anomalies(new, level))

    def forecast(
        self, horizon: int = 12, *, levels: Sequence[float] | None = None, quantiles: Sequence[float] | None = None
    ) -> Forecast:
        """Forecast the next values; levels and quantiles as in `Interface.forecast`. The session stays where it is.

        Raises:
            CarryError: an option is refused, or the session has read nothing.
        """
        return self._place.run(self._calls.forecast(horizon, levels=levels, quantiles=quantiles))

    def classify(self, new: Any, top_k: int | None = None) -> Classification:
        """Read what is new, and say which class the whole sequence is: a text, a number (None: missing), numbers (T,),
        or numbers for each feature; [] or "" if there is nothing new. top_k: classes to answer, all if absent.

        Raises:
            CarryError: it is refused; the session is as before.
        """
        return self._place.run(self._calls.classify(new, top_k))

    def accuracy(self) -> Accuracy | None:
        """How accurate the session's forecasts have been, one value ahead. None if no value has come yet that it had
        forecast, and of a text. Scored are the first value of each `observe`, and all values of `anomalies`.

        Raises:
            CarryError: another caller has changed the session, or it has ended.
        """
        return self._place.run(self._calls.accuracy())

    @overload
    def generate(
        self,
        prompt: str | None = ...,
        max_length: int = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: str | None = ...,
        max_length: int = ...,
        *,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> "TextStream": ...
    def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        stream: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> "Generation | TextStream":
        """Continue the session's text, after the prompt, if any; options as in `Interface.generate`. The session moves
        to the end of the new text; of a stream, once it has ended. A `source` needs a session that has read nothing.

        Raises:
            CarryError: the prompt or an option is refused.
        """
        if not stream:
            return self._place.run(self._calls.generate(prompt, max_length, **options))
        request = self._calls.generate_request(prompt, max_length, stream=True, **options)
        return TextStream(self._place.stream(request), self._calls)

    def fork(self) -> "Session":
        """A copy, which goes its own way. This session stays as it is."""
        return Session(self._place, self._place.run(self._calls.fork()))

    def rewind(self, steps: int = 1) -> None:
        """Go back to where the session was `steps` changes ago; the last 8 are kept, if not set otherwise.

        Raises:
            CarryError: there were not so many changes, or they are not kept.
        """
        self._place.run(self._calls.rewind(steps))

    def export(self) -> str:
        """The session's state, for `session(state=...)` here or elsewhere: signed, URL-safe text."""
        return self._place.run(self._calls.export())

    def restore(self, state: str) -> None:
        """Go on from an exported state, of this session or of another one of the same model.

        Raises:
            CarryError: the state is refused.
        """
        self._place.run(self._calls.restore(state))

    def close(self) -> None:
        """Delete the session."""
        self._place.run(self._calls.close())


class TextStream(Iterator[str]):
    """The text of a generation in pieces, as the model writes it. `close`, or the end of a `with` block, stops the
    model."""

    def __init__(self, events: Events, session: SessionCalls | None = None) -> None:
        """session: moves to the end of the text."""
        self._events = events
        self._session = session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> str:
        """The next piece.

        Raises:
            CarryError: the text breaks off; what came before is all there is.
        """
        for event in self._events:
            if self._session is not None:
                self._session.end(event)
            if text := text_of(event):
                return text
        raise StopIteration

    def close(self) -> None:
        """Stop."""
        self._events.close()

"""The answers of the interface as objects: forecasts, anomalies, backtests, texts. Knows nothing of how they came."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.forecast.intervals import interval_to_quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """The values that follow one series.

    median (N,); quantiles: (N,) by level, ascending; timestamps: (N,) ISO 8601, if the call gave `start` and `freq`;
    season_length: values per season that the forecast uses, [1]: there is none; history: by level, the one-step-ahead
    quantiles (T,) of the values of the series, if the call asked for it, NaN where no value precedes; model:
    name@version.
    """

    median: Floats
    quantiles: Mapping[float, Floats]
    timestamps: list[str] | None
    season_length: list[int] | None
    history: Mapping[float, Floats] | None
    model: str

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """The lower and upper ends (N,) of a central interval, such as 80, in percent.

        Raises:
            KeyError: the call did not ask for this interval.
        """
        lower, upper = interval_to_quantiles(level)
        return self.quantiles[lower], self.quantiles[upper]

    def plot(self, series: Sequence[Any] | None = None, times: Any = None, axes: "Axes | None" = None) -> "Axes":
        """Draw the forecast, after the series (T,) if that is given; over times, if those of the series (T,) are given
        and the forecast has timestamps. In the axes, or in a new picture of pyplot.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from carry.answer_plots import plot_forecast

        return plot_forecast(self, series, times, axes)


@dataclass(frozen=True)
class Anomalies:
    """Which values of one series lie outside of the interval that was forecast from the values before them.

    All (T,): anomaly, None where no value precedes or the value is missing; lower, upper and median of the one-step
    forecast, NaN where no value precedes; score: the quantile level at which the value lies, NaN as anomaly's None.
    level: of the interval, in percent. timestamps, season_length, model: as in `Forecast`.
    """

    anomaly: list[bool | None]
    lower: Floats
    upper: Floats
    median: Floats
    score: Floats
    level: float
    timestamps: list[str] | None
    season_length: list[int] | None
    model: str

    def plot(self, series: Sequence[Any], times: Any = None, axes: "Axes | None" = None) -> "Axes":
        """Draw the series (T,) that was judged, the interval, and a dot on each anomaly; over the times (T,), or the
        answer's timestamps, if there are any. In the axes, or in a new picture of pyplot.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from carry.answer_plots import plot_anomalies

        return plot_anomalies(self, series, times, axes)


@dataclass(frozen=True)
class Accuracy:
    """How well the one-step forecasts of a session met the values that came next; older values count less, half after
    100 values.

    values: how many were scored since the session began; mase: mean absolute error of the median, divided by the mean
    absolute change from one value to the next: below 1, it is better than to repeat the last value;
    scaled_quantile_loss: twice the pinball loss, mean over the model's quantiles, divided likewise; both NaN if the
    series has not changed for very long. coverage: the share of values inside each central interval, by its level in
    percent: 50, 80 and 95.
    """

    values: int
    mase: float
    scaled_quantile_loss: float
    coverage: Mapping[int, float]


@dataclass(frozen=True)
class Window:
    """A window of a backtest: its forecast from the first `cutoff` values, and the actual values, NaN where missing.
    median, actual (N,); quantiles: (N,) by level."""

    cutoff: int
    median: Floats
    quantiles: Mapping[float, Floats]
    actual: Floats
    timestamps: list[str] | None


@dataclass(frozen=True)
class Backtest:
    """Forecasts of one series from several points of its own past, oldest first, and how good they were.

    metrics: "mase", "smape", "scaled_quantile_loss", and "coverage-80" for a central interval of 80 %; NaN where there
    is nothing to measure. season_length, model: as in `Forecast`.
    """

    windows: list[Window]
    metrics: Mapping[str, float]
    season_length: list[int] | None
    model: str

    def plot(self, series: Sequence[Any], times: Any = None, axes: "Axes | None" = None) -> "Axes":
        """Draw the series (T,), and over it the forecast of each window; over the times (T,), if they are given. In the
        axes, or in a new picture of pyplot.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from carry.answer_plots import plot_backtest

        return plot_backtest(self, series, times, axes)


@dataclass(frozen=True)
class BacktestTable:
    """The backtests of a data frame, as frames of its kind. forecasts: a row for each value that was forecast, with its
    cutoff and its actual value. metrics: a row for each series, with the columns of `Backtest.metrics`."""

    forecasts: Any
    metrics: Any


@dataclass(frozen=True)
class Generation:
    """A text that continues a prompt, or the target of a source. text: with `n` above 1, the first of `texts`. scores:
    of the texts of a search with `beams`, the best first: the mean log-probability of a text's characters (words, in a
    word model). logprobs: of each character or word, if the call asked for it, as `POST /generate` answers them."""

    text: str
    finish_reason: str
    seed: int
    texts: list[str]
    scores: list[float] | None
    logprobs: list[dict[str, Any]] | None
    unknown_characters: list[str]
    model: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Prediction:
    """What a text model expects next: characters (words, in a word model) with their probabilities, the most probable
    first. positions, bits_per_character and candidates as `POST /predict` answers them, if the call asked for them."""

    next: list[tuple[str, float]]
    positions: list[dict[str, Any]] | None
    bits_per_character: float | None
    candidates: list[dict[str, Any]] | None
    unknown_characters: list[str]
    model: str


@dataclass(frozen=True)
class Classification:
    """The class of a sequence. label: the most probable class; probabilities: of the classes, the most probable first;
    per_step: of each class (T,), after every step, if the call asked for it; steps: values, characters or words of the
    sequence that were read; model: name@version."""

    label: str
    probabilities: Mapping[str, float]
    per_step: Mapping[str, Floats] | None
    steps: int
    model: str

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Answers(Sequence[Any]):
    """The answers about several series, in their order; None where a series has none. errors: why, by the series'
    index."""

    answers: list[Any]
    errors: Mapping[int, Exception] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: Any) -> Any:
        return self.answers[index]


def forecast(body: Mapping[str, Any]) -> Forecast:
    """The answer of `POST /forecast`."""
    history = body["history"]
    return Forecast(
        median=floats(body["median"]),
        quantiles=by_level(body["quantiles"]),
        timestamps=body["timestamps"],
        season_length=body["season_length"],
        history=None if history is None else by_level(history["quantiles"]),
        model=label(body),
    )


def anomalies(body: Mapping[str, Any]) -> Anomalies:
    """The answer of `POST /anomalies`."""
    return Anomalies(
        anomaly=body["anomaly"],
        lower=floats(body["lower"]),
        upper=floats(body["upper"]),
        median=floats(body["median"]),
        score=floats(body["score"]),
        level=body["level"],
        timestamps=body["timestamps"],
        season_length=body["season_length"],
        model=label(body),
    )


def accuracy(body: Mapping[str, Any]) -> Accuracy | None:
    """The accuracy in the answer of `GET /sessions/{id}`, if it has one."""
    measured = body.get("accuracy")  # services up to 0.3.0 do not measure it
    if measured is None:
        return None
    return Accuracy(
        values=measured["values"],
        mase=_or_nan(measured["mase"]),
        scaled_quantile_loss=_or_nan(measured["scaled_quantile_loss"]),
        coverage={int(level): share for level, share in measured["coverage"].items()},
    )


def backtest(body: Mapping[str, Any]) -> Backtest:
    """The answer of `POST /cross_validation`."""
    windows = [
        Window(
            cutoff=window["cutoff"],
            median=floats(window["median"]),
            quantiles=by_level(window["quantiles"]),
            actual=floats(window["actual"]),
            timestamps=window["timestamps"],
        )
        for window in body["windows"]
    ]
    return Backtest(windows, metrics(body["metrics"]), body["season_length"], label(body))


def metrics(measured: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a backtest in one mapping, NaN where there is nothing to measure."""
    coverage = {f"coverage-{level}": share for level, share in sorted(measured["coverage"].items(), key=_level)}
    single = {name: measured[name] for name in ("mase", "smape", "scaled_quantile_loss")}
    return {name: math.nan if value is None else value for name, value in (single | coverage).items()}


def classification(body: Mapping[str, Any]) -> Classification:
    """The answer of `POST /classify`."""
    per_step = body["per_step"]
    return Classification(
        label=body["label"],
        probabilities=body["probabilities"],
        per_step=None if per_step is None else {name: floats(shares) for name, shares in per_step.items()},
        steps=body["steps"],
        model=label(body),
    )


def generation(body: Mapping[str, Any]) -> Generation:
    """The answer of `POST /generate`."""
    choices = body["choices"] or [body]
    return Generation(
        text=body["text"],
        finish_reason=body["finish_reason"],
        seed=body["seed"],
        texts=[choice["text"] for choice in choices],
        scores=None if body["score"] is None else [choice["score"] for choice in choices],
        logprobs=body["logprobs"],
        unknown_characters=body["unknown_characters"],
        model=label(body),
    )


def prediction(body: Mapping[str, Any]) -> Prediction:
    """The answer of `POST /predict`."""
    return Prediction(
        next=[(item["character"], item["probability"]) for item in body["next"]],
        positions=body["positions"],
        bits_per_character=body["bits_per_character"],
        candidates=body["candidates"],
        unknown_characters=body["unknown_characters"],
        model=label(body),
    )


def _level(item: tuple[str, Any]) -> float:
    return float(item[0])


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def label(body: Mapping[str, Any]) -> str:
    """name@version of the model that answered."""
    return f"{body['model']['name']}@{body['model']['version']}"


def floats(numbers: Any) -> Floats:
    """Numbers of an answer (N,), None where it has null, as an array with NaN."""
    return np.array(numbers, dtype=np.float64)


def by_level(quantiles: Mapping[str, Any]) -> dict[float, Floats]:
    """The quantiles of an answer, by level."""
    return {float(level): floats(numbers) for level, numbers in quantiles.items()}

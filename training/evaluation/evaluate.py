"""Measures a forecaster's model folder on data it never saw, beside baselines on the same data."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carry.files import DataError, read_series
from carry.models import ForecastModel
from service.errors import CarryError
from service.forecast.intervals import interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from training.evaluation.baselines import forecast_baselines, naive2
from training.evaluation.eval_windows import (
    EvalWindow,
    draw_series,
    is_benchmark,
    read_benchmark,
    rolling_windows,
    usual_horizon,
)
from training.evaluation.forecasts import Hint, forecast_windows, hinted_season, known_future
from training.evaluation.metrics import INTERVALS, MIN_RATIO, coverage_by_step, relative_mae, score_forecasts

DECILES = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""Levels at which the pinball loss of other forecasters is published."""
ALL = "all"
"""The group of all series of a file."""
BATCH = 500
"""Series in one call of POST /forecast/batch."""
EVERY_FILE = "every file alike"
"""Stands for the file in rows over all files."""
FITTED = ("AutoETS", "AutoTheta", "AutoARIMA")
"""Fitted baselines: the models are compared with the best of them."""

SUMS = ("series", "windows", "windows_without_scale", "series_without_ratio", "seconds")
"""Measures that are added up over files."""
RATIOS = ("relative_mae", "mase_to_best_fitted", "relative_mae_to_best_fitted", "mase_to_no_hint")
"""Measures whose mean over files is the geometric one."""
COLUMNS = ("series", "windows", "smape", "mase", "owa", *RATIOS, "scaled_quantile_loss")
"""The first columns of a table."""

Quantiles = NDArray[np.float64]
Method = Callable[[Sequence[EvalWindow], int, Sequence[float]], dict[str, Quantiles]]
"""Windows, horizon H, levels Q -> quantiles (N, H, Q) by the name of the forecaster."""


@dataclass(frozen=True)
class MetricRow:
    """How well one method forecast one group of a file's series. hint: what a model was told of the season; None of a
    baseline. by_step: of each central interval (its percentage), the share of truths inside it at each step ahead."""

    file: str
    group: str
    method: str
    hint: Hint | None
    scores: dict[str, float]
    by_step: dict[int, list[float | None]] = field(default_factory=dict)


def evaluate_forecaster(
    folder: Path,
    data: Sequence[Path],
    target: str | None = None,
    windows: int = 1,
    limit: int | None = None,
    baselines: Sequence[str] = (),
    url: str | None = None,
    freq: str | None = None,
    horizon: int | None = None,
    hints: Sequence[Hint] = ("usual",),
) -> list[MetricRow]:
    """Rows of each group (frequency) of each file and of each whole file, the model's first.

    Benchmarks are split as published (`read_benchmark`); at most `limit` of their series, evenly spaced, count. Of
    other files at most `limit` series are drawn, and the last `windows` windows of each are forecast from all values
    before them. A window has `horizon` values; None: as `usual_horizon` says, but no more than the model's horizon.
    With `url`, the service there forecasts, else each graph of the folder, once with each of `hints`.

    Raises:
        DataError: a file cannot be read, no series is longer than the horizon, or the model or the service refuses one.
    """
    models = {} if url else ForecastModel.open(folder)
    manifest = read_manifest(folder, ForecastManifest)
    levels = _levels(manifest)
    methods: list[tuple[Hint | None, Method]] = []
    for hint in hints:
        methods += [(hint, partial(_forecast_locally, name, model, hint)) for name, model in models.items()]
        if url:
            methods.append((hint, partial(_forecast_remotely, url, manifest, hint)))
    for name in ("naive", *(name for name in baselines if name != "naive")):
        methods.append((None, partial(forecast_baselines, methods=(name,))))
    rows = []
    try:
        for path in data:
            file_windows = _windows(path, manifest, target, windows, limit, freq, horizon)
            rows += _measure(path.name.split(".")[0], file_windows, levels, methods)
    finally:
        for model in models.values():
            model.close()
    return rows


def across_files(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """A row of each method over all files, each of which counts alike: the sum of `SUMS`, the geometric mean of
    `RATIOS`, the mean of other measures. None of a single file."""
    whole = [row for row in rows if "seconds" in row.scores]
    if len({row.file for row in whole}) < 2:
        return []
    over_files = []
    for method, hint in dict.fromkeys((row.method, row.hint) for row in whole):
        by_measure: dict[str, list[float]] = {}
        for row in whole:
            if (row.method, row.hint) == (method, hint):
                for name, score in row.scores.items():
                    by_measure.setdefault(name, []).append(score)
        means = {
            name: sum(scores) if name in SUMS else geometric_mean(scores) if name in RATIOS else fmean(scores)
            for name, scores in by_measure.items()
            if name not in ("mae", "mse")
        }
        over_files.append(MetricRow(EVERY_FILE, ALL, method, hint, means))
    return over_files


def evaluation_rows(rows: Sequence[MetricRow]) -> dict[str, dict[str, float]]:
    """A line for each row, as `markdown_table` takes it: `COLUMNS` first, and the lowest and the highest coverage of
    all steps. Errors in the units of the series say nothing of many series together, and are left out."""
    lines = {}
    for row in rows:
        scores = {name: score for name, score in row.scores.items() if name not in ("mae", "mse")}
        for interval, shares in row.by_step.items():
            known = [share for share in shares if share is not None]
            scores |= {f"least_{interval}": min(known), f"most_{interval}": max(known)}
        hint = "" if row.hint in (None, "usual") else f", hint: {row.hint}"
        line = {name: scores[name] for name in (*COLUMNS, *scores) if name in scores}
        lines[f"{row.file}, {row.group}: {row.method}{hint}"] = line
    return lines


def _levels(manifest: ForecastManifest) -> tuple[float, ...]:
    """The deciles and the ends of the measured intervals, as far as the model was trained for them."""
    known = manifest.quantile_levels
    levels = {*DECILES, *(end for interval in INTERVALS for end in interval_to_quantiles(interval))}
    return tuple(sorted(level for level in levels if known[0] <= level <= known[-1]))


def _windows(
    path: Path,
    manifest: ForecastManifest,
    target: str | None,
    count: int,
    limit: int | None,
    freq: str | None,
    horizon: int | None,
) -> list[EvalWindow]:
    if is_benchmark(path):
        windows = read_benchmark(path)
        if limit is not None:
            # Evenly spaced, since their files are in the order of the frequencies.
            indices = np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int)
            windows = [windows[i] for i in indices.tolist()]
        return windows
    target = target or (manifest.target if len(manifest.features) > 1 else None)
    series, _ = read_series([path], target, manifest.features[1:], manifest.categories, freq)
    if limit is not None:
        series = draw_series(series, limit)
    windows = []
    for one in series:
        windows += rolling_windows([one], horizon or min(manifest.horizon, usual_horizon(one.season)), count)
    if not windows:
        raise DataError(f"{path}: no series has values both in a window at its end and before; try a shorter --horizon")
    return windows


def _measure(
    file: str, windows: Sequence[EvalWindow], levels: Sequence[float], methods: Sequence[tuple[Hint | None, Method]]
) -> list[MetricRow]:
    horizon = max(len(window.truth) for window in windows)
    forecasts: dict[tuple[str, Hint | None], Quantiles] = {}
    seconds: dict[tuple[str, Hint | None], float] = {}
    for hint, method in methods:
        started = time.perf_counter()
        by_name = method(windows, horizon, levels)
        forecasts |= {(name, hint): quantiles for name, quantiles in by_name.items()}
        # The naive forecasts share the time of their call: it takes next to none.
        seconds |= {(name, hint): time.perf_counter() - started for name in by_name}
    adjusted = naive2(windows, horizon)[:, :, None]
    names = sorted({window.group for window in windows})
    groups = {name: [i for i, window in enumerate(windows) if window.group == name] for name in names}
    if len(groups) > 1 or "" in groups:
        groups = {name: indices for name, indices in groups.items() if name} | {ALL: [*range(len(windows))]}
    rows = []
    for group, indices in groups.items():
        members = [windows[i] for i in indices]
        reference = score_forecasts(members, adjusted[indices], (0.5,))
        naive = forecasts["SeasonalNaive", None][indices]
        longest = max(len(window.truth) for window in members)
        of_group = []
        for (name, hint), quantiles in forecasts.items():
            scores = _scores(members, quantiles[indices], naive, levels, reference)
            if group == ALL or len(groups) == 1:
                scores["seconds"] = seconds[name, hint]
            by_step = coverage_by_step(members, quantiles[indices][:, :longest], levels)
            of_group.append(MetricRow(file, group, name, hint, scores, by_step))
        rows += _with_ratios(of_group)
    return rows


def _scores(
    windows: Sequence[EvalWindow],
    quantiles: Quantiles,
    naive: Quantiles,
    levels: Sequence[float],
    reference: dict[str, float],
) -> dict[str, float]:
    """`score_forecasts`, the relative MAE to the seasonal naive forecasts, and the owa relative to Naive2's scores."""
    measured = score_forecasts(windows, quantiles, levels, [level for level in DECILES if level in levels])
    series = {window.series or i for i, window in enumerate(windows)}
    scores = {"series": float(len(series)), "windows": float(len(windows)), "smape": measured.pop("smape")}
    if "mase" in measured:
        scores["mase"] = measured.pop("mase")
        if reference["smape"] > 0 and reference["mase"] > 0:
            scores["owa"] = (scores["smape"] / reference["smape"] + scores["mase"] / reference["mase"]) / 2
    middle = list(levels).index(0.5)
    ratio, series_without_ratio = relative_mae(windows, quantiles[:, :, middle], naive[:, :, middle])
    if ratio is not None:
        scores["relative_mae"] = ratio
    if series_without_ratio:
        scores["series_without_ratio"] = float(series_without_ratio)
    return scores | measured


def _with_ratios(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Add, to the rows of one group, a model's errors over those of the best fitted baseline, and over its own without
    a hint."""
    fitted = [row.scores for row in rows if row.method in FITTED]
    without_hint = {row.method: [row.scores] for row in rows if row.hint == "none"}
    compared = []
    for row in rows:
        ratios: dict[str, float | None] = {}
        if row.hint is not None:
            ratios["mase_to_best_fitted"] = _ratio("mase", row.scores, fitted)
            ratios["relative_mae_to_best_fitted"] = _ratio("relative_mae", row.scores, fitted)
            if row.hint != "none":
                ratios["mase_to_no_hint"] = _ratio("mase", row.scores, without_hint.get(row.method, []))
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        compared.append(replace(row, scores=row.scores | known))
    return compared


def _ratio(measure: str, scores: dict[str, float], others: Sequence[dict[str, float]]) -> float | None:
    """A score over the best of the others; None where there are no others, or the best makes no error."""
    best = min((other[measure] for other in others if measure in other), default=0.0)
    return max(MIN_RATIO, scores[measure] / best) if best > 0 and measure in scores else None


def _forecast_locally(
    name: str, model: ForecastModel, hint: Hint, windows: Sequence[EvalWindow], horizon: int, levels: Sequence[float]
) -> dict[str, Quantiles]:
    try:
        return {name: forecast_windows(model, windows, horizon, levels, hint)}
    except CarryError as error:
        raise DataError(error.detail) from error


def _forecast_remotely(
    url: str,
    manifest: ForecastManifest,
    hint: Hint,
    windows: Sequence[EvalWindow],
    horizon: int,
    levels: Sequence[float],
) -> dict[str, Quantiles]:
    quantiles = np.full((len(windows), horizon, len(levels)), np.nan)
    for first in range(0, len(windows), BATCH):
        batch = windows[first : first + BATCH]
        response = _post(url, {"requests": [_body(window, levels, manifest, hint) for window in batch]})
        for row, window, result in zip(quantiles[first:], batch, response["results"], strict=False):
            if "quantiles" not in result:
                raise DataError(f"{window.id}: {result.get('detail', result)}")
            row[: len(window.truth)] = np.array([result["quantiles"][f"{level:g}"] for level in levels]).T
    return {f"{manifest.name}, served": quantiles}


def _body(window: EvalWindow, levels: Sequence[float], manifest: ForecastManifest, hint: Hint) -> dict[str, Any]:
    columns = _columns(window.history, manifest.features, manifest)
    body: dict[str, Any] = {
        "model": f"{manifest.name}@{manifest.version}",
        "series": columns if len(columns) > 1 else columns[manifest.target],
        "horizon": len(window.truth),
        "quantiles": list(levels),
    }
    season, future = hinted_season(manifest, window, hint), known_future(window, manifest)
    if season is not None:
        body["season_length"] = list(season)
    if future is not None:
        body["future"] = _columns(future, manifest.known_ahead, manifest)
    return body


def _columns(
    values: Quantiles, names: Sequence[str], manifest: ForecastManifest
) -> dict[str, list[float | str | None]]:
    """Features (T, F) as a request gives them: categories by name, missing values as null."""
    columns: dict[str, list[float | str | None]] = {}
    for name, column in zip(names, values.T.tolist(), strict=True):
        categories = manifest.categories.get(name)
        known = [value if np.isfinite(value) else None for value in column]
        columns[name] = [categories[int(x)] if categories and x is not None else x for x in known]
    return columns


def _post(url: str, body: dict[str, Any]) -> Any:
    url = f"{url.rstrip('/')}/forecast/batch"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url} answers {error.code}: {error.read().decode(errors='replace')[:300]}") from error
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise DataError(f"{url}: {error}") from error

"""Measures forecasters on data they never saw, side by side and beside baselines, on the same windows."""

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carry.files import DataError, ReadOptions
from carry.models import ForecastModel
from service.errors import CarryError
from service.forecast.intervals import interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from training.data.reading import read
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
from training.models import ModelFolder
from training.progress import counted, say

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


@dataclass(frozen=True)
class Opened:
    """A forecaster to measure: the manifest of its folder, and its graphs by the names of their rows; none if the
    service at a URL forecasts."""

    manifest: ForecastManifest
    graphs: Mapping[str, ForecastModel]


def open_forecasters(folders: Sequence[Path], shipped: ModelFolder | None = None) -> list[Opened]:
    """The forecasters of the folders, each in float32 and in int8, and the shipped one to compare them with. Models of
    one name are told apart by their versions.

    Raises:
        ValueError: a folder holds no forecaster.
    """
    manifests = [read_manifest(folder, ForecastManifest) for folder in folders]
    names = Counter(manifest.name for manifest in manifests)
    opened = []
    for folder, manifest in zip(folders, manifests, strict=True):
        label = manifest.name if names[manifest.name] == 1 else manifest.label
        graphs = {name.replace(manifest.name, label, 1): model for name, model in ForecastModel.open(folder).items()}
        opened.append(Opened(manifest, graphs))
    if shipped is not None and isinstance(shipped.manifest, ForecastManifest):
        manifest = shipped.manifest
        model = ForecastModel.of_folder(shipped.path, manifest, manifest.graph)
        opened.append(Opened(manifest, {f"the shipped {shipped.label}": model}))
    return opened


def evaluate_forecaster(
    folders: Sequence[Path],
    data: Sequence[Path],
    reading: ReadOptions | None = None,
    windows: int = 1,
    limit: int | None = None,
    baselines: Sequence[str] = (),
    url: str | None = None,
    horizon: int | None = None,
    hints: Sequence[Hint] = ("usual",),
    shipped: ModelFolder | None = None,
) -> list[MetricRow]:
    """Rows of each group (frequency) of each file and of each whole file, the models' first: all models forecast the
    same windows at the same horizon and levels.

    Benchmarks are split as published (`read_benchmark`); at most `limit` of their series, evenly spaced, count. Of
    other files at most `limit` series are drawn, and the last `windows` windows of each are forecast from all values
    before them. A window has `horizon` values; None: as `usual_horizon` says, but no more than the horizon of any
    model. With `url`, the service there forecasts with the one model, else each graph of the folders, once with each of
    `hints`. reading: how to read the files; without a target, it is that of a model with features. shipped: to be
    measured beside them.

    Raises:
        DataError: a file cannot be read, no series is longer than the horizon, a model or the service refuses one, or
            the models forecast different columns.
    """
    if url:
        models = [Opened(read_manifest(folder, ForecastManifest), {}) for folder in folders]
    else:
        models = open_forecasters(folders, shipped)
    levels = _levels([model.manifest for model in models])
    rows = []
    try:
        for path in data:
            manifests = [model.manifest for model in models]
            of_models = _windows(path, manifests, reading or ReadOptions(), windows, limit, horizon)
            methods: list[tuple[Hint | None, Method]] = []
            for hint in hints:
                for model, own in zip(models, of_models, strict=True):
                    for name, graph in model.graphs.items():
                        methods.append((hint, partial(_forecast_locally, name, graph, hint, own)))
                    if url:
                        methods.append((hint, partial(_forecast_remotely, url, model.manifest, hint, own)))
            for name in ("naive", *(name for name in baselines if name != "naive")):
                methods.append((None, partial(_forecast_baselines, name)))
            rows += _measure(path.name.split(".")[0], of_models[0], levels, methods)
    finally:
        for model in models:
            for graph in model.graphs.values():
                graph.close()
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


def _levels(manifests: Sequence[ForecastManifest]) -> tuple[float, ...]:
    """The deciles and the ends of the measured intervals, as far as all models were trained for them."""
    low = max(manifest.quantile_levels[0] for manifest in manifests)
    high = min(manifest.quantile_levels[-1] for manifest in manifests)
    levels = {*DECILES, *(end for interval in INTERVALS for end in interval_to_quantiles(interval))}
    return tuple(sorted(level for level in levels if low <= level <= high))


def _windows(
    path: Path,
    manifests: Sequence[ForecastManifest],
    reading: ReadOptions,
    count: int,
    limit: int | None,
    horizon: int | None,
) -> list[list[EvalWindow]]:
    """For each model the windows with its features; else they are the same."""
    if is_benchmark(path):
        windows = read_benchmark(path)
        if limit is not None:
            # Evenly spaced, since their files are in the order of the frequencies.
            indices = np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int)
            windows = [windows[i] for i in indices.tolist()]
        return [windows] * len(manifests)
    targets = {manifest.target for manifest in manifests if len(manifest.features) > 1}
    if reading.target is None and len(targets) > 1:
        raise DataError(f"{path}: the models forecast different columns, {', '.join(sorted(targets))}: use --target")
    target = reading.target or next(iter(targets), None)
    longest = min(manifest.horizon for manifest in manifests)
    of_models: list[list[EvalWindow]] = []
    done: list[ReadOptions] = []
    for manifest in manifests:
        options = replace(reading, target=target, features=manifest.features[1:], categories=manifest.categories)
        done.append(options)
        if done.index(options) < len(of_models):  # a model before it reads the same columns
            of_models.append(of_models[done.index(options)])
            continue
        series, _ = read([path], options)
        if limit is not None:
            series = draw_series(series, limit)
        windows = []
        for one in series:
            windows += rolling_windows([one], horizon or min(longest, usual_horizon(one.season)), count)
        if not windows:
            raise DataError(
                f"{path}: no series has values both in a window at its end and before; try a shorter --horizon"
            )
        of_models.append(windows)
    return of_models


def _measure(
    file: str, windows: Sequence[EvalWindow], levels: Sequence[float], methods: Sequence[tuple[Hint | None, Method]]
) -> list[MetricRow]:
    horizon = max(len(window.truth) for window in windows)
    forecasts: dict[tuple[str, Hint | None], Quantiles] = {}
    seconds: dict[tuple[str, Hint | None], float] = {}
    say(f"{file}: {counted(len(windows), 'window')}, horizon {horizon}")
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
    name: str,
    model: ForecastModel,
    hint: Hint,
    own: Sequence[EvalWindow],
    windows: Sequence[EvalWindow],
    horizon: int,
    levels: Sequence[float],
) -> dict[str, Quantiles]:
    """`own`: the windows with the model's features."""
    say(f"forecasting with {name}")
    try:
        return {name: forecast_windows(model, own, horizon, levels, hint)}
    except CarryError as error:
        raise DataError(error.detail) from error


def _forecast_baselines(
    name: str, windows: Sequence[EvalWindow], horizon: int, levels: Sequence[float]
) -> dict[str, Quantiles]:
    say(f"forecasting with the baseline {name}")
    return forecast_baselines(windows, horizon, levels, (name,))


def _forecast_remotely(
    url: str,
    manifest: ForecastManifest,
    hint: Hint,
    own: Sequence[EvalWindow],
    windows: Sequence[EvalWindow],
    horizon: int,
    levels: Sequence[float],
) -> dict[str, Quantiles]:
    """`own`: the windows with the model's features."""
    say(f"forecasting with {manifest.name} at {url}")
    quantiles = np.full((len(own), horizon, len(levels)), np.nan)
    for first in range(0, len(own), BATCH):
        batch = own[first : first + BATCH]
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

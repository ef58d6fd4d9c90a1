"""Measures a model folder on data it never saw, beside baselines on the same data."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carry.local import ForecastModel, Hint, LanguageModel, hinted_season, known_future, text_scores
from service.errors import CarryError
from service.forecast.manifest import ForecastManifest
from service.forecast.task import tails
from service.manifest import read_manifest
from training.data.series import DataError, read_series
from training.data.texts import Document, encode_all, read_documents
from training.evaluation.baselines import (
    INTERVALS,
    LEAST_RATIO,
    coverage_by_step,
    forecast_baselines,
    naive2,
    relative_mae,
    score_forecasts,
)
from training.evaluation.windows import (
    Window,
    draw_series,
    is_benchmark,
    read_benchmark,
    rolling_windows,
    usual_horizon,
)

DECILES = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""The levels whose pinball loss is published of other forecasters."""
ALL = "all"
"""The group of all series of a file."""
BATCH = 500
"""Series in one call of POST /forecast/batch."""

EVERY_FILE = "every file alike"
"""Stands for the file in figures of all files."""
FITTED = ("AutoETS", "AutoTheta", "AutoARIMA")
"""Baselines that the models are compared with: the best of those that were fitted."""

SUMS = ("series", "windows", "windows_without_scale", "series_without_ratio", "seconds")
"""What is added up over files."""
RATIOS = ("relative_mae", "mase_to_best_fitted", "relative_mae_to_best_fitted", "mase_to_no_hint")
"""What is averaged over files by its geometric mean."""
COLUMNS = ("series", "windows", "smape", "mase", "owa", *RATIOS, "scaled_quantile_loss")
"""The first columns of a table."""

Quantiles = NDArray[np.float64]
Method = Callable[[Sequence[Window], int, Sequence[float]], dict[str, Quantiles]]
"""Windows, horizon H, levels Q -> quantiles (N, H, Q) by the name of who forecast."""


@dataclass(frozen=True)
class Figures:
    """How well one method forecast one group of a file's series. `hint`: what a model was told of the season; None of a
    baseline. `by_step`: of each central interval (its percentage), the share of truths inside it at each step ahead."""

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
) -> list[Figures]:
    """Figures of each file, of each of its groups (frequencies) and of all of it, the model's first.

    Benchmarks are split as published (`read_benchmark`), and at most `limit` of their series, evenly spaced, count. Of
    other files at most `limit` series are drawn, and the last `windows` windows of each are forecast from all before
    each. They are `horizon` long; if that is None as `usual_horizon` says, but no longer than the model's horizon.
    With `url`, the service there forecasts; else each graph in the folder does. It does so once with each of `hints`.

    Raises:
        DataError: a file cannot be read, no series is longer than the horizon, or the model or the service refuses one.
    """
    models = {} if url else ForecastModel.open(folder)
    manifest = read_manifest(folder, ForecastManifest)
    levels = _levels(manifest)
    methods: list[tuple[Hint | None, Method]] = []
    for hint in hints:
        graphs = [_local(name, model, hint) for name, model in models.items()]
        methods += [(hint, method) for method in ([_remote(url, manifest, hint)] if url else graphs)]
    methods += [(None, _baseline(name)) for name in ("naive", *(name for name in baselines if name != "naive"))]
    figures = []
    try:
        for path in data:
            chosen = _windows(path, manifest, target, windows, limit, freq, horizon)
            figures += _measured(path.name.split(".")[0], chosen, levels, methods)
    finally:
        for model in models.values():
            model.close()
    return figures


def across_files(figures: Sequence[Figures]) -> list[Figures]:
    """Each method over all files, each of which counts alike; nothing of a single file. Counts are added up; of ratios
    it is the geometric mean over files, of other measures the plain one."""
    whole = [one for one in figures if "seconds" in one.scores]
    if len({one.file for one in whole}) < 2:
        return []
    rows = []
    for method, hint in dict.fromkeys((one.method, one.hint) for one in whole):
        by_measure: dict[str, list[float]] = {}
        for one in whole:
            if (one.method, one.hint) == (method, hint):
                for name, score in one.scores.items():
                    by_measure.setdefault(name, []).append(score)
        means = {
            name: sum(scores) if name in SUMS else geometric_mean(scores) if name in RATIOS else fmean(scores)
            for name, scores in by_measure.items()
            if name not in ("mae", "mse")
        }
        rows.append(Figures(EVERY_FILE, ALL, method, hint, means))
    return rows


def evaluation_rows(figures: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """A line for each, as `figures_table` takes it: `COLUMNS` first; with the coverage as the least and the most of all
    steps; without the errors in the units of the series, which say nothing of many series together."""
    rows = {}
    for one in figures:
        scores = {name: score for name, score in one.scores.items() if name not in ("mae", "mse")}
        for interval, shares in one.by_step.items():
            seen = [share for share in shares if share is not None]
            scores |= {f"least_{interval}": min(seen), f"most_{interval}": max(seen)}
        hint = "" if one.hint in (None, "usual") else f", hint: {one.hint}"
        row = {name: scores[name] for name in (*COLUMNS, *scores) if name in scores}
        rows[f"{one.file}, {one.group}: {one.method}{hint}"] = row
    return rows


def _levels(manifest: ForecastManifest) -> tuple[float, ...]:
    """The deciles and the ends of the intervals measured, within what the model was trained for."""
    known = manifest.quantile_levels
    wanted = {*DECILES, *(end for interval in INTERVALS for end in tails(interval))}
    return tuple(sorted(level for level in wanted if known[0] <= level <= known[-1]))


def _windows(
    path: Path,
    manifest: ForecastManifest,
    target: str | None,
    count: int,
    limit: int | None,
    freq: str | None,
    horizon: int | None,
) -> list[Window]:
    if is_benchmark(path):
        windows = read_benchmark(path)
        if limit is not None:
            # Evenly spaced, as their files are in the order of their frequencies.
            places = np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int)
            windows = [windows[i] for i in places.tolist()]
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


def _measured(
    file: str, windows: Sequence[Window], levels: Sequence[float], methods: Sequence[tuple[Hint | None, Method]]
) -> list[Figures]:
    horizon = max(len(window.truth) for window in windows)
    forecasts: dict[tuple[str, Hint | None], Quantiles] = {}
    seconds: dict[tuple[str, Hint | None], float] = {}
    for hint, method in methods:
        started = time.perf_counter()
        by_name = method(windows, horizon, levels)
        forecasts |= {(name, hint): quantiles for name, quantiles in by_name.items()}
        # Those of one call share its time: the naive ones, which take next to none.
        seconds |= {(name, hint): time.perf_counter() - started for name in by_name}
    adjusted = naive2(windows, horizon)[:, :, None]
    names = sorted({window.group for window in windows})
    groups = {name: [i for i, window in enumerate(windows) if window.group == name] for name in names}
    if len(groups) > 1 or "" in groups:
        groups = {name: rows for name, rows in groups.items() if name} | {ALL: [*range(len(windows))]}
    figures = []
    for group, rows in groups.items():
        members = [windows[i] for i in rows]
        reference = score_forecasts(members, adjusted[rows], (0.5,))
        naive = forecasts["SeasonalNaive", None][rows]
        reached = max(len(window.truth) for window in members)
        of_group = []
        for (name, hint), quantiles in forecasts.items():
            scores = _scores(members, quantiles[rows], naive, levels, reference)
            if group == ALL or len(groups) == 1:
                scores["seconds"] = seconds[name, hint]
            by_step = coverage_by_step(members, quantiles[rows][:, :reached], levels)
            of_group.append(Figures(file, group, name, hint, scores, by_step))
        figures += _with_ratios(of_group)
    return figures


def _scores(
    windows: Sequence[Window],
    quantiles: Quantiles,
    naive: Quantiles,
    levels: Sequence[float],
    reference: dict[str, float],
) -> dict[str, float]:
    """`score_forecasts`, the relative MAE to the seasonal naive forecasts, and the owa by the scores of Naive2."""
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


def _with_ratios(figures: Sequence[Figures]) -> list[Figures]:
    """Of one group: a model's errors over those of the best fitted baseline, and over its own without a hint."""
    fitted = [one.scores for one in figures if one.method in FITTED]
    without_hint = {one.method: [one.scores] for one in figures if one.hint == "none"}
    compared = []
    for one in figures:
        ratios: dict[str, float | None] = {}
        if one.hint is not None:
            ratios["mase_to_best_fitted"] = _ratio("mase", one.scores, fitted)
            ratios["relative_mae_to_best_fitted"] = _ratio("relative_mae", one.scores, fitted)
            if one.hint != "none":
                ratios["mase_to_no_hint"] = _ratio("mase", one.scores, without_hint.get(one.method, []))
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        compared.append(replace(one, scores=one.scores | known))
    return compared


def _ratio(measure: str, scores: dict[str, float], others: Sequence[dict[str, float]]) -> float | None:
    """A score over the best of the others'; None where there is none, or the best makes no error."""
    best = min((other[measure] for other in others if measure in other), default=0.0)
    return max(LEAST_RATIO, scores[measure] / best) if best > 0 and measure in scores else None


def _local(name: str, model: ForecastModel, hint: Hint) -> Method:
    def run(windows: Sequence[Window], horizon: int, levels: Sequence[float]) -> dict[str, Quantiles]:
        try:
            return {name: model.forecast(windows, horizon, levels, hint)}
        except CarryError as error:
            raise DataError(error.detail) from error

    return run


def _remote(url: str, manifest: ForecastManifest, hint: Hint) -> Method:
    def run(windows: Sequence[Window], horizon: int, levels: Sequence[float]) -> dict[str, Quantiles]:
        found = np.full((len(windows), horizon, len(levels)), np.nan)
        for first in range(0, len(windows), BATCH):
            some = windows[first : first + BATCH]
            answer = _post(url, {"requests": [_body(window, levels, manifest, hint) for window in some]})
            for row, window, result in zip(found[first:], some, answer["results"], strict=False):
                if "quantiles" not in result:
                    raise DataError(f"{window.id}: {result.get('detail', result)}")
                row[: len(window.truth)] = np.array([result["quantiles"][f"{level:g}"] for level in levels]).T
        return {f"{manifest.name}, served": found}

    return run


def _body(window: Window, levels: Sequence[float], manifest: ForecastManifest, hint: Hint) -> dict[str, Any]:
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
    """Features (T, F) as a request gives them: categories by name, what is missing as null."""
    found: dict[str, list[float | str | None]] = {}
    for name, column in zip(names, values.T.tolist(), strict=True):
        categories = manifest.categories.get(name)
        known = [value if np.isfinite(value) else None for value in column]
        found[name] = [categories[int(x)] if categories and x is not None else x for x in known]
    return found


def _post(url: str, body: dict[str, Any]) -> Any:
    url = f"{url.rstrip('/')}/forecast/batch"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url} answers {error.code}: {error.read().decode(errors='replace')[:300]}") from error
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise DataError(f"{url}: {error}") from error


def _baseline(name: str) -> Method:
    def run(windows: Sequence[Window], horizon: int, levels: Sequence[float]) -> dict[str, Quantiles]:
        return forecast_baselines(windows, horizon, levels, (name,))

    return run


def evaluate_text(folder: Path, data: Sequence[Path], last: float | None = None) -> dict[str, dict[str, float]]:
    """The costs of whole documents, each read once from its start: of all together and of each, by every graph in the
    folder.

    last: of each document only its last share, which begins at int(n * (1 - last)), as if nothing came before.

    Raises:
        DataError: a file cannot be read, or no document has two tokens.
    """
    models = LanguageModel.open(folder)
    manifest = next(iter(models.values())).manifest
    read = read_documents(data)
    if last is not None:
        read = [Document(one.name, one.text[int(len(one.text) * (1 - last)) :]) for one in read]
    documents = encode_all(manifest.tokenizer, (one.text for one in read))
    if not any(len(document.tokens) > 1 for document in documents):
        raise DataError("too short to measure: the first character or word of a document is read, not predicted")
    alone = [(f"{number}. {one.name}", slice(number - 1, number)) for number, one in enumerate(read, 1)]
    rows = {}
    for name, model in models.items():
        started = time.perf_counter()
        nats = model.nats([document.tokens for document in documents])
        seconds = time.perf_counter() - started
        for group, some in [("", slice(None)), *(alone if len(read) > 1 else [])]:
            own = documents[some]
            rows[f"{name}, {group}" if group else name] = {
                **text_scores(manifest, own, float(nats[some].sum())),
                "characters": float(sum(document.characters for document in own)),
                f"unknown_{manifest.unit}s": float(sum(int((document.tokens == 0).sum()) for document in own)),
                **({} if group else {"seconds": seconds}),
            }
    return rows

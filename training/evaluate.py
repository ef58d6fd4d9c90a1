"""Measures a model folder on data it never saw, beside baselines on the same data."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import CarryError
from service.forecasting import tails
from service.manifest import ForecastManifest, read_manifest
from service.tokenizer import Tokenizer
from training.baselines import INTERVALS, coverage_by_step, forecast_baselines, naive2, score_forecasts
from training.inference import ForecastModel, LanguageModel, known_future, text_scores, usual_season
from training.series_data import DataError, read_series
from training.text_data import Document, encode_all, read_documents
from training.windows import Window, is_benchmark, read_benchmark, rolling_windows

DECILES = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""The levels whose pinball loss is published of other forecasters."""
ALL = "all"
"""The group of all series of a file."""
BATCH = 500
"""Series in one call of POST /forecast/batch."""

Quantiles = NDArray[np.float64]
Method = Callable[[Sequence[Window], int, Sequence[float]], dict[str, Quantiles]]
"""Windows, horizon H, levels Q -> quantiles (N, H, Q) by the name of who forecast."""


@dataclass(frozen=True)
class Figures:
    """How well one method forecast one group of a file's series. `by_step`: of each central interval (its percentage),
    the share of truths inside it at each step ahead."""

    file: str
    group: str
    method: str
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
) -> list[Figures]:
    """Figures of each file, of each of its groups (frequencies) and of all of it, the model's first.

    Benchmarks are split as published (`read_benchmark`); of other series the last `windows` windows, as long as the
    model's horizon, are forecast from all before each. At most `limit` series of a file, evenly spaced, count.
    With `url`, the service there forecasts; else each graph in the folder does.

    Raises:
        DataError: a file cannot be read, no series is longer than the model's horizon, or the model or the service
            refuses one.
    """
    models = {} if url else ForecastModel.open(folder)
    manifest = read_manifest(folder)
    assert isinstance(manifest, ForecastManifest)
    levels = _levels(manifest)
    methods: list[Method] = [_remote(url, manifest)] if url else [_local(name, model) for name, model in models.items()]
    methods += [_baseline(name) for name in ("naive", *(name for name in baselines if name != "naive"))]
    figures = []
    try:
        for path in data:
            chosen = _windows(path, manifest, target, windows, limit, freq)
            figures += _measured(path.name.split(".")[0], chosen, levels, methods)
    finally:
        for model in models.values():
            model.close()
    return figures


def evaluation_rows(figures: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """A line for each, as `figures_table` takes it: the coverage as the least and the most of all steps, too; without
    the errors in the units of the series, which say nothing of many series together."""
    rows = {}
    for one in figures:
        row = {name: score for name, score in one.scores.items() if name not in ("mae", "mse")}
        for interval, shares in one.by_step.items():
            seen = [share for share in shares if share is not None]
            row |= {f"least_{interval}": min(seen), f"most_{interval}": max(seen)}
        rows[f"{one.file}, {one.group}: {one.method}"] = row
    return rows


def _levels(manifest: ForecastManifest) -> tuple[float, ...]:
    """The deciles and the ends of the intervals measured, within what the model was trained for."""
    known = manifest.quantile_levels
    wanted = {*DECILES, *(end for interval in INTERVALS for end in tails(interval))}
    return tuple(sorted(level for level in wanted if known[0] <= level <= known[-1]))


def _windows(
    path: Path, manifest: ForecastManifest, target: str | None, count: int, limit: int | None, freq: str | None
) -> list[Window]:
    if is_benchmark(path):
        found = read_benchmark(path)
    else:
        target = target or (manifest.target if len(manifest.features) > 1 else None)
        series, _ = read_series([path], target, manifest.features[1:], manifest.categories, freq)
        found = rolling_windows(series, manifest.horizon, count)
        if not found:
            raise DataError(
                f"{path}: no series has values both in its last {manifest.horizon}, the model's horizon, and before"
            )
    if limit is not None:
        found = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(limit, len(found))).astype(int))]
    return found


def _measured(
    file: str, windows: Sequence[Window], levels: Sequence[float], methods: Sequence[Method]
) -> list[Figures]:
    horizon = max(len(window.truth) for window in windows)
    forecasts: dict[str, Quantiles] = {}
    seconds: dict[str, float] = {}
    for method in methods:
        started = time.perf_counter()
        found = method(windows, horizon, levels)
        forecasts |= found
        # Those of one call share its time: the naive ones, which take next to none.
        seconds |= dict.fromkeys(found, time.perf_counter() - started)
    adjusted = naive2(windows, horizon)[:, :, None]
    names = sorted({window.group for window in windows})
    groups = {name: [i for i, window in enumerate(windows) if window.group == name] for name in names}
    if len(groups) > 1 or "" in groups:
        groups = {name: rows for name, rows in groups.items() if name} | {ALL: [*range(len(windows))]}
    losses = [level for level in DECILES if level in levels]
    figures = []
    for group, rows in groups.items():
        own = [windows[i] for i in rows]
        reference = score_forecasts(own, adjusted[rows], (0.5,))
        for method_name, quantiles in forecasts.items():
            scores = score_forecasts(own, quantiles[rows], levels, losses)
            ordered = {"series": float(len(own)), "smape": scores.pop("smape")}
            if "mase" in scores:
                ordered["mase"] = scores.pop("mase")
                ordered["owa"] = (ordered["smape"] / reference["smape"] + ordered["mase"] / reference["mase"]) / 2
            reached = max(len(window.truth) for window in own)
            by_step = coverage_by_step(own, quantiles[rows][:, :reached], levels)
            if group == ALL or len(groups) == 1:
                scores["seconds"] = seconds[method_name]
            figures.append(Figures(file, group, method_name, ordered | scores, by_step))
    return figures


def _local(name: str, model: ForecastModel) -> Method:
    def run(windows: Sequence[Window], horizon: int, levels: Sequence[float]) -> dict[str, Quantiles]:
        try:
            return {name: model.forecast(windows, horizon, levels)}
        except CarryError as error:
            raise DataError(error.detail) from error

    return run


def _remote(url: str, manifest: ForecastManifest) -> Method:
    def run(windows: Sequence[Window], horizon: int, levels: Sequence[float]) -> dict[str, Quantiles]:
        found = np.full((len(windows), horizon, len(levels)), np.nan)
        for first in range(0, len(windows), BATCH):
            some = windows[first : first + BATCH]
            answer = _post(url, {"requests": [_body(window, levels, manifest) for window in some]})
            for row, window, result in zip(found[first:], some, answer["results"], strict=False):
                if "quantiles" not in result:
                    raise DataError(f"{window.id}: {result.get('detail', result)}")
                row[: len(window.truth)] = np.array([result["quantiles"][f"{level:g}"] for level in levels]).T
        return {f"{manifest.name}, served": found}

    return run


def _body(window: Window, levels: Sequence[float], manifest: ForecastManifest) -> dict[str, Any]:
    columns = _columns(window.history, manifest.features, manifest)
    body: dict[str, Any] = {
        "model": f"{manifest.name}@{manifest.version}",
        "series": columns if len(columns) > 1 else columns[manifest.target],
        "horizon": len(window.truth),
        "quantiles": list(levels),
    }
    season, future = usual_season(manifest, window.group, window.season), known_future(window, manifest)
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
    documents = encode_all(Tokenizer.of(manifest), (one.text for one in read))
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

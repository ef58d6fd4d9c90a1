"""Trains a forecaster and writes its model folder: network, loop, export, evaluation, pictures, card."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from carry.files import DataError, Series
from carry.models import ForecastModel
from carry.plots import ForecastPanel, plot_forecasts
from carry.times.frequencies import IrregularTimesError, regular_grid
from service.forecast.manifest import ForecastManifest
from training import plots
from training.card import ModelCard, int8_text, markdown_table
from training.data.forking_batches import Bucket, EndsStream, ForkingStream, can_be_learnt
from training.data.series import MIN_TRAIN_VALUES, MIN_WHOLE_SERIES, Split, split_series
from training.data.tbptt_batches import Segment, SeriesStream
from training.evaluation.baselines import HISTORY_LIMIT as BASELINE_HISTORY
from training.evaluation.baselines import forecast_baselines
from training.evaluation.eval_windows import EvalWindow
from training.evaluation.forecasts import forecast_windows
from training.evaluation.metrics import score_forecasts
from training.loop import LoopConfig, Stream, fit
from training.models import shipped_model
from training.nets.cells import Cell
from training.nets.covariates import Covariates
from training.nets.forecaster import Forecaster
from training.nets.global_forecaster import GlobalForecaster
from training.nets.scaling import StandardScaler
from training.nets.series_scan import LAGS
from training.onnx.export import GraphSpec, build_graphs, evaluate_int8, save_reference, standardise, write_folder
from training.progress import counted, say
from training.provenance import Run, is_first_process, provenance, share_of_this_process

HISTORY_LIMIT = 2048
WARM_UP = 512
ETS_VALUES = 40_000
"""Values of all histories together up to which AutoETS is among the baselines: it takes a second for a thousand."""
VALIDATION_SERIES = 500
VALIDATION_STEPS = 256
MAX_SERIES_VALUES = 20_000
"""Limits, so that neither many nor long series make an epoch or its validation slow, and none outweighs the others."""


@dataclass(frozen=True)
class ForecastConfig:
    """What to train. context: time steps per training window. scaling: "causal" or "standard" (see nets/scaling.py).
    known_ahead: features whose future is known. categories: of the features that are not numbers."""

    cell: Cell
    hidden: int
    layers: int
    dropout: float
    horizon: int
    context: int
    quantile_levels: tuple[float, ...]
    scaling: str
    rows: int
    valid: float
    test: float
    mask_rate: float
    windows: int
    baselines: bool
    keep_data: bool
    features: tuple[str, ...]
    known_ahead: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def train(
    series: Sequence[Series], config: ForecastConfig, loop: LoopConfig, run: Run, test_series: Sequence[Series] = ()
) -> Path | None:
    """Train on the series' training parts, choose the weights on their validation parts, measure on their test parts,
    or on `test_series` if there are any.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: no series has values that a forecast could be learnt from.
    """
    torch.manual_seed(loop.seed)
    parts = split_series(series, config.horizon, config.valid, 0.0 if test_series else config.test)
    if test_series:
        parts = replace(parts, test=[follow_on(series, each, config.context) for each in test_series])
    _check_learnable(parts.train, config)
    windows = test_windows(parts.test, config.horizon, config.windows)
    say(
        f"training on {_count(parts.train)}; choosing the weights on parts of {len(parts.valid):,} series; "
        f"measuring on {counted(len(windows), 'window')} of {len(parts.test):,} series"
    )
    shared = share_of_this_process(parts.train)
    sizes = config.cell, config.hidden, config.layers, config.dropout, config.horizon, config.quantile_levels
    location, scale = standardise([part.values for part in parts.train])
    network: Forecaster | GlobalForecaster
    training: Stream
    validation: Stream | None = None
    if config.scaling == "standard":
        network = Forecaster(StandardScaler(location, scale), *sizes)
        training = _stream([Segment(part.values) for part in shared], config, config.rows, config.mask_rate)
        if segments := _validation_segments(parts.valid):
            validation = _stream(segments, config, 64, 0.0)
    else:
        known = [config.features.index(name) - 1 for name in config.known_ahead]
        counts = tuple(len(config.categories.get(name, ())) for name in config.features[1:])
        network = GlobalForecaster(Covariates(location[1:], scale[1:], counts, tuple(known)), *sizes)
        bucket = Bucket(config.context, config.rows, max(4, config.context // 6), config.horizon)
        columns = [1 + i for i in known]
        training = ForkingStream(shared, _steps(shared, config), [bucket], columns, hidden=config.mask_rate)
        if ends := _ends(parts.valid, config.horizon):
            validation = EndsStream(ends, config.horizon, columns)
    history = fit(network, training, validation, loop, run.folder, run.identity)
    if not is_first_process():
        return None

    def manifest(version: int, graphs: GraphSpec) -> ForecastManifest:
        return ForecastManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=graphs.graph,
            metrics={},
            provenance=provenance(run, network, history, loop.seed, config.cell, config.layers, config.hidden),
            features=config.features,
            known_ahead=config.known_ahead,
            categories=dict(config.categories),
            longest_season=int(LAGS[-1]) if isinstance(network, GlobalForecaster) else 0,
            horizon=config.horizon,
            quantile_levels=config.quantile_levels,
            context=config.context,
        )

    def finalize(folder: Path, unmeasured: ForecastManifest, int8: GraphSpec) -> ForecastManifest:
        save_reference(network, folder)
        model, int8_model = (
            ForecastModel.of_folder(folder, unmeasured, graph) for graph in (unmeasured.graph, int8.graph)
        )
        card = ModelCard(history)
        plots.plot_losses(history, folder / "pictures" / "loss.png", "pinball loss, in units of the scale")
        card.losses()
        metrics: dict[str, float] = {}
        losses = None
        if windows:
            metrics = _measure(model, windows, config, card, folder)
            metrics |= _test_part(model, *parts.test[0], config, card, folder)
            if "scaled_quantile_loss" in metrics:  # there is none if no history ever changes
                losses = (_loss(model, windows), _loss(int8_model, windows))
        else:
            card.section("Test part", _not_measured(series, config))
        say("evaluating int8")
        int8_entry = evaluate_int8(folder, GraphSpec(unmeasured.graph, None), int8, losses)
        card.section("In int8", int8_text(int8_entry, "scaled quantile loss"))
        complete = unmeasured.model_copy(update={"metrics": metrics, "int8": int8_entry})
        say("writing the card")
        card.write(folder, complete, what_it_does(complete))
        return complete

    say("exporting to ONNX, and comparing it with PyTorch")
    return write_folder(run.models, run.name, build_graphs(network), manifest, finalize)


def what_it_does(manifest: ForecastManifest) -> str:
    """A sentence for the card."""
    return (
        f"Forecasts the next {manifest.horizon} values of `{manifest.target}` at the quantile levels "
        f"{', '.join(map(str, manifest.quantile_levels))}, from the features "
        f"{', '.join(f'`{name}`' for name in manifest.features)}."
    )


def _count(series: Sequence[Series]) -> str:
    values = sum(int(np.isfinite(each.values[:, 0]).sum()) for each in series)
    return f"{len(series):,} series, {values:,} values"


def follow_on(trained_on: Sequence[Series], test: Series, context: int) -> tuple[Series, Split]:
    """A series to measure on, after the series of the same name (or the only one) that it goes on from, if its times
    follow that one's: then all its values are forecast. Else a series by itself, whose first `context` values, at most
    half, are only read.

    Raises:
        DataError: the series of the same name holds all its times: the model trained on them.
    """
    same = [each for each in trained_on if each.id == test.id] or list(trained_on)
    before = same[0]
    if len(same) == 1 and before.times is not None and test.times is not None and before.freq is not None:
        grid = _grid_of_both(before.times, test.times, before.freq)
        places = np.array([-1]) if grid is None else grid.get_indexer(test.times)
        new = places >= len(before.times)
        if grid is not None and (places >= 0).all() and new.any():
            values = np.full((len(grid), before.values.shape[1]), np.nan)
            values[: len(before.times)] = before.values
            values[places[new]] = test.values[new]
            end = len(before.times)
            return replace(before, id=test.id, values=values, times=grid), Split(end, end)
        if before.id == test.id and (places >= 0).all():
            raise DataError(f"--test-on: the model trained on all times of the series {test.id}")
    start = max(2, min(context, len(test.values) // 2))
    return test, Split(start, start)


def _grid_of_both(before: pd.DatetimeIndex, after: pd.DatetimeIndex, freq: str) -> pd.DatetimeIndex | None:
    """The times of two files at the frequency of the first; None if they do not follow it together."""
    if str(before.tz) != str(after.tz) or after[0] < before[0]:
        return None
    try:
        return pd.DatetimeIndex(regular_grid(pd.DatetimeIndex(before.union(after)), freq).times)
    except IrregularTimesError:
        return None


def _stream(segments: Sequence[Segment], config: ForecastConfig, rows: int, mask_rate: float) -> SeriesStream:
    return SeriesStream(segments, config.horizon, config.context, rows, 8 * config.context, mask_rate)


def _check_learnable(series: Sequence[Series], config: ForecastConfig) -> None:
    if config.scaling == "standard":
        learnable = any(np.isfinite(each.values[1:, 0]).any() for each in series)
    else:
        learnable = any(map(can_be_learnt, series))
    if not learnable:
        longest = max(int(np.isfinite(each.values[:, 0]).sum()) for each in series)
        raise DataError(
            f"nothing to learn from: of {len(series)} series to train on, the longest has {longest} values; needed is "
            "one with two values or more, which are not all the same"
        )


def _not_measured(series: Sequence[Series], config: ForecastConfig) -> str:
    longest, horizon = max(len(each.values) for each in series), config.horizon
    return (
        f"Nothing was held out to measure the model on: --valid is {config.valid:g}, --test is {config.test:g}, and "
        f"the longest of {len(series)} series has {longest} values. For a horizon of {horizon}, a series of "
        f"{max(4 * horizon, MIN_TRAIN_VALUES + 2 * horizon)} values or more can be cut; of {MIN_WHOLE_SERIES} series "
        f"or more of {horizon + 2} values some are held out whole."
    )


def _steps(series: Sequence[Series], config: ForecastConfig) -> int:
    """Batches an epoch: windows for twice the values of each series, of which at most `MAX_SERIES_VALUES` count."""
    windows = sum(max(1.0, 2 * min(MAX_SERIES_VALUES, len(each.values)) / config.context) for each in series)
    return max(10, math.ceil(windows / config.rows))


def _ends(held_out: Sequence[tuple[Series, Split]], horizon: int) -> list[Series]:
    """Series cut so that they end with `horizon` values of the validation part; of few series more than one cut
    each."""
    max_cuts = max(1, VALIDATION_SERIES // max(1, len(held_out)))
    ends = []
    for series, split in (held_out[i] for i in _evenly_spaced(held_out)):
        stops = np.arange(split.valid_end, split.train_end, -horizon)[:max_cuts]
        ends += [replace(series, values=series.values[max(0, stop - WARM_UP) : stop]) for stop in stops]
    return [end for end in ends if np.isfinite(end.values[-horizon:, 0]).any()]


def test_windows(held_out: Sequence[tuple[Series, Split]], horizon: int, limit: int) -> list[EvalWindow]:
    """At most `limit` windows of the test parts, evenly spaced over all of them."""
    origins = [
        (series, origin)
        for series, split in held_out
        for origin in range(split.valid_end, len(series.values) - horizon + 1, horizon)
    ]
    indices = np.linspace(0, len(origins) - 1, min(limit, len(origins))).astype(int) if origins else np.empty(0, int)
    windows = []
    for i in np.unique(indices).tolist():
        series, origin = origins[i]
        history = series.values[max(0, origin - HISTORY_LIMIT) : origin]
        future = series.values[origin : origin + horizon]
        if np.isfinite(future[:, 0]).any() and np.isfinite(history[:, 0]).sum() > 1:
            group = series.freq or ""
            windows.append(EvalWindow(series.id, history, future[:, 0], series.season, group, future))
    return windows


def _loss(model: ForecastModel, windows: Sequence[EvalWindow]) -> float:
    levels = model.manifest.quantile_levels
    return score_forecasts(windows, _forecast(model, windows), levels)["scaled_quantile_loss"]


def _forecast(model: ForecastModel, windows: Sequence[EvalWindow]) -> NDArray[np.float64]:
    return forecast_windows(model, windows, model.manifest.horizon, model.manifest.quantile_levels, "season")


def _forecast_shipped(
    windows: Sequence[EvalWindow], horizon: int, levels: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """What the shipped forecaster says of the same windows, from their targets and their frequency alone; nothing where
    this installation lacks it, or if it does not know a level."""
    shipped = shipped_model("forecast")
    if shipped is None or not isinstance(shipped.manifest, ForecastManifest):
        return {}
    known = shipped.manifest.quantile_levels
    if not known[0] <= min(levels) <= max(levels) <= known[-1]:
        say(f"not comparing with the shipped {shipped.label}: its levels are from {known[0]:g} to {known[-1]:g}")
        return {}
    say(f"measuring the shipped {shipped.label} on the same windows")
    model = ForecastModel.of_folder(shipped.path, shipped.manifest, shipped.manifest.graph)
    targets = [replace(window, history=window.history[:, :1], future=None) for window in windows]
    quantiles = forecast_windows(model, targets, horizon, levels)
    model.close()
    return {f"the shipped {shipped.label}": quantiles}


def _validation_segments(held_out: Sequence[tuple[Series, Split]]) -> list[Segment]:
    """Each series up to the end of its validation part; only predictions of that part count."""
    segments = []
    for series, split in (held_out[i] for i in _evenly_spaced(held_out)):
        start, end = max(0, split.train_end - WARM_UP), min(split.valid_end, split.train_end + VALIDATION_STEPS)
        if np.isfinite(series.values[split.train_end : end, 0]).any():
            segments.append(Segment(series.values[start:end], split.train_end - start - 1))
    return segments


def _evenly_spaced(held_out: Sequence[tuple[Series, Split]]) -> list[int]:
    """The indices of at most `VALIDATION_SERIES`, evenly spaced."""
    count = min(VALIDATION_SERIES, len(held_out))
    return [int(i) for i in np.unique(np.linspace(0, max(0, len(held_out) - 1), count).astype(int))]


def _measure(
    model: ForecastModel, windows: Sequence[EvalWindow], config: ForecastConfig, card: ModelCard, folder: Path
) -> dict[str, float]:
    """Score the model and the baselines on the same windows, into the card; the model's own scores."""
    levels = config.quantile_levels
    say(f"measuring the test part: {counted(len(windows), 'window')}, horizon {config.horizon}")
    forecasts = {"Carry": _forecast(model, windows)}
    forecasts |= _forecast_shipped(windows, config.horizon, levels)
    methods: tuple[str, ...] = ("naive", "theta") if config.baselines else ("naive",)
    fitted = sum(min(BASELINE_HISTORY, len(window.history)) for window in windows)
    if config.baselines and fitted <= ETS_VALUES:
        methods = ("naive", "ets", "theta")
    elif config.baselines:
        say(f"leaving out AutoETS, which takes minutes for {fitted:,} values of histories; `carry evaluate` has it")
    say(f"measuring baselines on the same windows: {', '.join(methods)}")
    forecasts |= forecast_baselines(windows, config.horizon, levels, methods)
    scores = {name: score_forecasts(windows, quantiles, levels) for name, quantiles in forecasts.items()}
    card.section(
        "Test part",
        f"{len(windows)} windows of the test part, each {config.horizon} values after its history, the same for every "
        "method. The shipped model reads only the target, and knows its frequency; the baselines are statsforecast's, "
        "fitted to each history anew. The measures are defined in "
        "`docs/training.md`; lower is better, coverage should be its nominal share.\n\n"
        + markdown_table(scores)
        + _against_others(scores),
    )
    if config.horizon == 1:
        return scores["Carry"]  # the picture of the test part shows a single step better
    every = max(1, len(windows) // 6)
    panels = [
        ForecastPanel(w.id, w.history[-4 * config.horizon :, 0], w.truth, forecasts["Carry"][i])
        for i, w in list(enumerate(windows))[::every][:6]
    ]
    plot_forecasts(panels, levels, folder / "pictures" / "forecasts.png", config.keep_data)
    card.picture("forecasts", "Forecasts of test windows with their quantile fan over the truth.")
    return scores["Carry"]


def _against_others(scores: Mapping[str, Mapping[str, float]]) -> str:
    """What the network gains over "the next is the newest", and over the shipped model, in words."""
    others = {"Naive": "Against the naive forecast (the next is the newest)"}
    others |= {name: f"Against {name}" for name in scores if name.startswith("the shipped")}
    sentences = []
    for name, against in others.items():
        ours, theirs = scores["Carry"]["mae"], scores[name]["mae"]
        if theirs:
            gain = 100 * (1 - ours / theirs)
            verdict = f"{gain:.1f} % smaller" if gain > 0 else f"{-gain:.1f} % larger: it gains nothing there"
            sentences.append(f"{against}, the median's mean absolute error is {verdict}.")
    return "\n\n" + " ".join(sentences) if sentences else ""


def _test_part(
    model: ForecastModel, series: Series, split: Split, config: ForecastConfig, card: ModelCard, folder: Path
) -> dict[str, float]:
    """Draw the first series' test part: forecast one step ahead from all values before, and freely from its start."""
    start, end = split.valid_end, min(len(series.values), split.valid_end + 1000)
    quantiles = model.one_step(series.values[max(0, start - HISTORY_LIMIT) : end], series.season)[
        -(end - start) - 1 : -1
    ]
    truth = series.values[start:end, 0]
    times = None if series.times is None else series.times[start:end].tz_localize(None).to_numpy()
    pictures, levels = folder / "pictures", config.quantile_levels
    title = f"{series.id}, test part: one step ahead"
    plots.plot_test_part(times, truth, quantiles, levels, pictures / "test.png", title, config.keep_data)
    card.picture("test", f"The test part of `{series.id}`: one-step forecasts and their quantiles over the truth.")
    if len(config.features) > 1:
        return {}
    steps = min(len(truth), 10 * config.context)
    path: NDArray[np.float64] = model.unroll(series.values[max(0, start - HISTORY_LIMIT) : start], steps, series.season)
    error = float(np.nanmean(np.abs(path - truth[:steps])))
    panel = ForecastPanel(f"{series.id}, going on by itself", series.values[:start, 0], truth[:steps], path[:, None])
    plot_forecasts([panel], (0.5,), pictures / "free_running.png", config.keep_data)
    card.picture(
        "free_running",
        f"From the start of the test part of `{series.id}` the model goes on by itself for {steps} values, each median "
        f"fed back as if observed. Mean absolute error: {error:.4g}.",
    )
    return {"free_running_mae": error}

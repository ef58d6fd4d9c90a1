"""Trains a forecaster from series: network, loop, export, evaluation, pictures, card; from files to a model folder."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from carry.local import ForecastModel
from service.forecast.manifest import ForecastManifest
from training import plots
from training.card import ModelCard, figures_table, int8_text
from training.data.forking_batches import Bucket, EndsStream, ForkingStream, can_be_learnt
from training.data.series import LEAST_TO_TRAIN, WHOLE, DataError, Series, Split, split_series
from training.data.tbptt_batches import SeriesStream, Stretch
from training.evaluation.baselines import forecast_baselines, score_forecasts
from training.evaluation.windows import Window
from training.loop import LoopConfig, Stream, fit
from training.nets.cells import Cell
from training.nets.covariates import Covariates
from training.nets.global_forecaster import GlobalForecaster
from training.nets.networks import Forecaster
from training.nets.scaling import StandardScaler
from training.nets.series_scan import LAGS
from training.onnx.export import Described, build_graphs, judge_int8, save_reference, standardise, write_folder
from training.provenance import Run, is_first_process, provenance, share_of_this_process

HISTORY_LIMIT = 2048
WARM_UP = 512
VALIDATION_SERIES = 500
VALIDATION_STEPS = 256
LONGEST = 20_000
"""So that neither many nor long series make an epoch or its validation slow, and none outweighs the others."""


@dataclass(frozen=True)
class ForecastConfig:
    """What to train. `context`: time steps per training window; `scaling`: "causal" or "standard" (see scaling.py);
    `known_ahead`: features whose future is known; `categories`: of the features that are not numbers."""

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


def train(series: Sequence[Series], config: ForecastConfig, loop: LoopConfig, run: Run) -> Path | None:
    """Train on the series' training parts, choose the weights on their validation parts, measure on their test parts.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: no series has values that a forecast could be learnt from.
    """
    torch.manual_seed(loop.seed)
    held_out = split_series(series, config.horizon, config.valid, config.test)
    parts = held_out.train
    _check_learnable(parts, config)
    shared = share_of_this_process(parts)
    sizes = config.cell, config.hidden, config.layers, config.dropout, config.horizon, config.quantile_levels
    location, scale = standardise([part.values for part in parts])
    network: Forecaster | GlobalForecaster
    training: Stream
    validation: Stream | None = None
    if config.scaling == "standard":
        network = Forecaster(StandardScaler(location, scale), *sizes)
        training = _stream([Stretch(part.values) for part in shared], config, config.rows, config.mask_rate)
        if stretches := _validation(held_out.valid):
            validation = _stream(stretches, config, 64, 0.0)
    else:
        known = [config.features.index(name) - 1 for name in config.known_ahead]
        counts = tuple(len(config.categories.get(name, ())) for name in config.features[1:])
        network = GlobalForecaster(Covariates(location[1:], scale[1:], counts, tuple(known)), *sizes)
        bucket = Bucket(config.context, config.rows, max(4, config.context // 6), config.horizon)
        columns = [1 + i for i in known]
        training = ForkingStream(shared, _steps(shared, config), [bucket], columns, hidden=config.mask_rate)
        if ends := _ends(held_out.valid, config.horizon):
            validation = EndsStream(ends, config.horizon, columns)
    history = fit(network, training, validation, loop, run.folder, run.identity)
    if not is_first_process():
        return None
    graphs = build_graphs(network)

    def manifest(version: int, described: Described) -> ForecastManifest:
        return ForecastManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=described.graph,
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

    def fill(folder: Path, made: ForecastManifest, int8: Described) -> ForecastManifest:
        save_reference(network, folder)
        model, in_int8 = (ForecastModel.of_folder(folder, made, graph) for graph in (made.graph, int8.graph))
        card = ModelCard(history)
        plots.plot_losses(history, folder / "pictures" / "loss.png", "pinball loss, in units of the scale")
        card.picture("loss", "Training and validation loss by epoch.")
        metrics: dict[str, float] = {}
        losses = None
        windows = test_windows(held_out.test, config.horizon, config.windows)
        if windows:
            metrics = _measure(model, windows, config, card, folder)
            metrics |= _test_part(model, *held_out.test[0], config, card, folder)
            if "scaled_quantile_loss" in metrics:  # where no history ever changes, there is none
                losses = (_loss(model, windows), _loss(in_int8, windows))
        else:
            card.section("Test part", _not_measured(series, config))
        judged = judge_int8(folder, Described(made.graph, None), int8, losses)
        card.section("In int8", int8_text(judged, "scaled quantile loss"))
        made = made.model_copy(update={"metrics": metrics, "int8": judged})
        card.write(folder, made)
        return made

    return write_folder(run.models, run.name, graphs, manifest, fill)


def _stream(stretches: Sequence[Stretch], config: ForecastConfig, rows: int, mask_rate: float) -> SeriesStream:
    return SeriesStream(stretches, config.horizon, config.context, rows, 8 * config.context, mask_rate)


def _check_learnable(parts: Sequence[Series], config: ForecastConfig) -> None:
    if config.scaling == "standard":
        learnable = any(np.isfinite(part.values[1:, 0]).any() for part in parts)
    else:
        learnable = any(map(can_be_learnt, parts))
    if not learnable:
        longest = max(int(np.isfinite(part.values[:, 0]).sum()) for part in parts)
        raise DataError(
            f"nothing to learn from: of {len(parts)} series to train on, the longest has {longest} values; it takes "
            "one with two values or more, which are not all the same"
        )


def _not_measured(series: Sequence[Series], config: ForecastConfig) -> str:
    longest, horizon = max(len(one.values) for one in series), config.horizon
    return (
        f"Nothing was held out to measure the model on: --valid is {config.valid:g}, --test is {config.test:g}, and "
        f"the longest of {len(series)} series has {longest} values. For a horizon of {horizon}, a series of "
        f"{max(4 * horizon, LEAST_TO_TRAIN + 2 * horizon)} values or more can be cut; of {WHOLE} series or more of "
        f"{horizon + 2} values some are held out whole."
    )


def _steps(parts: Sequence[Series], config: ForecastConfig) -> int:
    """Batches an epoch: as many windows as the series hold twice over, of each at most `LONGEST` values."""
    windows = sum(max(1.0, 2 * min(LONGEST, len(part.values)) / config.context) for part in parts)
    return max(10, math.ceil(windows / config.rows))


def _ends(held_out: Sequence[tuple[Series, Split]], horizon: int) -> list[Series]:
    """Stretches that end with `horizon` values of the validation part: of few series more than one each."""
    chosen = _evenly(held_out)
    most = max(1, VALIDATION_SERIES // max(1, len(held_out)))
    ends = []
    for series, cut in (held_out[i] for i in chosen):
        stops = np.arange(cut.valid_end, cut.train_end, -horizon)[:most]
        ends += [replace(series, values=series.values[max(0, stop - WARM_UP) : stop]) for stop in stops]
    return [end for end in ends if np.isfinite(end.values[-horizon:, 0]).any()]


def test_windows(held_out: Sequence[tuple[Series, Split]], horizon: int, limit: int) -> list[Window]:
    """At most `limit` windows of the test parts, evenly spaced over all that there are: a history and what followed."""
    origins = [
        (series, origin)
        for series, cut in held_out
        for origin in range(cut.valid_end, len(series.values) - horizon + 1, horizon)
    ]
    chosen: Iterable[int] = (
        np.unique(np.linspace(0, len(origins) - 1, min(limit, len(origins))).astype(int)) if origins else []
    )
    windows = []
    for i in chosen:
        series, origin = origins[i]
        history = series.values[max(0, origin - HISTORY_LIMIT) : origin]
        future = series.values[origin : origin + horizon]
        if np.isfinite(future[:, 0]).any() and np.isfinite(history[:, 0]).sum() > 1:
            windows.append(Window(series.id, history, future[:, 0], series.season, future=future))
    return windows


def _loss(model: ForecastModel, windows: Sequence[Window]) -> float:
    levels = model.manifest.quantile_levels
    return score_forecasts(windows, _forecast(model, windows), levels)["scaled_quantile_loss"]


def _forecast(model: ForecastModel, windows: Sequence[Window]) -> NDArray[np.float64]:
    return model.forecast(windows, model.manifest.horizon, model.manifest.quantile_levels)


def _validation(held_out: Sequence[tuple[Series, Split]]) -> list[Stretch]:
    """Each series up to the end of its validation part, of which only that part counts."""
    stretches = []
    for series, cut in (held_out[i] for i in _evenly(held_out)):
        start, end = max(0, cut.train_end - WARM_UP), min(cut.valid_end, cut.train_end + VALIDATION_STEPS)
        if np.isfinite(series.values[cut.train_end : end, 0]).any():
            stretches.append(Stretch(series.values[start:end], cut.train_end - start - 1))
    return stretches


def _evenly(held_out: Sequence[tuple[Series, Split]]) -> list[int]:
    """At most `VALIDATION_SERIES` places, from all over."""
    count = min(VALIDATION_SERIES, len(held_out))
    return [int(place) for place in np.unique(np.linspace(0, max(0, len(held_out) - 1), count).astype(int))]


def _measure(
    model: ForecastModel, windows: Sequence[Window], config: ForecastConfig, card: ModelCard, folder: Path
) -> dict[str, float]:
    """Score the model and the baselines on the same windows, into the card; the model's own scores."""
    levels = config.quantile_levels
    forecasts = {"Carry": _forecast(model, windows)}
    forecasts |= forecast_baselines(
        windows, config.horizon, levels, ("naive", "ets", "theta") if config.baselines else ("naive",)
    )
    scores = {name: score_forecasts(windows, quantiles, levels) for name, quantiles in forecasts.items()}
    card.section(
        "Test part",
        f"{len(windows)} windows of the test part, each {config.horizon} values after its history, the same for every "
        "method; the baselines are statsforecast's, fitted to each history anew. The measures are defined in "
        "`docs/training.md`; lower is better, coverage should be its nominal share.\n\n"
        + figures_table(scores)
        + _against_naive(scores),
    )
    if config.horizon == 1:
        return scores["Carry"]  # a single step is seen better in the picture of the test part
    every = max(1, len(windows) // 6)
    panels = [
        plots.ForecastPanel(w.id, w.history[-4 * config.horizon :, 0], w.truth, forecasts["Carry"][i])
        for i, w in list(enumerate(windows))[::every][:6]
    ]
    plots.plot_forecasts(panels, levels, folder / "pictures" / "forecasts.png", config.keep_data)
    card.picture("forecasts", "Forecasts of test windows with their quantile fan over the truth.")
    return scores["Carry"]


def _against_naive(scores: Mapping[str, Mapping[str, float]]) -> str:
    """What the network gains over "the next is the newest", said in words."""
    ours, naive = scores["Carry"]["mae"], scores["Naive"]["mae"]
    if not naive:
        return ""
    gain = 100 * (1 - ours / naive)
    verdict = f"{gain:.1f} % smaller" if gain > 0 else f"{-gain:.1f} % larger: it gains nothing there"
    return f"\n\nAgainst the naive forecast (the next is the newest), the median's mean absolute error is {verdict}."


def _test_part(
    model: ForecastModel, series: Series, cut: Split, config: ForecastConfig, card: ModelCard, folder: Path
) -> dict[str, float]:
    """The first series' test part: one step ahead from all values before, and going on by itself from its start."""
    start, end = cut.valid_end, min(len(series.values), cut.valid_end + 1000)
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
    panel = plots.ForecastPanel(
        f"{series.id}, going on by itself", series.values[:start, 0], truth[:steps], path[:, None]
    )
    plots.plot_forecasts([panel], (0.5,), pictures / "free_running.png", config.keep_data)
    card.picture(
        "free_running",
        f"From the start of the test part of `{series.id}` the model goes on by itself for {steps} values, each median "
        f"fed back as if observed. Mean absolute error: {error:.4g}.",
    )
    return {"free_running_mae": error}

"""Trains one forecaster for series of every kind, on real and synthetic series, and writes its model folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from carry.files import DataError, ReadOptions, Series
from carry.models import ForecastModel
from carry.plots import ForecastPanel, plot_forecasts
from service.forecast.manifest import ForecastManifest
from service.forecast.seasons import CYCLES
from training import plots
from training.card import ModelCard, int8_text, markdown_table
from training.checkpoint import CHECKPOINT_FILE
from training.data.decontamination import drop_overlaps
from training.data.forking_batches import BUCKETS, ForkingStream, kind_of
from training.data.reading import read
from training.data.synthetic import sample_series
from training.evaluation.eval_windows import EvalWindow, is_benchmark, read_benchmark
from training.evaluation.evaluate import MetricRow, evaluate_forecaster, evaluation_rows
from training.evaluation.forecasts import forecast_windows
from training.loop import Epoch, LoopConfig, fit
from training.nets.cells import Cell
from training.nets.covariates import Covariates
from training.nets.global_forecaster import LONGEST_HINT, GlobalForecaster
from training.onnx.export import GraphSpec, build_graphs, evaluate_int8, save_reference, write_folder, write_manifest
from training.progress import say
from training.provenance import Run, is_first_process, provenance, share_of_this_process
from training.recipes.forecast import what_it_does

HORIZON = 48
QUANTILE_LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
WEEKS = CYCLES["W"][0]
"""Values per season of weekly series, for which the M4 competition told none."""


@dataclass(frozen=True)
class GlobalConfig:
    """What to train. steps: batches an epoch. batch: how many times as large they are as `BUCKETS` says. synthetic: the
    share of synthetic windows. widening: factors on the intervals after training, by the kind of season that the model
    is told (`kind_of`; 1: none)."""

    cell: Cell
    hidden: int
    layers: int
    steps: int
    synthetic: float
    widening: Mapping[int, float] = field(default_factory=dict)
    batch: int = 1


@dataclass(frozen=True)
class TrainingPool:
    """The series to train on, and how many were dropped since their values occur in a benchmark's test part."""

    series: list[Series]
    dropped: int


def read_pool(data: Sequence[Path], benchmarks: Sequence[Path]) -> TrainingPool:
    """The series of `data`, of benchmarks only their training parts, without those that overlap the test parts of
    `benchmarks` or of a benchmark among `data`.

    Raises:
        DataError: a file cannot be read.
    """
    series: list[Series] = []
    tests: list[EvalWindow] = []
    for path in dict.fromkeys([*data, *benchmarks]):
        windows = read_benchmark(path) if is_benchmark(path) else []
        if not windows and path in benchmarks:
            raise DataError(f"{path}: has no test part")
        tests += windows
        if path in data:
            of_file = [Series(w.id, w.history, None, season_of(w)) for w in windows] or read([path], ReadOptions())[0]
            series += [replace(each, source=path.name) for each in of_file]
    to_train, dropped = drop_overlaps(series, tests)
    return TrainingPool(to_train, len(dropped))


def season_of(window: EvalWindow) -> int:
    """Values per season that the forecaster is told; of weekly series the measures scale by another."""
    return WEEKS if window.group == "W" else window.season


def make_network(config: GlobalConfig) -> GlobalForecaster:
    """An untrained forecaster without covariates."""
    none = Covariates.none()
    return GlobalForecaster(none, config.cell, config.hidden, config.layers, 0.0, HORIZON, QUANTILE_LEVELS)


def train(
    data: Sequence[Path],
    benchmarks: Sequence[Path],
    config: GlobalConfig,
    loop: LoopConfig,
    run: Run,
    start_from: Path | None,
    baselines: bool,
) -> Path | None:
    """Train on the series of `data` and on synthetic ones, measure on the test parts of the benchmarks among the files.
    start_from: the folder of a finished run, from whose weights to start.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: a file cannot be read, or the folder holds no run, or one of another network.
    """
    torch.manual_seed(loop.seed)
    say(f"reading {', '.join(map(str, [*data, *benchmarks])) or 'no file: all series are made up'}")
    pool = read_pool(data, benchmarks)
    say(f"{len(pool.series):,} series to train on; {pool.dropped} left out, whose values occur in test parts")
    network = make_network(config)
    if start_from is not None:
        if start_from.resolve() == run.folder.resolve():
            raise DataError(f"{start_from} is this run's own folder; --run-dir names another")
        try:
            saved = torch.load(start_from / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
            network.load_state_dict(saved["best_weights"])
        except (OSError, KeyError, RuntimeError) as error:
            raise DataError(f"{start_from}: holds no run of such a network: {error}") from error
    buckets = [replace(bucket, rows=config.batch * bucket.rows) for bucket in BUCKETS]
    stream = ForkingStream(share_of_this_process(pool.series), config.steps, buckets, (), config.synthetic)
    history = fit(network, stream, None, loop, run.folder, run.identity)
    network.widening = torch.tensor([config.widening.get(kind_of(m), 1.0) for m in range(LONGEST_HINT + 1)])
    if not is_first_process():
        return None
    tests = [path for path in dict.fromkeys([*data, *benchmarks]) if is_benchmark(path)]
    return write(network, history, pool, tests, config, loop, run, ("theta", "ets") if baselines else ())


def write(
    network: GlobalForecaster,
    history: Sequence[Epoch],
    pool: TrainingPool,
    tests: Sequence[Path],
    config: GlobalConfig,
    loop: LoopConfig,
    run: Run,
    baselines: Sequence[str],
) -> Path:
    """Write the model folder, measured on the test parts of `tests`, each once, beside the baselines."""

    def manifest(version: int, graphs: GraphSpec) -> ForecastManifest:
        return ForecastManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=graphs.graph,
            metrics={},
            provenance=provenance(run, network, history, loop.seed, config.cell, config.layers, config.hidden),
            features=("value",),
            longest_season=LONGEST_HINT,
            horizon=HORIZON,
            quantile_levels=QUANTILE_LEVELS,
            context=max(bucket.steps for bucket in BUCKETS),
        )

    def finalize(folder: Path, unmeasured: ForecastManifest, int8: GraphSpec) -> ForecastManifest:
        save_reference(network, folder)
        card = ModelCard(history)
        plots.plot_losses(history, folder / "pictures" / "loss.png", "pinball loss, in units of a seasonal difference")
        card.losses()
        card.section(
            "What it learnt from",
            f"{len(pool.series):,} real series and, of the windows, {100 * config.synthetic:.0f} % made up by "
            f"`training/data/synthetic.py`. {pool.dropped} further series were left out before training, as values of "
            f"theirs occur in the test part of a benchmark (`training/data/decontamination.py`): "
            f"{', '.join(path.name for path in tests)}.",
        )
        _picture(ForecastModel.of_folder(folder, unmeasured, unmeasured.graph), folder, loop.seed)
        card.picture("forecasts", "Forecasts of made-up series, with their quantile fan over what followed.")
        float32 = GraphSpec(unmeasured.graph, None)
        int8_entry = evaluate_int8(folder, float32, int8, None)
        metrics: dict[str, float] = {}
        if tests:
            write_manifest(folder, unmeasured.model_copy(update={"int8": int8_entry}))
            rows = evaluate_forecaster([folder], tests, baselines=baselines)
            names = unmeasured.name, f"{unmeasured.name}, int8"
            for row in rows:
                if row.method == unmeasured.name:
                    metrics |= {f"{row.file}_{row.group}_{name}": row.scores[name] for name in ("smape", "mase")}
            losses = [_mean_loss(rows, name) for name in names]
            int8_entry = evaluate_int8(folder, float32, int8, (losses[0], losses[1]))
            card.section("Benchmarks", BENCHMARKS + markdown_table(evaluation_rows(rows)))
        card.section("In int8", int8_text(int8_entry, "scaled quantile loss, mean over the benchmarks"))
        complete = unmeasured.model_copy(update={"metrics": metrics, "int8": int8_entry})
        card.write(folder, complete, what_it_does(complete))
        return complete

    say("exporting to ONNX, and comparing it with PyTorch")
    return write_folder(run.models, run.name, build_graphs(network), manifest, finalize)


def _mean_loss(rows: Sequence[MetricRow], method: str) -> float:
    """A method's scaled quantile loss, mean over the benchmarks."""
    whole = [row for row in rows if row.method == method and "seconds" in row.scores]
    return float(np.mean([row.scores["scaled_quantile_loss"] for row in whole]))


def _picture(model: ForecastModel, folder: Path, seed: int) -> None:
    """Draw forecasts of six synthetic series of different seasons, which are none of those trained on."""
    sampled = sample_series(np.random.default_rng([seed, 1_000_000]), 200, 4 * HORIZON)
    windows = [
        EvalWindow(
            f"{m} values a season" if m > 1 else "no season told",
            series.values[:-HORIZON, None],
            series.values[-HORIZON:],
            m,
            str(m),
        )
        for m, series in sorted({series.season: series for series in sampled}.items())[:6]
    ]
    forecasts = forecast_windows(model, windows, HORIZON, QUANTILE_LEVELS)
    model.close()
    panels = [
        ForecastPanel(window.id, window.history[:, 0], window.truth, quantiles)
        for window, quantiles in zip(windows, forecasts, strict=True)
    ]
    plot_forecasts(panels, QUANTILE_LEVELS, folder / "pictures" / "forecasts.png", keep_truth=True)


BENCHMARKS = """Test parts as published, each series forecast once from the end of its training part; the baselines are
statsforecast's, fitted to each series. The measures are defined in `docs/evaluation.md`.

"""

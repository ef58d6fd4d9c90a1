"""Trains one forecaster for series of every kind, on real series and on made-up ones; from files to a model folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from carry.local import ForecastModel
from service.forecast.manifest import ForecastManifest
from training import plots
from training.card import ModelCard, figures_table, int8_text
from training.checkpoint import CHECKPOINT_FILE
from training.data.decontamination import drop_overlaps
from training.data.forking_batches import BUCKETS, ForkingStream, kind_of
from training.data.series import DataError, Series, read_series
from training.data.synthetic import bank
from training.evaluation.evaluate import evaluate_forecaster, evaluation_rows
from training.evaluation.windows import Window, is_benchmark, read_benchmark
from training.loop import Epoch, LoopConfig, fit
from training.nets.cells import Cell
from training.nets.covariates import Covariates
from training.nets.global_forecaster import LONGEST_HINT, GlobalForecaster
from training.onnx.export import Described, build_graphs, judge_int8, save_reference, write_folder, write_manifest
from training.provenance import Run, is_first_process, provenance, share_of_this_process

HORIZON = 48
QUANTILE_LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
WEEKS = 52
"""Values per season of weekly series, for which the M4 competition told none."""


@dataclass(frozen=True)
class GlobalConfig:
    """What to train. `steps`: batches an epoch; `batch`: how many times as large they are as `BUCKETS` says;
    `synthetic`: the share of windows that is made up; `widening`: of the intervals, after training, by the kind of
    season that is told (`kind_of`; 1: none)."""

    cell: Cell
    hidden: int
    layers: int
    steps: int
    synthetic: float
    widening: Mapping[int, float] = field(default_factory=dict)
    batch: int = 1


@dataclass(frozen=True)
class Pool:
    """The series to train on, and how many were left out as their values occur in a benchmark's test part."""

    series: list[Series]
    dropped: int


def read_pool(data: Sequence[Path], benchmarks: Sequence[Path]) -> Pool:
    """The series of `data`, of benchmarks only their training parts, without those that overlap the test parts of
    `benchmarks` or of a benchmark among `data`.

    Raises:
        DataError: a file cannot be read.
    """
    series: list[Series] = []
    tests: list[Window] = []
    for path in dict.fromkeys([*data, *benchmarks]):
        windows = read_benchmark(path) if is_benchmark(path) else []
        if not windows and path in benchmarks:
            raise DataError(f"{path}: has no test part")
        tests += windows
        if path in data:
            found = [Series(w.id, w.history, None, season_of(w)) for w in windows] or read_series([path])[0]
            series += [replace(one, source=path.name) for one in found]
    kept, dropped = drop_overlaps(series, tests)
    return Pool(kept, len(dropped))


def season_of(window: Window) -> int:
    """Values per season as the forecaster is told, which of weekly series is not what the measures scale by."""
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
    """Train on the series of `data` and on made-up ones, measure on the test parts of the benchmarks among the files;
    `start_from` is the folder of a finished run whose weights are gone on from.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: a file cannot be read, or the folder holds no run, or one of another network.
    """
    torch.manual_seed(loop.seed)
    pool = read_pool(data, benchmarks)
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
    measured = [path for path in dict.fromkeys([*data, *benchmarks]) if is_benchmark(path)]
    return write(network, history, pool, measured, config, loop, run, ("theta", "ets") if baselines else ())


def write(
    network: GlobalForecaster,
    history: Sequence[Epoch],
    pool: Pool,
    tests: Sequence[Path],
    config: GlobalConfig,
    loop: LoopConfig,
    run: Run,
    baselines: Sequence[str],
) -> Path:
    """Write the model folder, measured on the test parts of `tests`, each once, beside the baselines."""

    def manifest(version: int, described: Described) -> ForecastManifest:
        return ForecastManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=described.graph,
            metrics={},
            provenance=provenance(run, network, history, loop.seed, config.cell, config.layers, config.hidden),
            features=("value",),
            longest_season=LONGEST_HINT,
            horizon=HORIZON,
            quantile_levels=QUANTILE_LEVELS,
            context=max(bucket.steps for bucket in BUCKETS),
        )

    def fill(folder: Path, made: ForecastManifest, int8: Described) -> ForecastManifest:
        save_reference(network, folder)
        card = ModelCard(history)
        plots.plot_losses(history, folder / "pictures" / "loss.png", "pinball loss, in units of a seasonal difference")
        card.picture("loss", "Training loss by epoch.")
        card.section(
            "What it learnt from",
            f"{len(pool.series):,} real series and, of the windows, {100 * config.synthetic:.0f} % made up by "
            f"`training/data/synthetic.py`. {pool.dropped} further series were left out before training, as values of "
            f"theirs occur in the test part of a benchmark (`training/data/decontamination.py`): "
            f"{', '.join(path.name for path in tests)}.",
        )
        _picture(ForecastModel.of_folder(folder, made, made.graph), folder, loop.seed)
        card.picture("forecasts", "Forecasts of made-up series, with their quantile fan over what followed.")
        judged = judge_int8(folder, Described(made.graph, None), int8, None)
        metrics: dict[str, float] = {}
        if tests:
            write_manifest(folder, made.model_copy(update={"int8": judged}))
            figures = evaluate_forecaster(folder, tests, baselines=baselines)
            names = made.name, f"{made.name}, int8"
            for one in figures:
                if one.method == made.name:
                    metrics |= {f"{one.file}_{one.group}_{name}": one.scores[name] for name in ("smape", "mase")}
            whole = [[one for one in figures if one.method == name and "seconds" in one.scores] for name in names]
            lost = tuple(float(np.mean([one.scores["scaled_quantile_loss"] for one in ones])) for ones in whole)
            judged = judge_int8(folder, Described(made.graph, None), int8, (lost[0], lost[1]))
            card.section("Benchmarks", BENCHMARKS + figures_table(evaluation_rows(figures)))
        card.section("In int8", int8_text(judged, "scaled quantile loss, mean over the benchmarks"))
        made = made.model_copy(update={"metrics": metrics, "int8": judged})
        card.write(folder, made)
        return made

    return write_folder(run.models, run.name, build_graphs(network), manifest, fill)


def _picture(model: ForecastModel, folder: Path, seed: int) -> None:
    """Six series of different seasons, made up after those of the training."""
    made = bank(np.random.default_rng([seed, 1_000_000]), 200, 4 * HORIZON)
    windows = [
        Window(
            f"{m} values a season" if m > 1 else "no season told",
            one.values[:-HORIZON, None],
            one.values[-HORIZON:],
            m,
            str(m),
        )
        for m, one in sorted({one.season: one for one in made}.items())[:6]
    ]
    quantiles = model.forecast(windows, HORIZON, QUANTILE_LEVELS)
    model.close()
    panels = [
        plots.ForecastPanel(w.id, w.history[:, 0], w.truth, found) for w, found in zip(windows, quantiles, strict=True)
    ]
    plots.plot_forecasts(panels, QUANTILE_LEVELS, folder / "pictures" / "forecasts.png", keep_truth=True)


BENCHMARKS = """Test parts as published, each series forecast once from the end of its training part; the baselines are
statsforecast's, fitted to each series. The measures are defined in `docs/evaluation.md`.

"""

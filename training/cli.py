"""The verbs `carry train`, `carry evaluate` and `carry forecast`. Importable without PyTorch or pandas: what a command
needs is imported when it runs.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from service.manifest import NAME_PATTERN

if TYPE_CHECKING:
    from service.manifest import DataSource
    from training.loop import LoopConfig
    from training.nets.cells import Cell as CellName
    from training.provenance import Run

train = typer.Typer(help="Train a model and write it as a model folder that `carry serve` loads.", no_args_is_help=True)

SERIES = "CSV, Parquet or JSON lines (gzipped or not): one column per series, or unique_id, ds, y and feature columns."
Data = Annotated[list[Path], typer.Argument(help=SERIES, show_default=False)]
Texts = Annotated[
    list[Path],
    typer.Argument(help="UTF-8 text files, or .jsonl with a field `text`, gzipped or not.", show_default=False),
]
Name = Annotated[str, typer.Option(help="Name of the model; a new version of it is written.", show_default=False)]
Description = Annotated[str, typer.Option(help="A sentence for the card and for GET /models.")]
Cell = Annotated[str, typer.Option(help="elman, jordan, lstm or gru.")]
Layers = Annotated[int, typer.Option(min=1, help="Recurrent layers.")]
Hidden = Annotated[int, typer.Option(min=1, help="Units per layer.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.95, help="Between layers; for text also after the last.")]
Epochs = Annotated[int, typer.Option(min=1, help="Most passes over the training part.")]
LearningRate = Annotated[float, typer.Option(min=0, help="At its highest, after the warm-up.")]
WeightDecay = Annotated[float, typer.Option(min=0, help="AdamW's weight decay.")]
Patience = Annotated[
    int, typer.Option(min=0, help="Stop after so many epochs without a better validation loss; 0: never.")
]
Rows = Annotated[int, typer.Option(min=1, help="Sequences read side by side (batch size).")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
ModelsDir = Annotated[Path, typer.Option(help="Where model folders are.")]
RunDir = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint and log; the same command on the same data resumes a run there.", show_default="runs/NAME"
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget a run (its checkpoint and log) and train anew.")]
Valid = Annotated[float, typer.Option(min=0, max=0.5, help="Share held out to choose the weights.")]
Test = Annotated[float, typer.Option(min=0, max=0.5, help="Share at the end held out to measure.")]
Freq = Annotated[
    str | None, typer.Option(help="How often there is a value, as pandas says it: MS, D, h.", show_default="found")
]
Baselines = Annotated[bool, typer.Option(help="Measure fitted baselines on the same test part.")]


@train.command("forecast")
def train_forecast(
    data: Data,
    name: Name,
    given: typer.Context,
    target: Annotated[str | None, typer.Option(help="Column to forecast. Without it each column is a series.")] = None,
    freq: Freq = None,
    features: Annotated[str, typer.Option(help="Further columns to read, separated by commas.")] = "",
    horizon: Annotated[int, typer.Option(min=1, help="Values forecast at once.")] = 12,
    context: Annotated[int, typer.Option(min=2, help="Time steps per training window, e.g. 60.")] = 60,
    quantiles: Annotated[str, typer.Option(help="Levels in (0, 1), separated by commas; 0.5 among them.")] = (
        "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"
    ),
    cell: Cell = "lstm",
    layers: Layers = 1,
    hidden: Hidden = 64,
    dropout: Dropout = 0.0,
    scaling: Annotated[
        str,
        typer.Option(help="causal: each series by its own running scale. standard: constants of the training part."),
    ] = "causal",
    known_ahead: Annotated[str, typer.Option(help="Of the features, those whose future values are known.")] = "",
    categorical: Annotated[str, typer.Option(help="Of the features, those that are categories, not numbers.")] = "",
    mask_rate: Annotated[float, typer.Option(min=0, max=0.9, help="Share of values hidden while training.")] = 0.02,
    epochs: Epochs = 30,
    learning_rate: LearningRate = 2e-3,
    weight_decay: WeightDecay = 0.0,
    patience: Patience = 6,
    rows: Rows = 32,
    valid: Valid = 0.1,
    test: Test = 0.1,
    windows: Annotated[int, typer.Option(min=1, help="Most windows of the test part to measure.")] = 200,
    baselines: Baselines = True,
    private: Annotated[
        bool, typer.Option("--private", help="Leave the data's own values out of the files beside the pictures.")
    ] = False,
    seed: Seed = 1,
    precision: Precision = "auto",
    description: Description = "",
    models_dir: ModelsDir = Path("models"),
    run_dir: RunDir = None,
    restart: Restart = False,
) -> None:
    """Train a probabilistic forecaster from series.

    Example: carry train forecast sales.csv --name sales --horizon 28
    """
    names, ahead, kinds = _names(features), _names(known_ahead), _names(categorical)
    if names and target is None:
        raise typer.BadParameter("needs --target, the column to forecast", param_hint="--features")
    _one_of("--scaling", scaling, ("causal", "standard"))
    for option, some in (("--known-ahead", ahead), ("--categorical", kinds)):
        for feature in some:
            _one_of(option, feature, names)
        if some and scaling == "standard":
            raise typer.BadParameter("needs --scaling causal", param_hint=option)
    levels = _levels(quantiles)

    from training.data.series import find_categories, read_series
    from training.recipes import forecast as module

    run = _run(given, {"DATA": data})

    def work() -> Path | None:
        categories = find_categories(data, kinds)
        series, columns = read_series(data, target, names, categories, freq)
        config = module.ForecastConfig(
            cell=_cell(cell),
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            horizon=horizon,
            context=context,
            quantile_levels=levels,
            scaling=scaling,
            rows=rows,
            valid=valid,
            test=test,
            mask_rate=mask_rate,
            windows=windows,
            baselines=baselines,
            keep_data=not private,
            features=columns,
            known_ahead=ahead,
            categories=categories,
        )
        loop = _loop(epochs, learning_rate, patience, weight_decay, seed, precision)
        return module.train(series, config, loop, run)

    _train(run, restart, work, "DATA")


@train.command("global")
def train_global(
    name: Name,
    given: typer.Context,
    data: Annotated[list[Path] | None, typer.Argument(help=SERIES, show_default=False)] = None,
    benchmarks: Annotated[
        str, typer.Option(help="Files with test parts, separated by commas: series that overlap those are left out.")
    ] = "",
    synthetic: Annotated[float, typer.Option(min=0, max=1, help="Share of the windows that is made up.")] = 0.4,
    cell: Cell = "lstm",
    layers: Layers = 2,
    hidden: Hidden = 128,
    steps: Annotated[int, typer.Option(min=1, help="Batches an epoch.")] = 400,
    epochs: Epochs = 30,
    learning_rate: LearningRate = 2e-3,
    weight_decay: WeightDecay = 0.01,
    batch: Annotated[int, typer.Option(min=1, help="Times as many windows in a batch, for a GPU.")] = 1,
    widening: Annotated[
        str,
        typer.Option(
            help="After training, factors on the quantiles' distances, by the season that is told (1: none, 4, 7, 12, "
            "24: of hours and parts of hours, 52): 1:1.1,12:1.05."
        ),
    ] = "",
    start_from: Annotated[
        Path | None, typer.Option(help="Folder of a finished run, whose weights to go on from.", show_default=False)
    ] = None,
    baselines: Baselines = True,
    seed: Seed = 1,
    precision: Precision = "auto",
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = "auto",
    description: Description = "",
    models_dir: ModelsDir = Path("models"),
    run_dir: RunDir = None,
    restart: Restart = False,
) -> None:
    """Train one forecaster for series of every kind, by any season, on real series and made-up ones.

    Without files, on made-up ones only. Example: carry train global --name anything
    """
    from training.checkpoint import CHECKPOINT_FILE
    from training.recipes import global_forecast as module

    tests = [Path(part) for part in _names(benchmarks)]
    weights = [start_from / CHECKPOINT_FILE] if start_from else []
    run = _run(given, {"DATA": data or [], "--benchmarks": tests}, {"--start-from": weights})

    def work() -> Path | None:
        config = module.GlobalConfig(
            cell=_cell(cell),
            hidden=hidden,
            layers=layers,
            steps=steps,
            synthetic=synthetic if data else 1.0,
            widening=_widening(widening),
            batch=batch,
        )
        loop = _loop(epochs, learning_rate, epochs, weight_decay, seed, precision, average=0.998, device=device)
        return module.train(data or [], tests, config, loop, run, start_from, baselines)

    _train(run, restart, work, "DATA")


@train.command("text")
def train_text(
    texts: Texts,
    name: Name,
    given: typer.Context,
    context: Annotated[int, typer.Option(min=2, help="Characters (or words) per training window.")] = 128,
    start_from: Annotated[
        Path | None,
        typer.Option(help="A model folder, e.g. models/text/1, whose network and vocabulary to go on from."),
    ] = None,
    cell: Cell = "lstm",
    layers: Layers = 1,
    hidden: Hidden = 256,
    embedding: Annotated[int, typer.Option(min=1, help="Numbers that a character (or word) is read as.")] = 64,
    dropout: Dropout = 0.2,
    weight_dropout: Annotated[
        float,
        typer.Option(min=0, max=0.95, help="Of the recurrent weights (not for jordan): against learning by heart."),
    ] = 0.0,
    lines: Annotated[
        bool, typer.Option("--lines", help="Each line of a plain text is a document: input = output, a review, a name.")
    ] = False,
    unit: Annotated[str, typer.Option(help="What a token is: character, or word (or a mark).")] = "character",
    min_count: Annotated[
        int | None,
        typer.Option(min=1, help="What is rarer than this counts as unknown.", show_default="1, for words 2"),
    ] = None,
    max_vocabulary: Annotated[
        int | None,
        typer.Option(min=1, help="Most characters or words known, the most frequent.", show_default="for words 10000"),
    ] = None,
    epochs: Epochs = 20,
    learning_rate: LearningRate = 3e-3,
    weight_decay: WeightDecay = 0.0,
    patience: Patience = 4,
    rows: Rows = 32,
    residual: Annotated[bool, typer.Option(help="Every layer but the first adds to what it reads.")] = False,
    ngrams: Annotated[
        int, typer.Option(min=0, max=12, help="Also look up learnt features of the last 2 to NGRAMS tokens; 0: do not.")
    ] = 0,
    muon: Annotated[
        bool, typer.Option(help="Move the matrices of the layers by Muon: faster learnt on megabytes of text.")
    ] = False,
    average: Annotated[
        float,
        typer.Option(min=0, max=0.99999, help="Keep a moving average of the weights over 1 / (1 - AVERAGE) steps."),
    ] = 0.0,
    schedule: Annotated[
        str, typer.Option(help="Of the rate: cosine, or wsd: it stays, and falls in the last 30 % of the run.")
    ] = "cosine",
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = "auto",
    valid: Valid = 0.05,
    test: Test = 0.1,
    valid_on: Annotated[
        list[Path] | None,
        typer.Option(help="File to choose the weights on, instead of a share of TEXTS. May be repeated."),
    ] = None,
    test_on: Annotated[
        list[Path] | None,
        typer.Option(help="File to measure on, instead of a share of TEXTS. May be repeated."),
    ] = None,
    baselines: Baselines = True,
    seed: Seed = 1,
    precision: Precision = "auto",
    description: Description = "",
    models_dir: ModelsDir = Path("models"),
    run_dir: RunDir = None,
    restart: Restart = False,
) -> None:
    """Train a text model from texts.

    Example: carry train text letters.txt --name letters
    """
    _one_of("--unit", unit, ("character", "word"))
    if start_from is not None:
        for option in (
            "cell",
            "layers",
            "hidden",
            "embedding",
            "residual",
            "ngrams",
            "unit",
            "min-count",
            "max-vocabulary",
        ):
            source = given.get_parameter_source(option.replace("-", "_"))
            if source is not None and source.name != "DEFAULT":
                raise typer.BadParameter("is that of the model that --start-from names", param_hint=f"--{option}")
    words = unit == "word"
    from service.manifest import MANIFEST_FILE
    from training.data.texts import read_parts
    from training.recipes import text as module

    weights = [start_from / MANIFEST_FILE] if start_from else []  # it holds the sha256 of the files beside it
    files = {"TEXTS": texts, "--valid-on": valid_on or [], "--test-on": test_on or []}
    run = _run(given, files, {"--start-from": weights})

    def work() -> Path | None:
        config = module.TextConfig(
            cell=_cell(cell),
            embedding=embedding,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            weight_dropout=weight_dropout,
            context=context,
            rows=rows,
            residual=residual,
            ngrams=ngrams,
            unit=unit,  # type: ignore[arg-type]  # mypy does not narrow str to Literal
            min_count=min_count or (2 if words else 1),
            max_vocabulary=max_vocabulary or (10_000 if words else None),
            baselines=baselines,
            start_from=start_from,
        )
        loop = _loop(epochs, learning_rate, patience, weight_decay, seed, precision, average, muon, schedule, device)
        parts = read_parts(texts, valid_on or [], test_on or [], valid, test, lines)
        return module.train(parts, config, loop, run)

    _train(run, restart, work, "TEXTS")


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder, e.g. models/forecast/2.", show_default=False)],
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Series or texts that the model did not train on; of a benchmark (JSON lines with `train` and `test`, "
            "M4's *-train.csv beside *-test.csv) its own split.",
            show_default=False,
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Column to forecast, as for `carry train forecast`.")] = None,
    freq: Freq = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1, help="Values in a window of a series without a split.", show_default="by season, at most the model's"
        ),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows at the end of each series without a split.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Most series of a file, the same ones each time.")] = None,
    hints: Annotated[
        str,
        typer.Option(
            help="What the model is told of the season, of: usual (24 and 168 of hourly values), season (24), none. "
            "Separated by commas, a row for each."
        ),
    ] = "usual",
    baselines: Annotated[
        str, typer.Option(help="Beside the seasonal naive forecast, of: ets, theta, arima. Separated by commas.")
    ] = "ets,theta",
    url: Annotated[str | None, typer.Option(help="Let the service there forecast, e.g. http://127.0.0.1:8000.")] = None,
    last: Annotated[
        float | None,
        typer.Option(min=0.001, max=1, help="Of texts: read only the last share of each document, such as 0.1."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a model on data it never saw, beside baselines on the same data.

    A forecaster forecasts the last values of each series from all before; a text model reads each document from its
    start. Example: carry evaluate models/forecast/2 sales.csv
    """
    from carry.local import Hint
    from training.card import figures_table
    from training.data.series import DataError
    from training.evaluation.baselines import METHODS
    from training.evaluation.evaluate import across_files, evaluate_forecaster, evaluate_text, evaluation_rows

    try:
        kind = json.loads((model / "manifest.json").read_text())["kind"]
    except (OSError, ValueError, KeyError):
        raise typer.BadParameter(f"{model} is no model folder", param_hint="MODEL") from None
    foreign: dict[str, object] = {"--last": last}
    if kind == "text":
        foreign = {"--target": target, "--freq": freq, "--limit": limit, "--url": url, "--horizon": horizon}
        foreign["--hints"] = None if hints == "usual" else hints
    for option, value in foreign.items():
        if value is not None:
            raise typer.BadParameter(f"not of a {kind} model", param_hint=option)
    chosen = [part for part in _names(baselines) if part != "none"]
    for method in chosen:
        _one_of("--baselines", method, (*METHODS, "none"))
    hinted = tuple(dict.fromkeys(_names(hints)))
    for hint in hinted or ("",):
        _one_of("--hints", hint, get_args(Hint))
    try:
        if kind != "forecast":
            scores = evaluate_text(model, data, last)
            typer.echo(json.dumps(scores, indent=1) if as_json else figures_table(scores, digits=5))
            return
        figures = evaluate_forecaster(
            model,
            data,
            target,
            windows,
            limit,
            chosen,
            url,
            freq,
            horizon,
            hinted,  # type: ignore[arg-type]  # mypy does not narrow str to Literal
        )
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="DATA") from error
    figures += across_files(figures)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in figures], indent=1))
    else:
        typer.echo(figures_table(evaluation_rows(figures)))


def forecast(
    file: Annotated[
        Path,
        typer.Argument(help=f"{SERIES} - reads a CSV from standard input.", show_default=False),
    ],
    model: Annotated[str | None, typer.Option(help="name or name@version; the default model if absent.")] = None,
    horizon: Annotated[int, typer.Option(min=1, help="How many values.")] = 12,
    levels: Annotated[
        str | None,
        typer.Option(help="Central intervals in percent, separated by commas.", show_default="80,95, if the model can"),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to forecast. Without it each column is a series.")] = None,
    freq: Freq = None,
    season_length: Annotated[
        str | None, typer.Option(help="Values per season, or per season and longer season: 24,168. 1 = none.")
    ] = None,
    non_negative: Annotated[bool, typer.Option("--non-negative", help="Nothing below 0 is possible.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write, .csv or .parquet, instead of printing.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the first series with their fans: fan.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object for each value.")] = False,
) -> None:
    """Forecast what follows each series of a file, without a server. An empty cell is a missing value.

    Example: carry forecast examples/co2.csv --horizon 24 --picture fan.png
    """
    from carry import files as module
    from carry.local import find_forecaster
    from service.errors import CarryError
    from service.settings import Settings
    from training.data.series import DataError

    wish = module.Wish(
        horizon,
        None if levels is None else _percentages(levels),
        target,
        freq,
        None if season_length is None else _season_length(season_length),
        non_negative,
    )
    try:
        settings = Settings()
        manifest = find_forecaster(settings, model)
        with module.standard_input(file) as path:
            found = module.forecast_file(path, manifest, settings, wish)
        table = module.forecast_table(found)
        if out is not None:
            module.write_table(table, out)
        if picture is not None:
            module.picture(found, picture)
    except DataError as error:
        raise CarryError(str(error)) from error
    if as_json:
        typer.echo(module.as_json(table))
    elif out is None:
        typer.echo(module.preview(table))
    failed = [(one.id, why) for one, why in zip(found.series, found.quantiles, strict=True) if isinstance(why, str)]
    if failed:
        told = [f"carry: {id}: {why}" for id, why in failed[:10]]
        more = [f"carry: ... and {len(failed) - 10} more series"] if len(failed) > 10 else []
        typer.echo("\n".join(told + more), err=True)
        raise typer.Exit(1)


def _percentages(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in _names(text))
    except ValueError:
        levels = ()
    if not levels or not all(0 < level < 100 for level in levels):
        raise typer.BadParameter("percentages between 0 and 100, separated by commas", param_hint="--levels")
    return levels


def _season_length(text: str) -> tuple[int, ...]:
    try:
        season = tuple(int(part) for part in _names(text))
    except ValueError:
        season = ()
    if not 0 < len(season) < 3 or min(season) < 1 or list(season) != sorted(set(season)):
        raise typer.BadParameter("one whole number from 1, or two that ascend", param_hint="--season-length")
    return season


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _one_of(option: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(accepted)}", param_hint=option)


def _cell(name: str) -> "CellName":
    from training.nets.cells import CELLS

    _one_of("--cell", name, CELLS)
    return name  # type: ignore[return-value]  # mypy does not narrow str to Literal


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        levels = ()
    if 0.5 not in levels or not 0 < levels[0] <= levels[-1] < 1:
        raise typer.BadParameter("numbers in (0, 1) separated by commas, 0.5 among them", param_hint="--quantiles")
    return levels


def _widening(text: str) -> dict[int, float]:
    from training.data.forking_batches import KINDS

    try:
        found = {int(kind): float(factor) for kind, factor in (part.split(":") for part in _names(text))}
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not like 1:1.1,12:1.05", param_hint="--widening") from error
    if not found.keys() <= KINDS.keys():
        raise typer.BadParameter(f"the kinds of seasons are {sorted(KINDS)}", param_hint="--widening")
    if not all(0.3 <= factor <= 3 for factor in found.values()):
        raise typer.BadParameter("a factor is from 0.3 to 3", param_hint="--widening")
    return found


def _loop(
    epochs: int,
    learning_rate: float,
    patience: int,
    weight_decay: float,
    seed: int,
    precision: str,
    average: float = 0.0,
    muon: bool = False,
    schedule: str = "cosine",
    device: str = "auto",
) -> "LoopConfig":
    from training.loop import LoopConfig

    _one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    _one_of("--schedule", schedule, ("cosine", "wsd"))
    _one_of("--device", device, ("auto", "cpu", "cuda"))
    return LoopConfig(
        epochs=epochs,
        learning_rate=learning_rate,
        patience=patience,
        weight_decay=weight_decay,
        seed=seed,
        precision=precision,  # type: ignore[arg-type]  # mypy does not narrow str to Literal
        average=average,
        muon=muon,
        schedule=schedule,  # type: ignore[arg-type]  # as above
        device=device,  # type: ignore[arg-type]  # as above
    )


PLACES = ("name", "models_dir", "run_dir", "restart", "device")
"""Parameters that say where things go: nothing in a model follows from them."""
MEASURES = ("description", "baselines", "windows", "private", "widening")
"""Parameters that only the card, the measures and the export follow from, not the weights."""


def _run(
    given: typer.Context, data: Mapping[str, Sequence[Path]], weights: Mapping[str, Sequence[Path]] | None = None
) -> "Run":
    """What the run is called, where it goes, and what it follows from: all parameters of the command (of files, by the
    option that names them, what they hold). Its command is noted without the folders of this machine."""
    from training.checkpoint import describe_files, library_versions
    from training.provenance import Run

    name: str = given.params["name"]
    if not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter("lower-case letters, digits, _ and -, at most 64", param_hint="--name")
    sources = {option: [_source(option, path) for path in paths] for option, paths in data.items()}
    # What is missing or no model is told by what reads the weights.
    begun_from = {
        option: [_source(option, path) for path in paths if path.is_file()] for option, paths in (weights or {}).items()
    }
    files = {option: describe_files(some) for option, some in (sources | begun_from).items() if some}
    options = {
        f"--{key.replace('_', '-')}": str(value)
        for key, value in given.params.items()
        if key not in PLACES and value is not None
    }
    measures = {key: value for key, value in options.items() if key[2:].replace("-", "_") in MEASURES}
    paths = {"--data", "--texts", "--benchmarks", "--valid-on", "--test-on", "--start-from", *measures}
    identity = {key: value for key, value in options.items() if key not in paths}
    identity |= files | library_versions() | {"processes": os.environ.get("WORLD_SIZE", "1")}
    names = {str(path): path.name for paths in data.values() for path in paths}
    arguments = (",".join(names.get(part, part) for part in argument.split(",")) for argument in sys.argv[1:])
    command = shlex.join(["carry", *arguments])
    return Run(
        name,
        given.params["description"],
        given.params["models_dir"],
        given.params["run_dir"] or Path("runs") / name,
        tuple({source: None for some in sources.values() for source in some}),
        command,
        identity,
        measures,
    )


def _source(option: str, path: Path) -> "DataSource":
    from service.manifest import DataSource, sha256_of

    try:
        return DataSource(file=path.name, sha256=sha256_of(path))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        message = "no such file" if missing else f"cannot be read: {error.strerror}"
        raise typer.BadParameter(f"{path}: {message}", param_hint=option) from error


def _train(run: "Run", restart: bool, work: Callable[[], Path | None], data: str) -> None:
    """Train and write the model, unless the same command has done so on the same data; tell what is done and why."""
    from service.errors import CarryError
    from service.forecast.manifest import ForecastManifest
    from service.manifest import read_manifest
    from service.text.manifest import TextManifest
    from training.checkpoint import RunError, Written, forget, note_written
    from training.data.series import DataError
    from training.provenance import is_first_process

    try:
        if restart and is_first_process():
            forget(run.folder)
        if not restart and _is_done(run):
            return
        folder = work()
        if folder is not None:
            note_written(run.folder, Written(str(folder), dict(run.options)))
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint=data) from error
    except RunError as error:
        raise CarryError(str(error)) from error
    except KeyboardInterrupt:
        _tell(f"stopped; the same command goes on from the last whole epoch in {run.folder}")
        raise typer.Exit(130) from None
    if folder is not None:
        if not read_manifest(folder, ForecastManifest, TextManifest).metrics:
            _tell("not measured: nothing was held out; the card says why")
        typer.echo(f"wrote {folder}; `carry serve` loads it")


def _is_done(run: "Run") -> bool:
    """Whether the run's folder holds this very run and the model that it became; tells what is there."""
    from training.checkpoint import differences, load_checkpoint, resumable, written

    there = load_checkpoint(run.folder)
    if there is None:
        return False
    saved = resumable(run.folder, run.identity)
    if saved is None:
        changed = "; ".join(differences(there["identity"], run.identity))
        _tell(f"{changed}: training anew ({run.folder} holds the finished run of {there['wrote']['folder']})")
        return False
    wrote = written(saved)
    if (
        wrote is not None
        and wrote.options == run.options
        and Path(wrote.folder).parent.resolve() == (run.models / run.name).resolve()
    ):
        _tell(f"nothing to do: this command made {wrote.folder} of the same data. --restart trains anew")
        return True
    _tell(f"{run.folder} holds {len(saved['history'])} epochs of this run: going on from there")
    return False


def _tell(message: str) -> None:
    from training.provenance import is_first_process

    if is_first_process():
        typer.echo(f"carry: {message}", err=True)

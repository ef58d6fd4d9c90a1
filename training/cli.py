"""The verbs `carry train` and `carry evaluate`. Importable without PyTorch or pandas: a command imports what it needs
when it runs.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

from carry.options import SERIES_HELP, Freq, TargetColumn, split_names
from training.options import (
    Baselines,
    Cell,
    Data,
    Description,
    Dropout,
    Epochs,
    Hidden,
    Layers,
    LearningRate,
    ModelsDir,
    Name,
    Patience,
    Precision,
    Restart,
    Rows,
    RunDir,
    Seed,
    Test,
    Texts,
    Valid,
    WeightDecay,
    check_choice,
    loop_config,
    parse_cell,
    parse_quantile_levels,
    parse_widening,
)

OF_THE_START = ("cell", "layers", "hidden", "embedding", "residual", "ngrams", "unit", "min_count", "max_vocabulary")
"""Parameters of a text model that follow from the model that --start-from names."""

train = typer.Typer(help="Train a model and write it as a model folder that `carry serve` loads.", no_args_is_help=True)


@train.command("forecast")
def train_forecast(
    data: Data,
    name: Name,
    command: typer.Context,
    target: TargetColumn = None,
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
    columns, ahead, categories = split_names(features), split_names(known_ahead), split_names(categorical)
    if columns and target is None:
        raise typer.BadParameter("needs --target, the column to forecast", param_hint="--features")
    check_choice("--scaling", scaling, ("causal", "standard"))
    for option, chosen in (("--known-ahead", ahead), ("--categorical", categories)):
        for column in chosen:
            check_choice(option, column, columns)
        if chosen and scaling == "standard":
            raise typer.BadParameter("needs --scaling causal", param_hint=option)
    levels = parse_quantile_levels(quantiles)

    from carry.files import find_categories, read_series
    from training.recipes import forecast as recipe
    from training.runs import describe_run, train_once

    run = describe_run(command, {"DATA": data})

    def work() -> Path | None:
        known = find_categories(data, categories)
        series, names = read_series(data, target, columns, known, freq)
        config = recipe.ForecastConfig(
            cell=parse_cell(cell),
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
            features=names,
            known_ahead=ahead,
            categories=known,
        )
        loop = loop_config(epochs, learning_rate, patience, weight_decay, seed, precision)
        return recipe.train(series, config, loop, run)

    train_once(run, restart, work, "DATA")


@train.command("global")
def train_global(
    name: Name,
    command: typer.Context,
    data: Annotated[list[Path] | None, typer.Argument(help=SERIES_HELP, show_default=False)] = None,
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
    from training.recipes import global_forecast as recipe
    from training.runs import describe_run, train_once

    tests = [Path(part) for part in split_names(benchmarks)]
    weights = [start_from / CHECKPOINT_FILE] if start_from else []
    run = describe_run(command, {"DATA": data or [], "--benchmarks": tests}, {"--start-from": weights})

    def work() -> Path | None:
        config = recipe.GlobalConfig(
            cell=parse_cell(cell),
            hidden=hidden,
            layers=layers,
            steps=steps,
            synthetic=synthetic if data else 1.0,
            widening=parse_widening(widening),
            batch=batch,
        )
        loop = loop_config(epochs, learning_rate, epochs, weight_decay, seed, precision, average=0.998, device=device)
        return recipe.train(data or [], tests, config, loop, run, start_from, baselines)

    train_once(run, restart, work, "DATA")


@train.command("text")
def train_text(
    texts: Texts,
    name: Name,
    command: typer.Context,
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
    check_choice("--unit", unit, ("character", "word"))
    if start_from is not None:
        for parameter in OF_THE_START:
            source = command.get_parameter_source(parameter)
            if source is not None and source.name != "DEFAULT":
                option = f"--{parameter.replace('_', '-')}"
                raise typer.BadParameter("is that of the model that --start-from names", param_hint=option)
    words = unit == "word"
    from service.manifest import MANIFEST_FILE
    from training.data.texts import read_parts
    from training.recipes import text as recipe
    from training.runs import describe_run, train_once

    weights = [start_from / MANIFEST_FILE] if start_from else []  # it holds the sha256 of the files beside it
    files = {"TEXTS": texts, "--valid-on": valid_on or [], "--test-on": test_on or []}
    run = describe_run(command, files, {"--start-from": weights})

    def work() -> Path | None:
        config = recipe.TextConfig(
            cell=parse_cell(cell),
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
        loop = loop_config(
            epochs, learning_rate, patience, weight_decay, seed, precision, average, muon, schedule, device
        )
        parts = read_parts(texts, valid_on or [], test_on or [], valid, test, lines)
        return recipe.train(parts, config, loop, run)

    train_once(run, restart, work, "TEXTS")


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
    from carry.files import DataError
    from training.card import markdown_table
    from training.evaluation.baselines import METHODS
    from training.evaluation.evaluate import across_files, evaluate_forecaster, evaluation_rows
    from training.evaluation.forecasts import Hint
    from training.evaluation.texts import evaluate_text

    try:
        kind = json.loads((model / "manifest.json").read_text())["kind"]
    except (OSError, ValueError, KeyError):
        raise typer.BadParameter(f"{model} is no model folder", param_hint="MODEL") from None
    unsupported: dict[str, object] = {"--last": last}
    if kind == "text":
        unsupported = {"--target": target, "--freq": freq, "--limit": limit, "--url": url, "--horizon": horizon}
        unsupported["--hints"] = None if hints == "usual" else hints
    for option, value in unsupported.items():
        if value is not None:
            raise typer.BadParameter(f"not of a {kind} model", param_hint=option)
    methods = [name for name in split_names(baselines) if name != "none"]
    for method in methods:
        check_choice("--baselines", method, (*METHODS, "none"))
    chosen_hints = tuple(dict.fromkeys(split_names(hints)))
    for hint in chosen_hints or ("",):
        check_choice("--hints", hint, get_args(Hint))
    try:
        if kind != "forecast":
            scores = evaluate_text(model, data, last)
            typer.echo(json.dumps(scores, indent=1) if as_json else markdown_table(scores, digits=5))
            return
        rows = evaluate_forecaster(
            model,
            data,
            target,
            windows,
            limit,
            methods,
            url,
            freq,
            horizon,
            chosen_hints,  # type: ignore[arg-type]  # mypy does not narrow str to Literal
        )
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="DATA") from error
    rows += across_files(rows)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        typer.echo(markdown_table(evaluation_rows(rows)))

"""The verb `carry train`, and beside it `carry evaluate`. Importable without PyTorch or pandas: a command imports what
it needs when it runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carry.options import (
    SERIES_HELP,
    DateOrder,
    DecimalMark,
    Freq,
    IdColumns,
    MissingTexts,
    Sheet,
    TargetColumn,
    split_names,
)
from training.classify_verb import train_classify
from training.evaluation.verb import evaluate
from training.options import (
    Baselines,
    Cell,
    Data,
    Description,
    Device,
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

if TYPE_CHECKING:
    from training.loop import LoopConfig
    from training.models import ModelFolder

__all__ = ["evaluate", "train"]

OF_THE_START = ("cell", "layers", "hidden", "embedding", "residual", "ngrams", "unit", "min_count", "max_vocabulary")
"""Parameters of a text model that follow from the model that it goes on from."""

train = typer.Typer(help="Train a model and write it as a model folder that `carry serve` loads.", no_args_is_help=True)


@train.command("forecast")
def train_forecast(
    data: Data,
    name: Name,
    command: typer.Context,
    target: TargetColumn = None,
    id: IdColumns = None,
    freq: Freq = None,
    dates: DateOrder = None,
    decimal: DecimalMark = None,
    missing: MissingTexts = None,
    sheet: Sheet = None,
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
    device: Device = "auto",
    valid: Valid = 0.1,
    test: Test = 0.1,
    test_on: Annotated[
        list[Path] | None,
        typer.Option(help="File of series to measure on, instead of a share of DATA. May be repeated."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Most windows of the test part to measure.")] = 100,
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

    from carry.files import ReadOptions, find_categories
    from training.data.reading import read
    from training.data.series import describe_series
    from training.progress import say
    from training.recipes import forecast as recipe
    from training.runs import describe_run, train_once

    to_test = test_on or []
    for path in to_test:
        if path.resolve() in {each.resolve() for each in data}:
            raise typer.BadParameter(f"{path} is among the files to train on", param_hint="--test-on")
    run = describe_run(command, {"DATA": data, "--test-on": to_test})

    def work() -> Path | None:
        say(f"reading {', '.join(map(str, [*data, *to_test]))}")
        known = find_categories(data, categories)
        options = ReadOptions(
            target, columns, known, freq, tuple(id or ()), dates, decimal, tuple(missing or ()), sheet
        )
        series, names = read(data, options)
        say(describe_series(series))
        tests = read(to_test, options)[0] if to_test else []
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
        loop = loop_config(epochs, learning_rate, patience, weight_decay, seed, precision, device=device)
        return recipe.train(series, config, loop, run, tests)

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
    device: Device = "auto",
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
    name: Name,
    command: typer.Context,
    texts: Texts = None,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of TEXTS: file of pairs to turn a source into a target, in each line the source, a tab and "
            "the target, or .jsonl with the fields `source` and `target`, gzipped or not. May be repeated."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Characters (or words) per training window.", show_default="128, of words 32"),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Model to go on from, with its network and vocabulary: text-fast, models/text/1; none: from nothing.",
            show_default="of a small text the shipped text-fast, unless an option says how the network is built; of "
            "pairs none",
        ),
    ] = None,
    cell: Cell = "lstm",
    layers: Layers = 1,
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Units per layer.", show_default="256, of words 128 (of pairs 256)")
    ] = None,
    embedding: Annotated[int, typer.Option(min=1, help="Numbers that a character (or word) is read as.")] = 64,
    dropout: Annotated[
        float | None,
        typer.Option(min=0, max=0.95, help="Between layers, and after the last.", show_default="0.2, of words 0.5"),
    ] = None,
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
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most passes over the training part.",
            show_default="20, of words 6; if it goes on from a model, half a million characters' worth, at most 10; of "
            "pairs 2 to 60, the fewer pairs the more",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="At its highest, after the warm-up.",
            show_default="0.003, of words 0.01; if it goes on from a model 0.002",
        ),
    ] = None,
    weight_decay: WeightDecay = 0.0,
    patience: Patience = 4,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Sequences read side by side (batch size).", show_default="32, of words 16"),
    ] = None,
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
    device: Device = "auto",
    valid: Valid = 0.05,
    test: Test = 0.1,
    valid_on: Annotated[
        list[Path] | None,
        typer.Option(help="File to choose the weights on, instead of a share of the data. May be repeated."),
    ] = None,
    test_on: Annotated[
        list[Path] | None,
        typer.Option(help="File to measure on, instead of a share of the data. May be repeated."),
    ] = None,
    baselines: Baselines = True,
    seed: Seed = 1,
    precision: Precision = "auto",
    description: Description = "",
    models_dir: ModelsDir = Path("models"),
    run_dir: RunDir = None,
    restart: Restart = False,
) -> None:
    """Train a text model from texts, or from pairs of a source and a target.

    Example: carry train text letters.txt --name letters
    """
    check_choice("--unit", unit, ("character", "word"))
    words = unit == "word"
    if bool(texts) == bool(pairs):
        raise typer.BadParameter("name files of texts, or files of pairs by --pairs", param_hint="TEXTS")
    for option, value in {"--context": context, "--lines": lines or None}.items():
        if pairs and value is not None:
            raise typer.BadParameter("not of pairs: each is read whole", param_hint=option)
    from service.manifest import MANIFEST_FILE
    from training.data.pairs import read_pair_parts
    from training.data.texts import read_parts
    from training.progress import say
    from training.recipes import text as recipe
    from training.recipes import text_pairs
    from training.recipes.text_start import Sizes, TextConfig, reason_against, usual_sizes, usual_sizes_of_pairs
    from training.runs import describe_run, train_once

    start = None if pairs and start_from is None else _find_start(start_from, command, models_dir)
    weights = [start.path / MANIFEST_FILE] if start else []  # it holds the sha256 of the files beside it
    data = pairs or texts or []
    held_out = valid_on or [], test_on or []
    files = {"--pairs" if pairs else "TEXTS": data, "--valid-on": held_out[0], "--test-on": held_out[1]}
    run = describe_run(command, files, {"--start-from": weights})

    def config(usual: Sizes, chosen: "ModelFolder | None") -> TextConfig:
        return TextConfig(
            cell=parse_cell(cell),
            embedding=embedding,
            hidden=hidden or usual.hidden,
            layers=layers,
            dropout=usual.dropout if dropout is None else dropout,
            weight_dropout=weight_dropout,
            context=context or usual.context,
            rows=rows or usual.rows,
            residual=residual,
            ngrams=ngrams,
            unit=unit,  # type: ignore[arg-type]  # mypy does not narrow str to Literal
            min_count=min_count or (2 if words else 1),
            max_vocabulary=max_vocabulary or (10_000 if words else None),
            baselines=baselines,
            start_from=chosen,
        )

    def loop(usual: Sizes) -> "LoopConfig":
        return loop_config(
            epochs or usual.epochs,
            usual.learning_rate if learning_rate is None else learning_rate,
            patience,
            weight_decay,
            seed,
            precision,
            average,
            muon,
            schedule,
            device,
        )

    def work() -> Path | None:
        say(f"reading {', '.join(map(str, data))}")
        if pairs:
            pair_parts = read_pair_parts(pairs, *held_out, valid, test, seed)
            usual = usual_sizes_of_pairs(len(pair_parts.train), unit)
            return text_pairs.train(pair_parts, config(usual, start), loop(usual), run)
        parts = read_parts(data, *held_out, valid, test, lines)
        reason = reason_against(start, parts) if start and start_from is None else None
        if start and reason:
            say(f"not starting from {start.label}: {reason}")
        chosen = None if reason else start
        usual = usual_sizes(parts, unit, chosen)
        return recipe.train(parts, config(usual, chosen), loop(usual), run)

    train_once(run, restart, work, "--pairs" if pairs else "TEXTS")


train.command("classify")(train_classify)


def _find_start(name: str | None, command: typer.Context, models_dir: Path) -> "ModelFolder | None":
    """The text model to go on from: the one of --start-from, or the shipped one unless an option says how the network
    is built; None trains from nothing."""
    from training.models import find_model, shipped_model

    explicit = [
        f"--{parameter.replace('_', '-')}"
        for parameter in OF_THE_START
        if (source := command.get_parameter_source(parameter)) is not None and source.name != "DEFAULT"
    ]
    if name == "none":
        return None
    if name is None:
        return None if explicit else shipped_model("text")
    if explicit:
        raise typer.BadParameter("is that of the model that --start-from names", param_hint=explicit[0])
    try:
        model = find_model(name, models_dir)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--start-from") from error
    if model.manifest.kind != "text":
        raise typer.BadParameter(f"{model.label} is no text model", param_hint="--start-from")
    return model

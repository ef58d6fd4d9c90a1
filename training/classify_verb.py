"""The verb `carry train classify`. Importable without PyTorch or pandas, as training/cli.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carry.options import split_names
from training.options import (
    Baselines,
    Cell,
    Description,
    Device,
    Dropout,
    Epochs,
    Hidden,
    Layers,
    ModelsDir,
    Name,
    Patience,
    Precision,
    Restart,
    Rows,
    RunDir,
    Seed,
    WeightDecay,
    check_choice,
    loop_config,
    parse_cell,
)

if TYPE_CHECKING:
    from training.models import ModelFolder


def train_classify(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Tables (a series or a text a row; with --id, a step a row), JSON lines, or a folder with a folder of "
            "files for each class.",
            show_default=False,
        ),
    ],
    name: Name,
    command: typer.Context,
    label: Annotated[str, typer.Option(help="Column, or field, of the class.")] = "label",
    id: Annotated[str | None, typer.Option(help="Column that names the series of a row.", show_default="none")] = None,
    features: Annotated[
        str,
        typer.Option(
            help="Columns of the series, separated by commas; or the one of the texts.",
            show_default="all of numbers but ds; or text",
        ),
    ] = "",
    cell: Cell = "lstm",
    layers: Layers = 1,
    hidden: Hidden = 64,
    embedding: Annotated[int, typer.Option(min=1, help="Numbers that a character (or word) is read as.")] = 32,
    directions: Annotated[
        int, typer.Option(min=1, max=2, help="2: also read from the end. Then only whole sequences are classified.")
    ] = 1,
    dropout: Dropout = 0.2,
    unit: Annotated[str, typer.Option(help="What a token of a text is: character, or word.")] = "character",
    min_count: Annotated[int, typer.Option(min=1, help="What is rarer in the texts counts as unknown.")] = 2,
    smoothing: Annotated[float, typer.Option(min=0, max=0.5, help="Of the labels, against certainty.")] = 0.05,
    weighted: Annotated[bool, typer.Option(help="Rare classes count as much as frequent ones.")] = False,
    mask_rate: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of values (or characters) hidden while training.")
    ] = 0.05,
    epochs: Epochs = 60,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0, help="At its highest, after the warm-up.", show_default="0.01 of series, 0.003 of texts"),
    ] = None,
    weight_decay: WeightDecay = 0.01,
    patience: Patience = 15,
    rows: Rows = 16,
    valid: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            help="Share of each class held out to choose the weights, and to calibrate.",
            show_default="0.15; nothing of fewer than 200 sequences",
        ),
    ] = None,
    test: Annotated[float, typer.Option(min=0, max=0.5, help="Share of each class held out to measure.")] = 0.2,
    test_on: Annotated[
        list[Path] | None, typer.Option(help="File to measure on, instead of a share of DATA. May be repeated.")
    ] = None,
    features_of: Annotated[
        str | None,
        typer.Option(
            help="Use the layers of a trained model as they are, and fit only a linear head: forecast or text (those "
            "that come with Carry), or a forecaster of any series or a text model by name or folder.",
            show_default="train layers of its own",
        ),
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
    """Train a classifier of series, or of texts.

    Example: carry train classify gestures.csv --label kind --name gestures
    """
    check_choice("--unit", unit, ("character", "word"))
    from training.data.labelled import read_labelled
    from training.progress import say
    from training.recipes import classify as recipe
    from training.runs import describe_run, train_once

    to_test = test_on or []
    source = None if features_of is None else _source(features_of, command, models_dir)
    run = describe_run(
        command,
        {"DATA": _files(data), "--test-on": _files(to_test)},
        {"--features-of": [source.path / source.manifest.graph.file] if source else []},
    )

    def work() -> Path | None:
        say(f"reading {', '.join(map(str, [*data, *to_test]))}")
        columns = split_names(features)
        labelled = read_labelled(data, label, id, columns)
        tests = read_labelled(to_test, label, id, columns) if to_test else None
        config = recipe.ClassifyConfig(
            cell=parse_cell(cell),
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            directions=directions,
            embedding=embedding,
            unit=unit,
            min_count=min_count,
            rows=rows,
            valid=valid,
            test=test,
            smoothing=smoothing,
            weighted=weighted,
            mask_rate=mask_rate,
            baselines=baselines,
            features_of=source,
        )
        rate = recipe.default_rate(labelled) if learning_rate is None else learning_rate
        loop = loop_config(epochs, rate, patience, weight_decay, seed, precision, device=device)
        return recipe.train(labelled, config, loop, run, tests)

    train_once(run, restart, work, "DATA")


OF_THE_LAYERS = (
    *("cell", "layers", "hidden", "embedding", "directions", "dropout", "unit", "min_count", "smoothing", "mask_rate"),
    *("epochs", "learning_rate", "weight_decay", "patience", "rows", "valid", "precision", "device"),
)
"""Parameters that say how layers are built and trained."""


def _source(name: str, command: typer.Context, models_dir: Path) -> "ModelFolder":
    """The model that --features-of names."""
    from training.models import find_model, shipped_model

    for parameter in OF_THE_LAYERS:
        source = command.get_parameter_source(parameter)
        if source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(
                "the layers of --features-of are trained already", param_hint=f"--{parameter.replace('_', '-')}"
            )
    try:
        return shipped_model(name) or find_model(name, models_dir)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--features-of") from error


def _files(paths: list[Path]) -> list[Path]:
    """The files of these files and folders."""
    return [
        file
        for path in paths
        for file in (sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path])
    ]

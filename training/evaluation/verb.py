"""The verb `carry evaluate`. Importable without PyTorch or pandas, as training/cli.py."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from carry.options import (
    DateOrder,
    DecimalMark,
    Freq,
    IdColumns,
    MissingTexts,
    Sheet,
    split_names,
)
from training.options import check_choice

if TYPE_CHECKING:
    from training.models import ModelFolder


def evaluate(
    models_and_data: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL FILE",
            help="Models, each a folder such as models/sales/2 or a name such as sales or sales@2; then files of "
            "series or texts that they did not train on. Of a benchmark (JSON lines with `train` and `test`, M4's "
            "*-train.csv beside *-test.csv) its own split.",
            show_default=False,
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Column to forecast, as for `carry train forecast`.")] = None,
    id: IdColumns = None,
    freq: Freq = None,
    dates: DateOrder = None,
    decimal: DecimalMark = None,
    missing: MissingTexts = None,
    sheet: Sheet = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Values in a window of a series without a split.",
            show_default="by season, at most that of each model",
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
    label: Annotated[str, typer.Option(help="Of a classifier: the column, or field, of the class.")] = "label",
    models_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of model folders, for models by name.", show_default="./models and those of Carry"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure models on data they never saw, side by side, with the shipped model of their kind and with baselines.

    A forecaster forecasts the last values of each series from all before; a text model reads each document from its
    start, or writes the target of each source if it learnt from pairs; a classifier says which class each sequence is.

    Example: carry evaluate sales@1 sales@2 new.csv --horizon 24
    """
    from carry.files import DataError, ReadOptions
    from training.card import markdown_table
    from training.evaluation.baselines import METHODS
    from training.evaluation.classify import evaluate_classifiers
    from training.evaluation.evaluate import across_files, evaluate_forecaster, evaluation_rows
    from training.evaluation.forecasts import Hint
    from training.evaluation.pairs import evaluate_pairs, have_pairs
    from training.evaluation.texts import evaluate_text
    from training.models import shipped_model
    from training.progress import to_stderr

    models, data = _split_models(models_and_data, models_dir)
    kind = models[0].manifest.kind
    if any(model.manifest.kind != kind for model in models):
        kinds = ", ".join(f"{model.label} {model.manifest.kind}" for model in models)
        raise typer.BadParameter(f"models of one kind are compared, not {kinds}", param_hint="MODEL")
    unsupported: dict[str, object] = {"--last": last}
    if kind != "forecast":
        unsupported = {"--target": target, "--freq": freq, "--limit": limit, "--url": url, "--horizon": horizon}
        unsupported |= {
            "--last": last if kind == "classify" or have_pairs(models) else None,
            "--id": (id or None) if kind == "text" else None,
            "--dates": dates,
            "--decimal": decimal,
            "--missing": missing or None,
        }
        unsupported["--sheet"] = sheet
        unsupported["--hints"] = None if hints == "usual" else hints
    if kind != "classify":
        unsupported["--label"] = None if label == "label" else label
    for option, value in unsupported.items():
        if value is not None:
            of_pairs = " of pairs" if have_pairs(models) else ""
            raise typer.BadParameter(f"not of a {kind} model{of_pairs}", param_hint=option)
    if url is not None and len(models) > 1:
        raise typer.BadParameter("measures one model", param_hint="--url")
    methods = [name for name in split_names(baselines) if name != "none"]
    for method in methods:
        check_choice("--baselines", method, (*METHODS, "none"))
    chosen_hints = tuple(dict.fromkeys(split_names(hints)))
    for hint in chosen_hints or ("",):
        check_choice("--hints", hint, get_args(Hint))
    folders = [model.path for model in models]
    shipped = None if url else shipped_model(kind)
    if shipped is not None and shipped.path.resolve() in {folder.resolve() for folder in folders}:
        shipped = None
    try:
        with to_stderr():
            if kind != "forecast":
                if kind == "classify":
                    if id and len(id) > 1:
                        raise typer.BadParameter("one column names the series of a classifier", param_hint="--id")
                    scores = evaluate_classifiers(folders, data, label, id[0] if id else None)
                elif have_pairs(models):
                    scores = evaluate_pairs(folders, data)
                else:
                    scores = evaluate_text(folders, data, last, shipped)
                typer.echo(json.dumps(scores, indent=1) if as_json else markdown_table(scores, digits=5))
                return
            rows = evaluate_forecaster(
                folders,
                data,
                ReadOptions(target, (), {}, freq, tuple(id or ()), dates, decimal, tuple(missing or ()), sheet),
                windows,
                limit,
                methods,
                url,
                horizon,
                chosen_hints,  # type: ignore[arg-type]  # mypy does not narrow str to Literal
                shipped,
            )
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="DATA") from error
    rows += across_files(rows)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        typer.echo(markdown_table(evaluation_rows(rows)))


def _split_models(words: list[str], models_dir: Path | None) -> "tuple[list[ModelFolder], list[Path]]":
    """The models that the first words name, and the files that follow them."""
    from training.models import find_model

    models: list[ModelFolder] = []
    for word in words:
        if Path(word).is_file():
            break
        try:
            models.append(find_model(word, models_dir))
        except (OSError, ValueError) as error:
            if models:
                break  # it is a file that does not exist: reading it says so
            raise typer.BadParameter(f"{word} is no model folder: {error}", param_hint="MODEL") from error
    if not models:
        raise typer.BadParameter(f"{words[0]} is a file: name a model before it, such as forecast", param_hint="MODEL")
    if len(models) == len(words):
        raise typer.BadParameter("name a file to measure on after the models", param_hint="DATA")
    return models, [Path(word) for word in words[len(models) :]]

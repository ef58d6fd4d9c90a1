"""The verb `carry forecast`: its options, and what it prints. A file that fits memory becomes one table
(carry/forecast_file.py); a table of any size, a folder (carry/arrow/shards.py). Importable without pandas.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from carry.options import (
    SERIES_HELP,
    DateOrder,
    DecimalMark,
    Freq,
    IdColumns,
    MissingTexts,
    ModelOption,
    ModelsDir,
    Sheet,
    TargetColumn,
    settings_with,
    split_names,
)
from service.errors import CarryError

if TYPE_CHECKING:
    from carry.arrow.shards import Shard

MAX_REASONS = 10
"""Series that fail of which the reason is printed."""
TABLES = (".csv", ".parquet")
"""Ends of the names of files for --out; a name without an end is a folder."""
STANDARD_INPUT = Path("-")
FOLDER = "A table of any size, into a folder"


def forecast(
    file: Annotated[
        Path,
        typer.Argument(help=f"{SERIES_HELP} A single - is standard input, as CSV.", show_default=False),
    ],
    horizon: Annotated[int, typer.Option(min=1, help="How many values.")] = 12,
    levels: Annotated[
        str | None,
        typer.Option(help="Central intervals in percent, separated by commas.", show_default="80,95, if the model can"),
    ] = None,
    season_length: Annotated[
        str | None,
        typer.Option(help="Values per season, or per season and longer season: 24,168. 1 = none.", show_default=False),
    ] = None,
    non_negative: Annotated[bool, typer.Option("--non-negative", help="Nothing below 0 is possible.")] = False,
    model: ModelOption = None,
    models_dir: ModelsDir = None,
    out: Annotated[
        str | None,
        typer.Option(help="Write a file, .csv or .parquet, instead of printing; or a folder.", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the first series with their fans: fan.png.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object for each value.")] = False,
    target: TargetColumn = None,
    id: IdColumns = None,
    freq: Freq = None,
    dates: DateOrder = None,
    decimal: DecimalMark = None,
    missing: MissingTexts = None,
    sheet: Sheet = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Only a part of the series, such as 3/64, the third of 64: for several machines.",
            rich_help_panel=FOLDER,
            show_default=False,
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Column of the times.", rich_help_panel=FOLDER, show_default="ds")
    ] = None,
    layout: Annotated[
        Literal["long", "lists"] | None,
        typer.Option(
            help="A row for each value, or one with lists for each series.",
            rich_help_panel=FOLDER,
            show_default="as the table",
        ),
    ] = None,
) -> None:
    """Forecast what follows each series of a file, without a server. An empty cell is a missing value.

    A report of what was read goes to standard error. The exit status is 1 if a series could not be forecast.

    With a folder for --out, the table may have any size, and a run that was interrupted goes on.

    Example: carry forecast sales.csv --horizon 24 --picture fan.png
    """
    season = None if season_length is None else _season_length(season_length)
    percentages = None if levels is None else _percentages(levels)
    settings = settings_with(models_dir=models_dir)
    if file != STANDARD_INPUT and not file.exists():  # before an import that may fail
        raise CarryError(f"{file}: no such file")
    if out is not None and _is_folder(out):
        only_in_memory = {"dates": dates, "decimal": decimal, "missing": missing, "sheet": sheet, "picture": picture}
        _refuse(only_in_memory | {"json": as_json}, f"not with a folder for --out, and {out} is one")
        from carry.arrow import shards
        from carry.batch import BatchOptions

        batch_options = BatchOptions(
            horizon,
            percentages or BatchOptions.levels,
            model,
            models_dir,
            freq,
            season_length=season,
            non_negative=non_negative,
            id=_only_id(id) or BatchOptions.id,
            times=time or BatchOptions.times,
            target=target or BatchOptions.target,
            output=layout,
        )
        shard_report = shards.run(file, Path(out), batch_options, _shard(shard), settings.processes, sys.stderr)
        typer.echo("\n".join(shard_report.lines()), err=True)
        raise typer.Exit(0 if shard_report.complete else 1)
    _refuse({"shard": shard, "time": time, "layout": layout}, "needs a folder for --out")

    from carry import forecast_file
    from carry.files import DataError
    from carry.models import find_forecaster

    options = forecast_file.ForecastOptions(
        horizon,
        percentages,
        target,
        freq,
        season,
        non_negative,
        tuple(id or ()),
        dates,
        decimal,
        tuple(missing or ()),
        sheet,
    )
    try:
        manifest = find_forecaster(settings, model)
        with _file_or_standard_input(file) as path:
            forecasts = forecast_file.forecast_file(path, manifest, settings, options)
        table = forecast_file.forecast_table(forecasts)
        if out is not None:
            forecast_file.write_table(table, Path(out))
        if picture is not None:
            forecast_file.write_picture(forecasts, picture)
    except DataError as error:
        raise CarryError(str(error)) from error
    if as_json:
        typer.echo(forecast_file.as_json(table))
    elif out is None:
        typer.echo(forecast_file.preview(table))
    failed = [f"{failure.id}: {failure.reason}" for failure in forecasts.failures]
    if len(failed) > MAX_REASONS:
        failed[MAX_REASONS:] = [f"... and {len(failed) - MAX_REASONS} more series"]
    typer.echo("\n".join([*forecasts.report(), *(f"carry: {line}" for line in failed)]), err=True)
    raise typer.Exit(1 if failed else 0)


def _is_folder(out: str) -> bool:
    """Whether --out names a folder.

    Raises:
        BadParameter: it names a file of a kind that is not written.
    """
    path = Path(out)
    if out.endswith(os.sep) or path.is_dir() or not path.suffix:
        return True
    if path.suffix not in TABLES:
        raise typer.BadParameter(f"a file ends with {' or '.join(TABLES)}; a folder ends with /", param_hint="--out")
    return False


def _refuse(options: Mapping[str, Any], reason: str) -> None:
    """Refuse each option that is set."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(reason, param_hint=f"--{name}")


def _only_id(names: list[str] | None) -> str | None:
    if names is not None and len(names) > 1:
        raise typer.BadParameter("one column, with a folder for --out", param_hint="--id")
    return names[0] if names else None


@contextmanager
def _file_or_standard_input(path: Path) -> Iterator[Path]:
    """The file; for "-" a copy of standard input, as CSV."""
    if path != STANDARD_INPUT:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "input.csv"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield copy


def _percentages(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in split_names(text))
    except ValueError:
        levels = ()
    if not levels or not all(0 < level < 100 for level in levels):
        raise typer.BadParameter("percentages between 0 and 100, separated by commas", param_hint="--levels")
    return levels


def _shard(text: str | None) -> "Shard":
    from carry.arrow.shards import Shard

    try:
        return Shard() if text is None else Shard.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from error


def _season_length(text: str) -> tuple[int, ...]:
    try:
        season = tuple(int(part) for part in split_names(text))
    except ValueError:
        season = ()
    if not 0 < len(season) < 3 or min(season) < 1 or list(season) != sorted(set(season)):
        raise typer.BadParameter("one whole number from 1, or two that ascend", param_hint="--season-length")
    return season

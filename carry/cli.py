"""The verb `carry forecast`, and the options that it shares with the verbs of `training`. Importable without
pandas: the command imports what it needs when it runs.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from carry.options import SERIES_HELP, Freq, TargetColumn, split_names

MAX_REASONS = 10
"""Series that fail of which the reason is printed."""


def forecast(
    file: Annotated[
        Path,
        typer.Argument(help=f"{SERIES_HELP} - reads a CSV from standard input.", show_default=False),
    ],
    model: Annotated[str | None, typer.Option(help="name or name@version; the default model if absent.")] = None,
    horizon: Annotated[int, typer.Option(min=1, help="How many values.")] = 12,
    levels: Annotated[
        str | None,
        typer.Option(help="Central intervals in percent, separated by commas.", show_default="80,95, if the model can"),
    ] = None,
    target: TargetColumn = None,
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
    from carry import forecast_file
    from carry.files import DataError
    from carry.local import find_forecaster
    from service.errors import CarryError
    from service.settings import Settings

    options = forecast_file.ForecastOptions(
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
        with _file_or_standard_input(file) as path:
            forecasts = forecast_file.forecast_file(path, manifest, settings, options)
        table = forecast_file.forecast_table(forecasts)
        if out is not None:
            forecast_file.write_table(table, out)
        if picture is not None:
            forecast_file.write_picture(forecasts, picture)
    except DataError as error:
        raise CarryError(str(error)) from error
    if as_json:
        typer.echo(forecast_file.as_json(table))
    elif out is None:
        typer.echo(forecast_file.preview(table))
    results = zip(forecasts.series, forecasts.quantiles, strict=True)
    failed = [f"carry: {series.id}: {reason}" for series, reason in results if isinstance(reason, str)]
    if failed:
        more = len(failed) - MAX_REASONS
        lines = failed[:MAX_REASONS] + ([f"carry: ... and {more} more series"] if more > 0 else [])
        typer.echo("\n".join(lines), err=True)
        raise typer.Exit(1)


@contextmanager
def _file_or_standard_input(path: Path) -> Iterator[Path]:
    """The file; for "-" a copy of standard input, as CSV."""
    if path != Path("-"):
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


def _season_length(text: str) -> tuple[int, ...]:
    try:
        season = tuple(int(part) for part in split_names(text))
    except ValueError:
        season = ()
    if not 0 < len(season) < 3 or min(season) < 1 or list(season) != sorted(set(season)):
        raise typer.BadParameter("one whole number from 1, or two that ascend", param_hint="--season-length")
    return season

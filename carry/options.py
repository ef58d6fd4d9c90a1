"""Options that the verbs of the command line share, and what their text means. Knows nothing of what the verbs do."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.settings import Settings

ModelOption = Annotated[
    str | None, typer.Option(help="name or name@version.", show_default="the default model of its kind")
]
ModelsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of model folders.", show_default="CARRY_MODELS_DIR, else ./models and the models of Carry"
    ),
]
SERIES_HELP = (
    "CSV, Parquet, JSON lines or Excel (gzip and zstd too): one column per series, or unique_id, ds, y and feature "
    "columns, or one row per series."
)
READING = "How to read the file"
"""The panel of `--help` for the options below. Without any, the file itself says it, and the report what was taken."""

TargetColumn = Annotated[
    str | None,
    typer.Option(
        help="Column to forecast. Without it each column is a series.", rich_help_panel=READING, show_default=False
    ),
]
Freq = Annotated[
    str | None,
    typer.Option(
        help="How often there is a value, as pandas says it: MS, D, h.", rich_help_panel=READING, show_default="found"
    ),
]
IdColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--id", help="Column that names the series. May be repeated.", rich_help_panel=READING, show_default="found"
    ),
]
DateOrder = Annotated[
    Literal["dayfirst", "monthfirst"] | None,
    typer.Option("--dates", help="What 3/4/2024 means.", rich_help_panel=READING, show_default="what fits all rows"),
]
DecimalMark = Annotated[
    Literal[".", ","] | None,
    typer.Option("--decimal", help="Mark of decimals.", rich_help_panel=READING, show_default="found"),
]
MissingTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        help="Text or number that stands for a missing value, beside an empty cell. May be repeated.",
        rich_help_panel=READING,
        show_default=False,
    ),
]
Sheet = Annotated[
    str | None,
    typer.Option("--sheet", help="Sheet of an Excel file.", rich_help_panel=READING, show_default="the first"),
]


def split_names(text: str) -> tuple[str, ...]:
    """The names, or numbers, that commas separate."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def settings_with(**options: Any) -> Settings:
    """The settings of the environment, and of the options that are not None."""
    return Settings(**{name: value for name, value in options.items() if value is not None})

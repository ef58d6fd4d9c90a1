"""Options that the verbs of the command line share, and what their text means. Knows nothing of what the verbs do."""

from typing import Annotated

import typer

SERIES_HELP = (
    "CSV, Parquet or JSON lines (gzipped or not): one column per series, or unique_id, ds, y and feature columns."
)
Freq = Annotated[
    str | None, typer.Option(help="How often there is a value, as pandas says it: MS, D, h.", show_default="found")
]
TargetColumn = Annotated[str | None, typer.Option(help="Column to forecast. Without it each column is a series.")]


def split_names(text: str) -> tuple[str, ...]:
    """The names, or numbers, that commas separate."""
    return tuple(part.strip() for part in text.split(",") if part.strip())

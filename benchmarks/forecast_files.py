"""How long a file of many series takes: `carry forecast`, and AutoETS of statsforecast on the same cores, in one run.

`make bench-forecast` runs it. Ends with one JSON line.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from service.machine import available_cores

HORIZON = 18
SEASON = 12


def made_up(series: int, values: int) -> pd.DataFrame:
    """Monthly series of level, trend, season and noise, long: unique_id, ds, y."""
    rng = np.random.default_rng(1)
    steps = np.arange(values)
    trend = rng.normal(0, 0.003, (series, 1)) * steps
    season = 0.2 * rng.random((series, 1)) * np.sin(2 * np.pi * (steps + rng.integers(0, SEASON, (series, 1))) / SEASON)
    noise = 0.05 * rng.normal(size=(series, values))
    y = np.exp(rng.normal(5, 1, (series, 1))) * (1 + trend + season + noise)
    return pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i:05}" for i in range(series)], values),
            "ds": np.tile(pd.date_range("2015-01-01", periods=values, freq="MS").to_numpy(), series),
            "y": y.ravel().round(3),
        }
    )


def carry_seconds(table: pd.DataFrame, folder: Path, model: str) -> float:
    """From the command to its file of forecasts, the start of the interpreter included."""
    source, out = folder / "series.csv", folder / "forecasts.csv"
    table.to_csv(source, index=False)
    command = [str(Path(sys.executable).parent / "carry"), "forecast", str(source), "--model", model]
    began = time.perf_counter()
    subprocess.run([*command, "--horizon", str(HORIZON), "--out", str(out)], check=True)
    seconds = time.perf_counter() - began
    assert len(pd.read_csv(out)) == HORIZON * table["unique_id"].nunique()
    return seconds


def ets_seconds(table: pd.DataFrame, cores: int) -> float:
    """Of fitting and forecasting alone, compiled beforehand."""
    from statsforecast import StatsForecast
    from statsforecast.models import AutoETS

    few = table[table["unique_id"] <= "s00003"]
    StatsForecast([AutoETS(season_length=SEASON)], freq="MS").forecast(df=few, h=HORIZON, level=[80, 95])
    began = time.perf_counter()
    StatsForecast([AutoETS(season_length=SEASON)], freq="MS", n_jobs=cores).forecast(
        df=table, h=HORIZON, level=[80, 95]
    )
    return time.perf_counter() - began


def main(
    series: Annotated[int, typer.Option(min=1)] = 10_000,
    values: Annotated[int, typer.Option(min=24)] = 120,
    model: Annotated[str, typer.Option(help="name or name@version, in the folder of CARRY_MODELS_DIR")] = "forecast",
    ets: Annotated[bool, typer.Option(help="Also time AutoETS, which takes minutes.")] = True,
) -> None:
    """Time both on the same series."""
    table, cores = made_up(series, values), available_cores()
    figures: dict[str, float | int] = {"series": series, "values": values, "horizon": HORIZON, "cores": cores}
    with tempfile.TemporaryDirectory() as folder:
        figures["carry_seconds"] = round(carry_seconds(table, Path(folder), model), 2)
    if ets:
        figures["ets_seconds"] = round(ets_seconds(table, cores), 2)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    typer.run(main)

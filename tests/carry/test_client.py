"""`carry.Client` and `carry.AsyncClient` as a person uses them: against the real service, and over a bad line."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import carry
from carry.errors import InvalidRequestError
from tests.carry.driving import Time
from tests.carry.flaky_server import Behaviour, Broken, Forward, Received, Reply, flaky_server, problem
from tests.served import KEY, served

SERIES = [3.0, None, 6.0, 5.0, 7.0, 8.0]


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[str]:
    """A service with small models."""
    with served(models) as url:
        yield url


@pytest.fixture(scope="module")
def local(models: Path) -> Iterator[carry.LocalModel]:
    """The forecaster of the service, in this process."""
    with carry.load("forecast", models) as model:
        yield model


def columns(series: int) -> dict[str, list[Any]]:
    """A data frame of series of twelve days each. Every tenth has no value."""
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(12)]
    rows = [(i, day, None if i % 10 == 3 else float(i + j % 5)) for i in range(series) for j, day in enumerate(days)]
    ids, times, values = zip(*rows, strict=True)
    return {"unique_id": [f"{i:03}" for i in ids], "ds": [*times], "y": [*values]}


FRAMES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": lambda data: pd.DataFrame(data).astype({"ds": "datetime64[us]"}),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


def bad_line(service: str) -> Callable[[int, Received], Behaviour]:
    """Each second request fails: its answer gets lost, the service is full, or a proxy cannot reach it."""
    failures: list[Behaviour] = [
        Broken(service),
        Reply(429, problem(429, "queue_full"), {"Retry-After": "2"}),
        Reply(502, b"<html>", {"Content-Type": "text/html"}),
    ]
    return lambda number, _: failures[number // 2 % 3] if number % 2 == 0 else Forward(service)


@pytest.mark.parametrize("kind", FRAMES)
def test_many_series_over_a_bad_line_are_those_of_the_model_and_the_bad_ones_are_listed(
    service: str, local: carry.LocalModel, kind: str
) -> None:
    frame, time = FRAMES[kind](columns(60)), Time()
    with flaky_server(bad_line(service)) as server, carry.Client(server.url, KEY, sleep=time.sleep) as client:
        client._http._wire.max_batch = 7
        with pytest.warns(carry.SkippedSeriesWarning, match="6 of 60 series are left out") as warned:
            remote = client.forecast(frame, 3, levels=[80])
    with pytest.warns(carry.SkippedSeriesWarning):
        here = local.forecast(frame, 3, levels=[80])
    assert type(remote) is type(frame)
    assert nw.from_native(remote).to_dict(as_series=False) == nw.from_native(here).to_dict(as_series=False)
    assert len(remote) == 54 * 3
    [warning] = [each.message for each in warned if isinstance(each.message, carry.SkippedSeriesWarning)]
    assert [*warning.errors] == [f"{i:03}" for i in range(3, 60, 10)]
    assert len(server.received) > 9


def test_asynchronous_answers_are_the_synchronous_ones(service: str) -> None:
    frame = FRAMES["polars"](columns(3))

    async def run() -> list[Any]:
        async with carry.AsyncClient(service, KEY) as client:
            return [
                (await client.forecast(SERIES, 3)).median.tolist(),
                (await client.forecast(frame, 3)).to_dicts(),
                (await client.anomalies(SERIES, level=90)).anomaly,
                (await client.backtest(SERIES, 1, 2)).metrics["smape"],
                await client.generate("ab", 20, seed=1),
                await client.predict("ab", 2),
            ]

    with carry.Client(service, KEY) as client:
        assert asyncio.run(run()) == [
            client.forecast(SERIES, 3).median.tolist(),
            client.forecast(frame, 3).to_dicts(),
            client.anomalies(SERIES, level=90).anomaly,
            client.backtest(SERIES, 1, 2).metrics["smape"],
            client.generate("ab", 20, seed=1),
            client.predict("ab", 2),
        ]


def test_asynchronous_calls_run_side_by_side(service: str) -> None:
    async def run() -> list[list[float]]:
        async with carry.AsyncClient(service, KEY) as client:
            answers = await asyncio.gather(*(client.forecast([1.0, i], 2) for i in range(20)))
            return [answer.median.tolist() for answer in answers]

    with carry.Client(service, KEY) as client:
        assert asyncio.run(run()) == [client.forecast([1.0, i], 2).median.tolist() for i in range(20)]


def test_threads_share_a_client(service: str) -> None:
    with carry.Client(service, KEY) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: client.forecast([1.0, i], 2).median.tolist(), range(20)))
        assert answers == [client.forecast([1.0, i], 2).median.tolist() for i in range(20)]


def test_the_service_reads_compressed_bodies(service: str, local: carry.LocalModel) -> None:
    series = np.random.default_rng(1).normal(size=80_000)
    with (
        flaky_server(lambda *_: Forward(service)) as server,
        carry.Client(server.url, KEY) as client,
    ):
        remote = client.forecast(series, 2)
    assert server.received[0].headers["content-encoding"] == "zstd"
    assert remote.median.tolist() == local.forecast(series, 2).median.tolist()


def test_one_bad_series_alone_is_an_error(service: str) -> None:
    with carry.Client(service, KEY) as client, pytest.raises(InvalidRequestError) as refused:
        client.forecast([None, None], 2)
    assert (refused.value.path, refused.value.status) == ("$.series", 422)
    assert refused.value.request_id is not None


def test_the_client_needs_no_engine_and_no_server() -> None:
    program = """
import sys, carry
assert not {"httpx", "numpy", "onnxruntime", "fastapi"} & sys.modules.keys()
carry.Client("http://localhost:8000").close()
assert not {"onnxruntime", "fastapi", "pandas", "matplotlib", "torch"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)

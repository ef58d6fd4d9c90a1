"""Large requests and answers about series: encoded in pieces, in turns with other requests, within the deadline, and
without timestamps that the answer does not need."""

import asyncio
import math
import time
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.errors import DeadlineExceededError
from service.forecast import inputs as series
from service.forecast.timestamps import timestamps_after
from service.http.json_pieces import PIECE, json_fragments, json_pieces
from service.http.offload import take_turns

NUMBERS = st.integers(0, 3 * PIECE).map(lambda count: np.random.default_rng(count).normal(size=count).round(3))
LISTS = st.integers(0, 3 * PIECE).map(lambda count: [None if i % 7 else f"2024-{i}" for i in range(count)])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | NUMBERS | LISTS,
    lambda values: st.dictionaries(st.text(max_size=3), values, max_size=3) | st.lists(values, max_size=3),
    max_leaves=8,
)


@given(value=VALUES)
def test_pieces_are_the_json_of_the_whole(value: Any) -> None:
    assert b"".join(json_pieces(value)) == orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def test_no_piece_is_large() -> None:
    value = {"a": np.arange(100.0 * PIECE) + 0.123456789, "b": [{"c": "2024-01-01", "d": [1.5] * 3}] * PIECE}
    assert max(map(len, json_pieces(value))) < 25 * PIECE


@given(value=st.dictionaries(st.text(max_size=3), VALUES, max_size=3))
def test_fragments_are_the_json_of_the_whole(value: dict[str, Any]) -> None:
    fragments = asyncio.run(json_fragments(value, math.inf))
    whole = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    assert orjson.dumps(dict(fragments), option=orjson.OPT_SERIALIZE_NUMPY) == whole


async def spin(deadline: float, seen: list[int]) -> None:
    """Half a second of work, 0.1 ms each."""
    async for i in take_turns(range(5000), deadline):
        seen.append(i)
        until = time.perf_counter() + 1e-4
        while time.perf_counter() < until:
            pass


def test_work_in_turns_ends_at_its_deadline() -> None:
    seen: list[int] = []
    with pytest.raises(DeadlineExceededError):
        asyncio.run(spin(time.monotonic() + 0.02, seen))
    assert len(seen) < 4000


def test_work_in_turns_ends_when_its_caller_disconnects() -> None:
    seen: list[int] = []

    async def disconnect() -> None:
        work = asyncio.create_task(spin(math.inf, seen))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(disconnect())
    assert len(seen) < 1000


def test_ten_tasks_in_turns_let_others_in_as_soon_as_one() -> None:
    async def longest_wait(workers: int) -> float:
        tasks = [asyncio.create_task(spin(math.inf, [])) for _ in range(workers)]
        await asyncio.sleep(0)
        waits = []
        for _ in range(30):
            started = time.perf_counter()
            await asyncio.sleep(0)
            waits.append(time.perf_counter() - started)
        for task in tasks:
            task.cancel()
        return sorted(waits)[15]

    assert asyncio.run(longest_wait(10)) < 4 * asyncio.run(longest_wait(1))


@pytest.fixture
def timestamp_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many timestamps each call of `timestamps_after` made."""
    counts: list[int] = []

    def counted(start: str, freq: str, length: int, count: int) -> list[str]:
        counts.append(count)
        return timestamps_after(start, freq, length, count)

    monkeypatch.setattr(series, "timestamps_after", counted)
    return counts


MONTHS = {"start": "1000-01-31", "freq": "M"}


def test_a_refused_batch_makes_no_timestamps(client: TestClient, timestamp_counts: list[int]) -> None:
    item = {"series": [1], "horizon": 100} | MONTHS
    body = {"requests": [item] * 1500, "quantiles": [0.01 * i for i in range(10, 91)]}
    answer = client.post("/forecast/batch", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "$.requests"
    assert max(timestamp_counts) <= 1, "at most the last one of a series, to check that the calendar has it"


def test_windows_make_only_their_own_timestamps(client: TestClient, timestamp_counts: list[int]) -> None:
    body = {"series": [float(i % 7) for i in range(4000)], "horizon": 2, "windows": 3} | MONTHS
    answer = client.post("/cross_validation", json=body)
    assert answer.status_code == 200
    assert sum(timestamp_counts) <= 3 * 2 + 1
    assert answer.json()["windows"][0]["timestamps"] == ["1332-11-30", "1332-12-31"]


def test_too_many_windows_are_refused_and_the_error_names_the_field(client: TestClient) -> None:
    body = {"series": [1.0] * 3000, "horizon": 1, "windows": 1001, "quantiles": [0.5]}
    answer = client.post("/cross_validation", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"path": "$.windows", "message": "at most 1000 windows of a series, and these are 1001"}
    ]


def test_a_large_batch_answer_has_a_content_length(client: TestClient) -> None:
    body = {"requests": [{"series": [1, 2, 3]}] * 300, "horizon": 5}
    answer = client.post("/forecast/batch", json=body, headers={"Accept-Encoding": "identity"})
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert len(answer.json()["results"]) == 300

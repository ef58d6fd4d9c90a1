"""The verb `carry forecast`."""

import io
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import SHIPPED, Run


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRY_MODELS_DIR", str(SHIPPED))


def test_the_verb_prints_writes_and_reads_standard_input(
    tmp_path: Path, carry: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "y\n1\n2\n\n4\n5\n"
    path = tmp_path / "y.csv"
    path.write_text(content)
    status, printed, _ = carry("forecast", str(path), "--horizon", "3", "--json")
    assert status == 0
    assert [row["ds"] for row in json.loads(printed)] == [1, 2, 3]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert carry("forecast", "-", "--horizon", "3", "--json")[1] == printed
    assert carry("forecast", str(path), "--horizon", "2")[1].split()[:3] == ["unique_id", "ds", "median"]
    out = tmp_path / "out.csv"
    assert carry("forecast", str(path), "--out", str(out), "--picture", str(tmp_path / "fan.png"))[:2] == (0, "")
    assert len(pd.read_csv(out)) == 12


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("", [], "not readable as CSV"),
        ("y\n", [], "holds no rows"),
        ("1\n2\n3\n", [], "must hold the names of the columns"),
        ("y\n1\nx\n", [], "no column of numbers"),
        ("y\n1\n", ["--target", "z"], "no column 'z'; its columns are 'y'"),
        ("y\n1\n", ["--model", "nobody"], "no such model"),
        ("y\n1\n", ["--model", "text"], "is a text model"),
        ("y\n1\n", ["--levels", "99.99"], "too far in the tails"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2\n", ["--freq", "fortnight"], "not a frequency"),
    ],
)
def test_a_file_that_cannot_be_forecast_gives_one_line_of_error(
    tmp_path: Path, carry: Run, content: str, arguments: list[str], message: str
) -> None:
    file = tmp_path / "series.csv"
    file.write_text(content)
    status, _, err = carry("forecast", str(file), *arguments)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_one_bad_series_does_not_fail_the_others(tmp_path: Path, carry: Run) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "fine", "values": [1, 2, 3]}\n{"id": "huge", "values": [1e300, 1e308, -1e308]}\n')
    status, out, err = carry("forecast", str(path), "--horizon", "2", "--json")
    assert [row["unique_id"] for row in json.loads(out)] == ["fine", "fine"]
    assert (status, err) == (1, "carry: huge: the model gives no finite forecast for these values\n")

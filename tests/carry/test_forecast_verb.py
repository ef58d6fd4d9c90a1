"""The verb `carry forecast`."""

import io
import json
import subprocess
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
        ("", [], "the file is empty"),
        ("y\n", [], "holds no rows"),
        ("y\n1\nx\n", [], "'x' in line 3"),
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


def test_a_file_that_is_missing_is_said_to_be_before_an_extra_is(tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    program = "import sys; sys.modules['pandas'] = sys.modules['pyarrow'] = None; from carry.cli import main; main()"

    def errors(*arguments: str) -> str:
        command = [sys.executable, "-c", program, "forecast", *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        return result.stderr

    for out in ([], ["--out", "folder/"]):
        assert errors("nowhere.csv", *out) == "carry: nowhere.csv: no such file\n"
        assert "pip install 'carry-rnn[files]'" in errors("there.csv", *out)


def test_one_bad_series_does_not_fail_the_others(tmp_path: Path, carry: Run) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "fine", "values": [1, 2, 3]}\n{"id": "huge", "values": [1e300, 1e308, -1e308]}\n')
    status, out, err = carry("forecast", str(path), "--horizon", "2", "--json")
    assert [row["unique_id"] for row in json.loads(out)] == ["fine", "fine"]
    assert status == 1
    assert err.endswith("carry: huge: the model gives no finite forecast for these values\n")


def test_a_report_says_how_a_file_was_read_and_an_option_says_otherwise(tmp_path: Path, carry: Run) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ds;y\n01/02/2024;1,5\n02/02/2024;2,5\n03/02/2024;3,0\n04/02/2024;3,25\n")
    _, out, err = carry("forecast", str(path), "--horizon", "1", "--json")
    assert json.loads(out)[0]["ds"].startswith("2024-02-05")
    assert "--dates monthfirst" in err
    _, out, err = carry("forecast", str(path), "--horizon", "1", "--json", "--dates", "monthfirst")
    assert json.loads(out)[0]["ds"].startswith("2024-05-02")
    assert "--dates" not in err


def test_a_folder_is_forecast_into_by_shards_and_goes_on(tmp_path: Path, carry: Run) -> None:
    path, out = tmp_path / "a.csv", tmp_path / "out"
    rows = [f"{name},2024-01-0{day},{day}" for name in "abcdefgh" for day in (1, 2, 3)]
    path.write_text("\n".join(["shop,day,sold", *rows]))
    names = ("--id", "shop", "--time", "day", "--target", "sold")
    for shard in ("1/2", "2/2"):
        status, printed, err = carry(
            "forecast", str(path), *names, "--out", f"{out}/", "--horizon", "2", "--layout", "lists", "--shard", shard
        )
        assert (status, printed) == (0, "")
        assert "1 part" in err
    table = pd.read_parquet(out)
    assert sorted(table["shop"]) == list("abcdefgh")
    assert {len(values) for values in table["median"]} == {2}
    again = carry(
        "forecast", str(path), *names, "--out", f"{out}/", "--horizon", "2", "--layout", "lists", "--shard", "1/2"
    )
    assert "all were there already" in again[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.xlsx"], "a file ends with .csv or .parquet"),
        (["--shard", "1/2"], "needs a folder for --out"),
        (["--out", "out/", "--shard", "3/2"], "3/64"),
        (["--out", "out/", "--json"], "not with a folder"),
        (["--out", "out/", "--dates", "dayfirst"], "not with a folder"),
        (["--out", "out/", "--id", "a", "--id", "b"], "one column"),
        (["--dates", "yearfirst"], "yearfirst"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, carry: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("y\n1\n2\n")
    status, _, err = carry("forecast", "a.csv", *arguments)
    assert status == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == [tmp_path / "a.csv"]

"""What training says of the files that it reads."""

from pathlib import Path

import pytest

from carry.files import DataError, ReadOptions
from training.data.reading import read
from training.progress import to_stderr


def test_a_file_is_reported_and_the_series_that_cannot_be_used_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shops.csv"
    lines = [f"{shop};0{day}.02.2024;{value}" for shop in "ab" for day, value in ((1, "1,5"), (2, "2,5"), (3, "4"))]
    path.write_text("\n".join(["unique_id;ds;y", *lines, "c;01.02.2024;", "c;02.02.2024;"]) + "\n")
    with to_stderr():
        series, names = read([path], ReadOptions())
    assert ([each.id for each in series], names) == (["a", "b"], ("y",))
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("carry: shops.csv: 8 rows, 2 series, D, 2024-02-01 to 2024-02-03")
    assert "carry:   cells are separated by semicolons" in said
    assert said[-1].startswith("carry: not used: c: ")


def test_a_file_without_a_series_that_can_be_used_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("unique_id,ds,y\na,2024-01-01,\na,2024-01-02,\n")
    with pytest.raises(DataError, match="no series can be used: a: "):
        read([path], ReadOptions())

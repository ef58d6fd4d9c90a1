"""The timing of forecasters (`python -m benchmarks.forecaster`), on tiny models."""

from pathlib import Path

import pytest
import typer

from benchmarks.forecaster import BESIDE, RUNS, SESSION, Subject, medians
from tests.builders import character_model, forecaster, write_model


def test_two_forecasters_are_timed_in_both_precisions(tmp_path: Path) -> None:
    folder, other = (write_model(forecaster(cell), tmp_path / cell, "forecast") for cell in ("lstm", "gru"))
    subjects = Subject.of_folder(folder) | Subject.of_folder(other, BESIDE)
    try:
        names = {"float32", "int8", "float32, beside", "int8, beside"}
        assert set(subjects) == names
        milliseconds = medians(subjects, dict.fromkeys(RUNS, 1))
        assert set(milliseconds) == set(RUNS)
        assert all(set(times) == names and min(times.values()) > 0 for times in milliseconds.values())
    finally:
        for subject in subjects.values():
            subject.close()


def test_a_session_goes_on_by_one_value_each_time(tmp_path: Path) -> None:
    subject = Subject.of_folder(write_model(forecaster(), tmp_path, "forecast"))["float32"]
    try:
        call = subject.tasks()[SESSION]
        assert [call()[0].position for _ in range(2)] == [201, 201]
    finally:
        subject.close()


def test_only_forecasters_are_timed(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="not a forecaster"):
        Subject.of_folder(write_model(character_model(), tmp_path, "text"))

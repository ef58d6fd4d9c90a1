"""The notebooks run from top to bottom, and show what they showed when they were saved."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.blocks import ROOT

PICTURES = {"carry.ipynb": 3, "tutorials/tutorials.ipynb": 3}
"""The notebooks, and how many pictures each shows."""


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook as it was saved."""
    saved: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return saved


def shown(cells: list[nbformat.NotebookNode]) -> list[list[tuple[str, ...]]]:
    """What each cell shows: the kinds of its outputs, and what is printed to standard output."""
    return [
        [
            (output.output_type, *sorted(output.get("data", {})), output.text if output.get("name") == "stdout" else "")
            for output in cell.get("outputs", [])
        ]
        for cell in cells
    ]


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_shows_what_it_showed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "examples" / name
    monkeypatch.setenv("CARRY_PRECISION", "float32")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    saved, run = read(path), read(path)
    for cell in run.cells:
        cell.pop("outputs", None)
    client = NotebookClient(run, timeout=300, coalesce_streams=True, resources={"metadata": {"path": path.parent}})
    client.execute()
    assert shown(run.cells) == shown(saved.cells)
    assert sum("image/png" in kinds for outputs in shown(run.cells) for kinds in outputs) == PICTURES[name]

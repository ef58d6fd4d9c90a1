"""The notebook runs from top to bottom, and shows what it showed when it was saved."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import SHIPPED

NOTEBOOK = SHIPPED.parent / "examples/carry.ipynb"


def read() -> nbformat.NotebookNode:
    """The notebook as it was saved."""
    saved: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
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


def test_the_notebook_shows_what_it_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRY_PRECISION", "float32")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parent.parent), os.environ.get("PYTHONPATH", "")]))
    saved, run = read(), read()
    for cell in run.cells:
        cell.pop("outputs", None)
    client = NotebookClient(run, timeout=300, coalesce_streams=True, resources={"metadata": {"path": NOTEBOOK.parent}})
    client.execute()
    assert shown(run.cells) == shown(saved.cells)
    assert sum("image/png" in kinds for outputs in shown(run.cells) for kinds in outputs) == 3

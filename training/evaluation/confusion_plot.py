"""Draws what a classifier took each class for."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from carry.plots import save_picture

MOST_NUMBERS = 12
"""Classes up to which the shares are written into the cells."""


def plot_confusion(counts: NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw counts (C, C), a row for each true class, in shares of the row; write the counts as CSV beside the PNG."""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    size = min(12.0, 2.5 + 0.45 * len(classes))
    figure = Figure(figsize=(size + 0.5, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 60:
        # A name with two dollar signs is no formula.
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("truth")
    for i, j in np.argwhere(counts > 0) if len(classes) <= MOST_NUMBERS else ():
        colour = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, f"{shares[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, path)
    with path.with_suffix(".csv").open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["truth", *classes])
        lines.writerows([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))

"""Pictures of forecasts: the newest values of series, and the fan of quantiles that follows them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

TRUTH, MODEL, BASELINE = "#222222", "#c2410c", "#64748b"
"""Colours."""


@dataclass(frozen=True)
class ForecastPanel:
    """A history (T,), the truth after it (up to H values, perhaps none), and the quantile forecast (H, Q); times, where
    known, (T + H,) of both."""

    title: str
    history: NDArray[np.float64]
    truth: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    times: NDArray[np.datetime64] | None = None


def plot_forecasts(
    panels: Sequence[ForecastPanel], levels: Sequence[float], path: Path, keep_truth: bool, write_csv: bool = True
) -> None:
    """Draw forecasts with their quantile fan, a panel for each window, and write the numbers as CSV beside the picture.
    Without `keep_truth` the CSV holds no data values; without `write_csv` there is none."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(7.0, 4.2 * columns), 3 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    data: list[list[Any]] = []
    for i, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        steps = np.arange(1 - len(panel.history), len(panel.quantiles) + 1) if panel.times is None else panel.times
        past, ahead = steps[: len(panel.history)], steps[len(panel.history) :]
        axes.plot(past, panel.history, color=TRUTH, lw=1)
        draw_fan(axes, ahead, panel.quantiles, levels)
        if len(panel.truth):
            axes.plot(ahead[: len(panel.truth)], panel.truth, color=TRUTH, lw=1, ls="--", label="truth")
        if panel.times is None:
            axes.axvline(0.5, color=BASELINE, lw=0.5)
        axes.set_title(panel.title[:48], fontsize=9, parse_math=False)
        plain_axes(axes)
        name_steps(axes, steps, "steps ahead" if i + columns >= len(panels) else "")
        for step, quantiles in enumerate(panel.quantiles):
            truth = panel.truth[step] if keep_truth and step < len(panel.truth) else ""
            data.append([panel.title, step + 1, *([truth] if keep_truth else []), *map(short, quantiles)])
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    legend_above(figure, grid.flat[0])
    save_picture(figure, path)
    if write_csv:
        write_data(path, ["series", "step", *(["truth"] if keep_truth else []), *map(str, levels)], data)


SHADE = 0.16
"""The opacity of one band of a fan."""


def draw_fan(axes: Axes, x: NDArray[Any], quantiles: NDArray[np.float64], levels: Sequence[float]) -> None:
    """Draw the quantiles (N, Q) over x (N,): the median as a line, each central interval as a band. The legend names
    the widest band, the narrowest, and one between them."""
    count = len(levels)
    bands = count // 2
    for i in range(bands):
        axes.fill_between(x, quantiles[:, i], quantiles[:, count - 1 - i], color=MODEL, alpha=SHADE, lw=0)
    for i in sorted({0, bands // 2, bands - 1}) if bands else ():
        shade = 1 - (1 - SHADE) ** (i + 1)  # that of all bands over each other
        label = f"{100 * (levels[count - 1 - i] - levels[i]):.3g} %"
        axes.fill_between([], [], [], color=MODEL, alpha=shade, lw=0, label=label)
    axes.plot(x, quantiles[:, list(levels).index(0.5)], color=MODEL, lw=1.1, label="median")


def name_steps(axes: Axes, x: NDArray[Any], name: str) -> None:
    """Ticks of the horizontal axis that do not overlap: whole steps, under their `name`, or dates."""
    if np.issubdtype(x.dtype, np.datetime64):
        locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]  # matplotlib.dates has no types
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]  # as above
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel(name, fontsize=8)


def legend_above(figure: Figure, axes: Axes) -> None:
    """The legend of the axes above all of the figure, where it covers no line."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8)


def plain_axes(axes: Axes) -> None:
    """Leave out the frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def short(value: float) -> str:
    """A number with six significant digits."""
    return f"{value:.6g}"


def save_picture(figure: Figure, path: Path) -> None:
    """Write the picture, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def write_data(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write the numbers of a picture as CSV beside it."""
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)

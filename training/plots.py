"""Pictures of training and of test parts. Each writes its data as CSV beside the PNG, so that it can be drawn again."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

if TYPE_CHECKING:
    from training.loop import Epoch

TRUTH, MODEL, BASELINE = "#222222", "#c2410c", "#64748b"
Column = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True)
class ForecastPanel:
    """A history (T,), the truth after it (up to H values, perhaps none), and the quantile forecast (H, Q); times, where
    known, (T + H,) of both."""

    title: str
    history: NDArray[np.float64]
    truth: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    times: NDArray[np.datetime64] | None = None


def plot_losses(history: "Sequence[Epoch]", path: Path, unit: str) -> None:
    """Training and validation loss by epoch."""
    from training.loop import write_log  # needs PyTorch, which the other pictures do not

    figure, axes = _figure(7, 4)
    epochs = [line.epoch for line in history]
    axes.plot(epochs, [line.train_loss for line in history], color=BASELINE, label="training")
    axes.plot(epochs, [line.valid_loss for line in history], color=MODEL, label="validation")
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.legend(frameon=False)
    _save(figure, path)
    write_log(list(history), path.with_suffix(".csv"))


def plot_forecasts(
    panels: Sequence[ForecastPanel], levels: Sequence[float], path: Path, keep_truth: bool, data_too: bool = True
) -> None:
    """Forecasts with their quantile fan, a panel for each window. Without `keep_truth` the CSV holds no data values;
    without `data_too` there is none."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(7.0, 4.2 * columns), 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    data: list[list[Any]] = []
    for axes, panel in zip(grid.flat, panels, strict=False):
        steps = np.arange(-len(panel.history), len(panel.quantiles)) if panel.times is None else panel.times
        past, ahead = steps[: len(panel.history)], steps[len(panel.history) :]
        axes.plot(past, panel.history, color=TRUTH, lw=1)
        _fan(axes, ahead, panel.quantiles, levels)
        if len(panel.truth):
            axes.plot(ahead[: len(panel.truth)], panel.truth, color=TRUTH, lw=1, ls="--", label="truth")
        if panel.times is None:
            axes.axvline(-0.5, color=BASELINE, lw=0.5)
        axes.set_title(panel.title[:48], fontsize=9, parse_math=False)
        _quiet(axes)
        for step, quantiles in enumerate(panel.quantiles):
            truth = panel.truth[step] if keep_truth and step < len(panel.truth) else ""
            data.append([panel.title, step + 1, *([truth] if keep_truth else []), *map(_short, quantiles)])
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    grid.flat[0].legend(frameon=False, fontsize=8)
    _save(figure, path)
    if data_too:
        _write(path, ["series", "step", *(["truth"] if keep_truth else []), *map(str, levels)], data)


def plot_test_part(
    times: NDArray[Any] | None,
    truth: NDArray[np.float64],
    quantiles: NDArray[np.float64],
    levels: Sequence[float],
    path: Path,
    title: str,
    keep_truth: bool,
) -> None:
    """One-step forecasts (N, Q) and their fan over the truth (N,) of a test part."""
    figure, axes = _figure(10, 4)
    x = np.arange(len(truth)) if times is None else times
    _fan(axes, x, quantiles, levels)
    axes.plot(x, truth, color=TRUTH, lw=0.9, label="truth")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.legend(frameon=False)
    _save(figure, path)
    labels = x if times is None else np.datetime_as_string(times, unit="auto")
    data = [
        [label, *([value] if keep_truth else []), *map(_short, row)]
        for label, value, row in zip(labels, truth, quantiles, strict=True)
    ]
    _write(path, ["time", *(["truth"] if keep_truth else []), *map(str, levels)], data)


def plot_heatmap(pieces: Sequence[str], candidates: Sequence[Sequence[tuple[str, float]]], path: Path) -> None:
    """A line of text and, under each character (or word), what the model expected there: the darker, the more probable.

    candidates[i]: the most probable pieces at position i, given those before it, best first. The one that really came
    is framed.
    """
    depth = max(len(column) for column in candidates)
    longest = max(map(len, [*pieces, *(piece for column in candidates for piece, _ in column)]))
    width = 0.26 if longest == 1 else 0.1 * longest + 0.1
    figure = Figure(figsize=(width * len(pieces) + 0.6, 0.3 * (depth + 1) + 0.6), layout="constrained")
    axes = figure.subplots()
    shades = np.zeros((depth, len(pieces)))
    for i, column in enumerate(candidates):
        axes.text(i, -1, _visible(pieces[i]), ha="center", va="center", family="monospace", weight="bold")
        for j, (piece, probability) in enumerate(column):
            shades[j, i] = probability
            colour = "white" if probability > 0.55 else "black"
            axes.text(i, j, _visible(piece), ha="center", va="center", color=colour, family="monospace", fontsize=8)
            if piece == pieces[i]:
                corner = (i - 0.5, j - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=MODEL, lw=1.5))
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_ylim(depth - 0.5, -1.6)
    axes.set_axis_off()
    _save(figure, path)
    data = [
        [i, pieces[i], rank + 1, piece, _short(probability)]
        for i, column in enumerate(candidates)
        for rank, (piece, probability) in enumerate(column)
    ]
    _write(path, ["position", "character", "rank", "candidate", "probability"], data)


def _visible(piece: str) -> str:
    """A sign for white space, and an empty box where the font has no picture of a character."""
    font = get_font(findfont("monospace"))
    shown = piece.translate({ord(" "): "\u2423", ord("\n"): "\u21b5", ord("\t"): "\u21e5"})
    return "".join(one if font.get_char_index(ord(one)) else "\u25a1" for one in shown)


def _fan(axes: Axes, x: NDArray[Any], quantiles: NDArray[np.float64], levels: Sequence[float]) -> None:
    count = len(levels)
    for i in range(count // 2):
        label = f"{round(100 * (levels[count - 1 - i] - levels[i]))} %" if i == 0 else None
        axes.fill_between(x, quantiles[:, i], quantiles[:, count - 1 - i], color=MODEL, alpha=0.16, lw=0, label=label)
    axes.plot(x, quantiles[:, list(levels).index(0.5)], color=MODEL, lw=1.1, label="median")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _quiet(axes)
    return figure, axes


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _short(value: float) -> str:
    return f"{value:.6g}"


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

"""Pictures of training and of test parts. Each function writes its numbers as CSV beside the PNG, so that anyone can
draw the picture again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from carry.plots import (
    BASELINE,
    MODEL,
    TRUTH,
    draw_fan,
    legend_above,
    name_steps,
    plain_axes,
    save_picture,
    short,
    write_data,
)
from training.loop import Epoch, write_log


def plot_losses(history: Sequence[Epoch], path: Path, unit: str) -> None:
    """Draw the training loss by epoch and, if something is held out for it, the validation loss."""
    figure, axes = _figure(7, 4)
    epochs = [line.epoch for line in history]
    marker = "." if len(history) < 20 else ""  # a single epoch is a point
    axes.plot(epochs, [line.train_loss for line in history], color=BASELINE, marker=marker, label="training")
    validated = [line for line in history if line.valid_loss is not None]
    if validated:
        x, y = [line.epoch for line in validated], [line.valid_loss or 0.0 for line in validated]
        axes.plot(x, y, color=MODEL, marker=marker, label="validation")
    axes.set_ylabel(unit)
    name_steps(axes, np.array(epochs), "epoch")
    legend_above(figure, axes)
    save_picture(figure, path)
    write_log(list(history), path.with_suffix(".csv"))


def plot_test_part(
    times: NDArray[Any] | None,
    truth: NDArray[np.float64],
    quantiles: NDArray[np.float64],
    levels: Sequence[float],
    path: Path,
    title: str,
    keep_truth: bool,
) -> None:
    """Draw one-step forecasts (N, Q) as a fan over the truth (N,) of a test part."""
    figure, axes = _figure(10, 4)
    x = np.arange(len(truth)) if times is None else times
    few = len(truth) <= 100
    axes.plot(x, truth, color=TRUTH, lw=0.9, ls="--" if few else "-", marker="." if few else "", label="truth")
    draw_fan(axes, x, quantiles, levels)
    axes.set_title(title, fontsize=10, parse_math=False, loc="left")
    name_steps(axes, x, "steps of the test part")
    legend_above(figure, axes)
    save_picture(figure, path)
    labels = x if times is None else np.datetime_as_string(times, unit="auto")
    data = [
        [label, *([value] if keep_truth else []), *map(short, row)]
        for label, value, row in zip(labels, truth, quantiles, strict=True)
    ]
    write_data(path, ["time", *(["truth"] if keep_truth else []), *map(str, levels)], data)


def plot_heatmap(tokens: Sequence[str], candidates: Sequence[Sequence[tuple[str, float]]], path: Path) -> None:
    """Draw a line of text and, under each token, the tokens that the model expected there: the darker, the likelier;
    the token that came is framed.

    candidates[i]: the most probable tokens at position i, given those before it, with their probabilities, best first.
    """
    depth = max(len(column) for column in candidates)
    longest = max(map(len, [*tokens, *(token for column in candidates for token, _ in column)]))
    width = 0.26 if longest == 1 else 0.1 * longest + 0.1
    figure = Figure(figsize=(width * len(tokens) + 0.6, 0.3 * (depth + 1) + 0.6), layout="constrained")
    axes = figure.subplots()
    shades = np.zeros((depth, len(tokens)))
    for i, column in enumerate(candidates):
        axes.text(i, -1, _visible(tokens[i]), ha="center", va="center", family="monospace", weight="bold")
        for j, (token, probability) in enumerate(column):
            shades[j, i] = probability
            colour = "white" if probability > 0.55 else "black"
            axes.text(i, j, _visible(token), ha="center", va="center", color=colour, family="monospace", fontsize=8)
            if token == tokens[i]:
                corner = (i - 0.5, j - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=MODEL, lw=1.5))
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xlim(-0.6, len(tokens) - 0.4)  # frames at the edges are drawn whole
    axes.set_ylim(depth - 0.4, -1.6)
    axes.set_axis_off()
    save_picture(figure, path)
    data = [
        [i, tokens[i], rank + 1, token, short(probability)]
        for i, column in enumerate(candidates)
        for rank, (token, probability) in enumerate(column)
    ]
    write_data(path, ["position", "character", "rank", "candidate", "probability"], data)


def _visible(token: str) -> str:
    """The token with signs for white space, and an empty box for a character that the font lacks."""
    font = get_font(findfont("monospace"))
    shown = token.translate({ord(" "): "\u2423", ord("\n"): "\u21b5", ord("\t"): "\u21e5"})
    return "".join(character if font.get_char_index(ord(character)) else "\u25a1" for character in shown)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    return figure, axes

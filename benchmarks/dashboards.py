"""Draws the dashboards of deploy/grafana into docs/images, from their own queries: `python -m benchmarks.dashboards`.

It runs the service under traffic of all sorts and a real Prometheus, asks Prometheus each query of each panel of the
JSON, and draws the answers where the JSON puts the panels. Grafana is not needed, and these are not its pictures.
"""

import json
import math
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.dates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from tests.deploy.dashboards import COLUMNS, FOLDER
from tests.deploy.monitored import Prometheus, Traffic, prometheus, service
from tests.docs.blocks import ROOT

IMAGES = ROOT / "docs/images"
SECONDS = 150
"""Of traffic."""
STEP = 2
LEGENDS = 9
"""Series of a panel that are drawn, at most."""
VARIABLES = {"$__rate_interval": "20s", "$instance": ".*", "$model": ".*", "[1h]": "[1m]"}
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#e02f44", "#b877d9", "#3274d9", "#8f3bb8", "#37872d", "#c4162a")
DARK, CARD, TEXT, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"


def formatted(value: float, unit: str) -> str:
    """A number with its unit, as people read it."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    prefixes = ("", "k", "M", "G") if unit != "bytes" else ("", "Ki", "Mi", "Gi")
    base, i = 1024 if unit == "bytes" else 1000, 0
    while abs(value) >= base and i < 3:
        value, i = value / base, i + 1
    suffix = {"s": " s", "reqps": " req/s", "ops": " /s", "bytes": "B"}.get(unit, "")
    return f"{value:.3g}{' ' if unit == 'bytes' else ''}{prefixes[i]}{suffix}"


def series_of(
    panel: dict[str, Any], server: Prometheus, start: float, end: float
) -> list[tuple[str, Any, list[float]]]:
    """The legend, the times and the values of each series of a panel."""
    lines = []
    for target in panel["targets"]:
        expression = target["expr"]
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        for series in server.get("query_range", query=expression, start=start, end=end, step=STEP)["result"]:
            legend = target["legendFormat"]
            for name in re.findall(r"{{(\w+)}}", legend):
                legend = legend.replace(f"{{{{{name}}}}}", series["metric"].get(name, ""))
            times = [datetime.fromtimestamp(at, UTC) for at, _ in series["values"]]
            lines.append((legend, times, [float(value) for _, value in series["values"]]))
    return lines


def draw_panel(axes: Axes, panel: dict[str, Any], lines: list[tuple[str, Any, list[float]]]) -> None:
    """Draw a panel: of many series, the largest."""
    lines = sorted(lines, key=lambda line: -max((v for v in line[2] if math.isfinite(v)), default=0.0))[:LEGENDS]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_facecolor(CARD)
    axes.set_title(panel["title"], loc="left", color=TEXT, fontsize=9, fontweight="bold")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if panel["type"] == "stat":
        axes.set_xticks([])
        axes.set_yticks([])
        value = lines[0][2][-1]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
        style: dict[str, Any] = {
            "color": COLOURS[0] if colour == "green" else COLOURS[4],
            "ha": "center",
            "va": "center",
        }
        axes.text(0.5, 0.45, formatted(value, unit), fontsize=20, transform=axes.transAxes, **style)
        return
    if "stacking" in panel["fieldConfig"]["defaults"]["custom"] and lines:
        times = sorted({at for line in lines for at in line[1]})
        by_time = [dict(zip(at, values, strict=True)) for _, at, values in lines]
        stacked = [[values.get(at, 0.0) for at in times] for values in by_time]
        axes.stackplot(times, stacked, labels=[line[0] for line in lines], colors=COLOURS, alpha=0.5)
    else:
        for i, (legend, times, values) in enumerate(lines):
            axes.plot(times, values, label=legend, color=COLOURS[i % len(COLOURS)], linewidth=1.1)
    axes.set_ylim(bottom=0, top=1.35 * axes.get_ylim()[1])  # room for the legend
    axes.grid(color=GRID, linewidth=0.5)
    axes.tick_params(colors=TEXT, labelsize=7, length=0)
    axes.xaxis.set_major_locator(matplotlib.dates.SecondLocator([0, 30]))  # type: ignore[no-untyped-call]  # has no types
    axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]  # has no types
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, unit)))
    if any(legend for legend, _, _ in lines):
        axes.legend(fontsize=6, labelcolor=TEXT, frameon=False, loc="upper left", ncols=3, columnspacing=1)


def draw(file: Path, server: Prometheus, start: float, end: float) -> Path:
    """Draw a dashboard."""
    board = json.loads(file.read_text())
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = plt.figure(figsize=(15, height * 0.34), facecolor=DARK)
    grid = figure.add_gridspec(height, COLUMNS, left=0.045, right=0.99, top=0.965, bottom=0.02, wspace=2.2, hspace=1.6)
    figure.text(0.01, 0.985, board["title"], color=TEXT, fontsize=14, fontweight="bold", va="center")
    for panel in board["panels"]:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        if panel["type"] == "row":
            axes = figure.add_subplot(grid[y : y + h, x : x + w])
            axes.axis("off")
            axes.text(-0.03, 0.5, panel["title"], color=TEXT, fontsize=11, va="center", transform=axes.transAxes)
        else:
            axes = figure.add_subplot(grid[y + 1 : y + h, x : x + w])
            draw_panel(axes, panel, series_of(panel, server, start, end))
    image = IMAGES / f"dashboard-{file.stem}.png"
    figure.savefig(image, dpi=80)
    plt.close(figure)
    return image


def main() -> None:
    """Draw all dashboards."""
    matplotlib.use("agg")
    with (
        tempfile.TemporaryDirectory() as name,
        service(None) as (running, metrics_port),
        prometheus(f"127.0.0.1:{metrics_port}", Path(name)) as server,
        Traffic(running.url, pause=0.1) as traffic,
    ):
        start = time.time()
        while time.time() < start + SECONDS:
            traffic.check()
            time.sleep(1.0)
        for file in sorted(FOLDER.glob("*.json")):
            sys.stdout.write(f"{draw(file, server, start, start + SECONDS)}\n")


if __name__ == "__main__":
    main()

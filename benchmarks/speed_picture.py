"""Draws docs/images/speed.png, the picture of README.md, from benchmarks/results/results.json: characters per second of
each server at one number of clients. `python -m benchmarks.speed_picture`. Measures nothing."""

from pathlib import Path

import orjson
from matplotlib.figure import Figure

from benchmarks.report import RESULTS

CLIENTS = 32
PICTURE = Path(__file__).parents[1] / "docs/images/speed.png"
SERVERS = {
    "carry": "Carry",
    "static": "FastAPI and ONNX Runtime, static batches",
    "litserve-2": "LitServe, two workers",
    "bentoml": "BentoML, adaptive batching",
    "litserve": "LitServe, its batching",
    "onnx_loop": "FastAPI and ONNX Runtime, one at a time",
    "torch": "FastAPI and PyTorch, one at a time",
}
"""The servers to show, as results.json and as the picture calls them."""


def main() -> None:
    """Draw the picture."""
    results = orjson.loads((RESULTS / "results.json").read_bytes())
    rates = {
        SERVERS[row["server"]]: row["throughput"]
        for row in results["measurements"]
        if row["work"] == "generate" and row["clients"] == CLIENTS and row["server"] in SERVERS
    }
    names = sorted(rates, key=rates.__getitem__)
    figure = Figure(figsize=(9, 3), layout="constrained")
    panel = figure.subplots()
    colors = ["#1565c0" if name == "Carry" else "#9e9e9e" for name in names]
    bars = panel.barh(names, [rates[name] for name in names], color=colors)
    panel.bar_label(bars, [f"{rates[name]:,.0f}" for name in names], padding=4)
    panel.set_title(f"Characters written per second for {CLIENTS} clients", loc="left", fontsize=11)
    panel.set_xlim(0, 1.12 * max(rates.values()))
    panel.xaxis.set_visible(False)
    panel.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()

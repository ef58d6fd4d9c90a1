"""Tables, ratios, results.json and the figure."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.measurements import Result

RESULTS = Path(__file__).parent / "results"
_PICTURES = Path(__file__).parents[1] / "docs/images"
_PACKAGES = ("fastapi", "numpy", "onnxruntime", "torch", "uvicorn", "uvloop")
_OTHERS_CORES = 0.15
_PEERS = ("litserve", "bentoml")
_BATCHING = ("litserve", "litserve-2", "bentoml")


def line(result: Result) -> str:
    """One measurement on one line, as it comes."""
    notes = f"  {result.failures} FAILURES" if result.failures else ""
    if result.others_cores is not None and result.others_cores > _OTHERS_CORES:
        notes += f"  OTHER PROCESSES used {result.others_cores:.1f} cores meanwhile"
    return (
        f"{result.server:10} {result.work:20} {result.clients:4} clients  {result.throughput:10.1f}/s"
        f"  {result.answers:6} answers{notes}"
    )


def write(
    console: Console, results: Sequence[Result], checks: dict[str, dict[str, Any]], seconds: float, name: str
) -> None:
    """Everything: to the terminal, as <name>.json to the folder of results, and a picture."""
    ratios = compare(results, checks)
    RESULTS.mkdir(exist_ok=True)
    content = {
        "machine": machine(),
        "window_seconds": seconds,
        "measurements": [result.figures() for result in results],
        "identical_answers": checks,
        "ratios": ratios,
    }
    (RESULTS / f"{name}.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    picture(results, picture_path(name))
    text = "\n\n".join(tables(results, checks, ratios))
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def picture_path(name: str) -> Path:
    """Where the picture of a run goes: that of a whole run to the papers, that of a part beside its figures."""
    return (RESULTS if name.startswith("partial") else _PICTURES) / f"{name}.png"


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu = "unknown"
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [row for row in information.read_text().splitlines() if row.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    for peer in _PEERS:
        pinned = (Path(__file__).parent / "peers" / f"requirements-{peer}.txt").read_text().splitlines()
        versions[peer] = next(row.split("==")[1] for row in pinned if row.startswith(f"{peer}=="))
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "cpu": cpu, "python": platform.python_version(), "versions": versions}


def compare(results: Sequence[Result], checks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The ratios that are asked for: name, target, measured, met; None where a part was not measured."""

    def figure(server: str, work: str, clients: int, name: str = "throughput") -> float | None:
        for result in results:
            if (result.server, result.work, result.clients) == (server, work, clients):
                value: float | None = getattr(result, name)
                return value
        return None

    def quotient(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    def generated(server: str, clients: int) -> float | None:
        return figure(server, "generate", clients)

    rows: list[tuple[str, str, float, float | None]] = []
    for clients in (8, 32):
        ours = generated("carry", clients)
        batching = [rate for peer in _BATCHING if (rate := generated(peer, clients))]
        at = f"at {clients} clients"
        rows += [
            (f"characters/s, carry / torch, {at}", ">=", 50, quotient(ours, generated("torch", clients))),
            (f"characters/s, carry / onnx_loop, {at}", ">=", 10, quotient(ours, generated("onnx_loop", clients))),
            (
                f"characters/s, carry / best of litserve, bentoml, {at}",
                ">=",
                4,
                quotient(ours, max(batching, default=0)),
            ),
        ]
    for work, clients_do in (("stream_pausing", "pause at random"), ("stream", "never pause")):
        first = quotient(figure("carry", work, 32, "first_p99"), figure("static", work, 32, "first_p99"))
        rows.append((f"first character p99, carry / static, 32 clients that {clients_do}", "<=", 0.25, first))
    for one in ("carry-core", "carry-1"):
        ratio = quotient(generated("carry", 32), generated(one, 32))
        rows.append((f"characters/s, carry / {one}, at 32 clients", ">=", 1.7, ratio))
    rows += [
        (
            "between characters p99, carry with / without the long reader",
            "<=",
            2,
            quotient(figure("carry", "stream_beside_reader", 32, "gap_p99"), figure("carry", "stream", 32, "gap_p99")),
        ),
    ]
    for clients, target in ((1, 3), (32, 12)):
        forecasts = quotient(figure("carry", "forecast", clients), figure("torch", "forecast", clients))
        rows.append((f"forecasts/s, carry / torch, at {clients} clients", ">=", target, forecasts))
    batches = figure("carry", "forecast_batch", 8)
    for clients in (1, 32):
        singles = figure("carry", "forecast_single", clients)
        rows.append(
            (
                f"series/s, carry, batch calls / single calls from {clients} clients",
                ">=",
                10,
                quotient(batches, singles),
            )
        )
    for server, check in checks.items():
        name = f"different answers of {check['requests']}, {server}, alone and at {check['clients']} clients"
        rows.append((name, "<=", 0, float(check["differences"] + check["failures"])))
    return [
        {"name": name, "target": f"{relation} {target:g}", "measured": value, "met": _met(relation, target, value)}
        for name, relation, target, value in rows
    ]


def _met(relation: str, target: float, value: float | None) -> bool | None:
    if value is None:
        return None
    return value >= target if relation == ">=" else value <= target


def tables(results: Sequence[Result], checks: dict[str, dict[str, Any]], ratios: Sequence[dict[str, Any]]) -> list[str]:
    """All tables, in Markdown. Times in milliseconds."""
    rate_head = ["server", "clients", "per s", "p50 ms", "p99 ms", "CPU s/1000", "peak MiB", "answers", "failures"]
    found = []
    for work, unit in (
        ("generate", "Texts of 200 characters"),
        ("forecast", "Forecasts"),
        ("forecast_batch", "Series in calls of many"),
        ("forecast_single", "Series in a call each"),
    ):
        rows = [
            [
                result.server,
                result.clients,
                _number(result.throughput),
                _number(result.latency_p50),
                _number(result.latency_p99),
                _number(result.cpu_seconds_per_1000),
                _number(result.peak_mib),
                result.answers,
                result.failures,
            ]
            for result in results
            if result.work == work
        ]
        found.append(_table(unit, rate_head, rows))
    head = ["server", "clients", "per s", "first p50 ms", "p99", "between p50 ms", "p99", "longest", "per char p50 ms"]
    head += ["p99", "CPU s/1000", "peak MiB", "long prompts", "answers", "failures"]
    rows = [
        [
            result.server,
            _STREAMS[result.work],
            _number(result.throughput),
            _number(result.first_p50),
            _number(result.first_p99),
            _number(result.gap_p50),
            _number(result.gap_p99),
            _number(result.gap_longest),
            _number(result.gap_per_character_p50),
            _number(result.gap_per_character_p99),
            _number(result.cpu_seconds_per_1000),
            _number(result.peak_mib),
            "-" if result.long_prompts_read is None else result.long_prompts_read,
            result.answers,
            result.failures,
        ]
        for result in results
        if result.work in _STREAMS
    ]
    found.append(
        _table("Streamed texts to 32 clients; reader: one more client sends prompts of 200,000 characters", head, rows)
    )
    rows = [[server, check["requests"], check["differences"], check["failures"]] for server, check in checks.items()]
    found.append(_table("The same request alone and under load", ["server", "requests", "different", "failures"], rows))
    rows = [[ratio["name"], ratio["target"], _number(ratio["measured"]), _VERDICTS[ratio["met"]]] for ratio in ratios]
    found.append(_table("Targets", ["what", "target", "measured", "met"], rows))
    return [table for table in found if table]


_STREAMS = {"stream_pausing": "pausing", "stream": "busy", "stream_beside_reader": "busy + reader"}
_VERDICTS = {True: "yes", False: "NO", None: "not measured"}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, its columns aligned; "" without rows."""
    if not rows:
        return ""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"### {title}", "", lines[0], rule, *lines[1:]])


def picture(results: Sequence[Result], path: Path) -> None:
    """Throughput by clients, one panel for texts and one for forecasts."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    servers = list(dict.fromkeys(result.server for result in results))
    for panel, work, unit in zip(panels, ("generate", "forecast"), ("characters", "forecasts"), strict=True):
        for i, server in enumerate(servers):
            points = [
                (r.clients, r.throughput) for r in results if (r.server, r.work) == (server, work) and r.throughput
            ]
            if points:
                width = 2.5 if server == "carry" else 1.2
                panel.plot(*zip(*points, strict=True), marker="o", color=f"C{i}", linewidth=width, label=server)
        if panel.lines:
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks([1, 8, 32, 128], ["1", "8", "32", "128"])
            panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        panel.set_xlabel("concurrent clients")
        panel.set_ylabel(f"{unit} per second")
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=130)

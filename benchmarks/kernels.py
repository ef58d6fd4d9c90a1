"""Times texts on one thread without HTTP: a step beside its bare products, the engine beside a bare loop.

`python -m benchmarks.kernels` prints tables and writes results/kernels.json. It measures the limits in the same run.
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from service.engine.decode import DecodeGraph
from service.engine.engine import Engine
from service.engine.runner import Array, Runner
from service.manifest import read_manifest
from service.metrics import Metrics
from service.text.decoder import TextDecoder
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams, controls, uniforms
from service.text.task import GenerateRequest, generate
from training.nets.text import TextModel
from training.onnx.architecture import TextArchitecture, architecture_of
from training.onnx.operations import CONTRIB, Builder
from training.onnx.text import decode_graph, text_graph
from training.onnx.weights import read_text_model

BATCHES = (1, 8, 16, 32, 64, 128)
RESULTS = Path(__file__).parent / "results"


def median_us(work: Callable[[], object], repeats: int = 7, calls: int = 40) -> float:
    """Median over repeats of the mean time of a call, microseconds."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - started) / calls)
    return 1e6 * statistics.median(times)


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """Open a graph on one thread, with the service's options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bare_products(network: TextModel) -> onnxruntime.InferenceSession:
    """Only the int8 matrix products of one step of an LSTM text model: the least time that a step can take. The
    embedding of the first layer needs none, as it is a table; the inputs of the others are as wide as their states."""
    g, rng = Builder(), np.random.default_rng(0)
    layers, hidden = len(network.recurrent.layers), network.recurrent.hidden
    features = 0 if network.ngrams is None else network.ngrams.width
    vocabulary = network.head.out_features
    shapes = [(hidden, 4 * hidden)] * (2 * layers - 1) + [(hidden, vocabulary)]
    shapes += [(features, 4 * hidden), (features, vocabulary)] if features else []
    inputs, outputs = [], []
    for i, shape in enumerate(shapes):
        weight = rng.integers(-127, 128, shape).astype(np.int8)
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.UINT8, ["B", shape[0]]))
        g.op("MatMulInteger", f"x{i}", g.const(weight), g.const(128, "uint8"), name=f"y{i}")
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.INT32, ["B", shape[1]]))
    graph = helper.make_graph(g.nodes, "products", inputs, outputs, g.constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    return open_session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def random_feeds(session: onnxruntime.InferenceSession, batch: int, steps: int) -> dict[str, Array]:
    """Random inputs and states of a text graph, or of bare products."""
    rng, feeds = np.random.default_rng(0), {}
    for port in session.get_inputs():
        shape = [{"B": batch, "T": steps, "N": steps}.get(size, size) for size in port.shape]
        if port.name in ("tokens", "recent"):
            feeds[port.name] = rng.integers(1, 60, shape)
        elif port.name == "lengths":
            feeds[port.name] = np.full(batch, steps)
        elif port.name == "per_step":
            feeds[port.name] = np.array(False)
        elif port.type == "tensor(uint8)":
            feeds[port.name] = rng.integers(1, 255, shape).astype(np.uint8)
        else:
            feeds[port.name] = rng.uniform(-1, 1, shape).astype(np.float32)
    return feeds


def decoding_feeds(session: onnxruntime.InferenceSession, batch: int, steps: int) -> dict[str, Array]:
    """Random inputs and states of a graph that decodes."""
    vocabulary = next(port.shape[1] for port in session.get_inputs() if port.name == "logits")
    feeds = random_feeds(session, batch, steps)
    feeds |= controls([SamplingParams(temperature=0.8)] * batch, vocabulary)
    feeds["uniforms"] = np.random.default_rng(0).random((steps, batch), dtype=np.float32)
    feeds["given_tokens"] = np.full((steps, batch), -1)
    feeds["seen"] = np.zeros((batch, vocabulary), dtype=bool)
    feeds["counts"] = np.zeros((batch, vocabulary), dtype=np.float32)
    return feeds


def decode_steps(network: TextModel) -> list[dict[str, float]]:
    """One step of a text model, in microseconds, by batch."""
    sessions = {p: open_session(text_graph(network, p).model.SerializeToString()) for p in ("float32", "int8")}
    decode = open_session(decode_graph(network, "int8").model.SerializeToString())
    products = bare_products(network)
    lines = []
    for batch in BATCHES:
        line: dict[str, float] = {"batch": batch}
        for name, session in {"products": products, **sessions}.items():
            feeds = random_feeds(session, batch, 1)
            line[name] = median_us(partial(session.run, None, feeds))
        steps = decoding_feeds(decode, batch, 8)
        line["int8, sampled, of 8"] = median_us(partial(decode.run, None, steps), calls=10) / 8
        line["int8 / products"] = line["int8"] / line["products"]
        line["sampled / products"] = line["int8, sampled, of 8"] / line["products"]
        lines.append(line)
    return lines


def step_ratios(steps: list[dict[str, float]], other_steps: list[dict[str, float]]) -> list[dict[str, float]]:
    """The time of a step over that of another model's step, by batch."""
    names = ("float32", "int8", "int8, sampled, of 8")
    return [
        {"batch": mine["batch"], **{name: mine[name] / theirs[name] for name in names}}
        for mine, theirs in zip(steps, other_steps, strict=True)
    ]


def operators(network: TextModel, batch: int, steps: int = 16) -> list[dict[str, float | str]]:
    """Where a step of the graph that decodes spends its time, by ONNX Runtime's profiler, which itself takes about a
    microsecond for each operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    calls = 100
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        model = decode_graph(network, "int8").model.SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds = decoding_feeds(session, batch, steps)
        for _ in range(calls):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, float] = {}
    counts: dict[str, int] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["args"]["op_name"]
            times[name] = times.get(name, 0.0) + event["dur"] / calls / steps
            counts[name] = counts.get(name, 0) + 1
    inside = {name: time for name, time in times.items() if name not in ("Scan", "If")}
    return [
        {"operator": name, "a step": round(counts[name] / calls / steps, 1), "us a step": time}
        for name, time in sorted(inside.items(), key=lambda item: -item[1])[:12]
    ]


def reading(network: TextModel) -> list[dict[str, float]]:
    """The time to read 256 characters, in microseconds per character, by batch."""
    sessions = {p: open_session(text_graph(network, p).model.SerializeToString()) for p in ("float32", "int8")}
    lines = []
    for batch in (1, 16):
        line: dict[str, float] = {"batch": batch}
        for name, session in sessions.items():
            feeds = random_feeds(session, batch, 256)
            work = median_us(partial(session.run, None, feeds), repeats=3, calls=2)
            line[name] = work / 256 / batch
        lines.append(line)
    return lines


def generation(folder: Path, clients: tuple[int, ...], length: int = 200) -> list[dict[str, float]]:
    """Characters per second of the engine with so many requests always running, and of a bare loop: the same step and
    sampling, a whole batch in lockstep, which no request joins or leaves."""
    manifest = read_manifest(folder, TextManifest)
    assert manifest.int8 is not None
    runner = Runner(folder, manifest.int8.graph, threads=1)
    assert manifest.int8.decode is not None
    decoding = DecodeGraph(Runner(folder, manifest.int8.decode, threads=1), TextDecoder(manifest.vocabulary))
    engine = Engine("text", runner, decoding, True, 10**9, Metrics().engine("text@1"))
    tokenizer, lines = manifest.tokenizer, []
    prompt = "What light through yonder window breaks? It is the"

    def submit(seed: int) -> Any:
        request = GenerateRequest(prompt, length, SamplingParams(temperature=0.8), seed)
        return engine.submit(generate(tokenizer, request)[1], request.cost_steps)

    def loop(batch: int) -> float:
        tokens = np.repeat(tokenizer.encode(prompt)[1][None], batch, axis=0)
        settings = controls([SamplingParams(temperature=0.8)] * batch, len(manifest.vocabulary))
        seeds, positions = np.arange(batch, dtype=np.uint64), np.arange(8)[:, None]
        settings["given_tokens"] = np.full((8, batch), -1)
        started = time.perf_counter()
        (logits,), states = runner.prefill(
            {"tokens": tokens}, np.full(batch, len(prompt)), runner.initial_states(batch), ["logits"]
        )
        states = decoding.runner.initial_states(batch) | states | {"logits": logits}
        for _ in range(length // 8):
            positions = positions + 8
            _, states = decoding.runner.run(
                {**settings, "uniforms": uniforms(seeds, positions), "given_tokens": np.full((8, batch), -1)},
                states,
                ["tokens"],
            )
        return batch * length / (time.perf_counter() - started)

    for count in clients:
        bare = statistics.median(loop(count) for _ in range(5))
        speeds = []
        for _ in range(5):
            started, answered = time.perf_counter(), 0
            running = [submit(seed) for seed in range(count)]
            while time.perf_counter() - started < 0.6:
                running.pop(0).result()
                answered += 1
                running.append(submit(answered))
            for future in running:
                future.result()
            speeds.append((answered + count) * length / (time.perf_counter() - started))
        engine_speed = statistics.median(speeds)
        lines.append(
            {"clients": count, "bare loop": bare, "engine": engine_speed, "loop / engine": bare / engine_speed}
        )
    engine.close()
    return lines


def generation_of_processes(folder: Path, processes: int, clients: int) -> list[dict[str, float]]:
    """Characters per second of several engines, each in a process with a share of the clients: the service's limit."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        share = (folder, (clients // processes,))
        results = pool.starmap(generation, [share] * processes)
    speed = sum(lines[0]["engine"] for lines in results)
    return [{"processes": processes, "clients": clients, "engines": speed}]


def described(network: TextModel) -> str:
    """The layers and the n-grams of a text model, in words."""
    facts = architecture_of(network)
    assert isinstance(facts, TextArchitecture)
    return f"{facts.cell.upper()} {facts.layers} x {facts.hidden}, n-grams to {facts.ngrams}"


def main() -> None:
    """Measure, print, write."""
    models = Path(__file__).parent.parent / "models"
    text, fast = (read_text_model(models / name / "1")[0] for name in ("text", "text-fast"))
    steps, fast_steps = decode_steps(text), decode_steps(fast)
    results: dict[str, Sequence[dict[str, Any]]] = {
        f"one step of text ({described(text)}), microseconds, one thread": steps,
        f"one step of text-fast ({described(fast)}), microseconds, one thread": fast_steps,
        "a step of text-fast, of one of text": step_ratios(fast_steps, steps),
        "operators of one step of 64 texts, text": operators(text, 64),
        "reading, text, microseconds per character": reading(text),
        "reading, text-fast, microseconds per character": reading(fast),
        "generating in one process, characters per second": generation(models / "text/1", (1, 8, 16, 32, 64)),
        "generating in two processes, characters per second": generation_of_processes(models / "text/1", 2, 32),
    }
    console = Console(width=140)
    for title, lines in results.items():
        table = Table(title=title)
        for name in lines[0]:
            table.add_column(name, justify="right")
        for line in lines:
            table.add_row(*(f"{x:,.4g}" if isinstance(x, float) else str(x) for x in line.values()))
        console.print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kernels.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

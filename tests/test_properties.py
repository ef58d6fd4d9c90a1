"""The four properties of every model: split invariance, batch invariance, reproducibility, agreement with PyTorch.

The tests run every cell, with random weights, and every shipped model on random input. Those of classifiers are in
classify/test_classify_properties.py.
"""

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from service.engine.runner import Array, Runner, States
from service.engine.scheduler import Scheduler
from service.forecast.manifest import ForecastManifest
from service.manifest import Manifest
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams
from service.text.task import GenerateRequest, generate
from tests.builders import character_model, forecaster, open_scheduler, run, write_model
from tests.conftest import SHIPPED
from training.nets.cells import CELLS, Cell
from training.nets.quantisation import round_matrices
from training.onnx.export import REFERENCE_FILE, TOLERANCE, check_agreement, difference, open_graph, reference
from training.onnx.forecast import forecast_graph
from training.onnx.layers import Precision
from training.onnx.text import text_graph

UNTRAINED = [f"{kind}-{cell}" for kind in ("causal", "standard", "text") for cell in CELLS] + [
    "ngrams-lstm",
    "ngrams-gru",
]
SHIPPED_MODELS = sorted(
    f"shipped-{path.parent.parent.name}"
    for path in SHIPPED.glob("*/1/manifest.json")
    if json.loads(path.read_text())["kind"] != "classify"
)
ALL = [f"{name}-{precision}" for name in (*UNTRAINED, *SHIPPED_MODELS) for precision in ("float32", "int8")]
TEXT_PREFIXES = ("text-", "ngrams-", "shipped-text", "shipped-shakespeare", "shipped-dates")
TEXT = [name for name in ALL if name.startswith(TEXT_PREFIXES)]

OpenModel = tuple[Manifest, Runner, Scheduler]


@cache
def open_model(name: str) -> OpenModel:
    """A model by its name in this module."""
    kind, rest = name.split("-", 1)
    rest, precision = rest.rsplit("-", 1)
    if kind == "shipped":
        folder = max((SHIPPED / rest).glob("[0-9]*"), key=lambda path: int(path.name))
    else:
        cell = CELLS[[str(known) for known in CELLS].index(rest)]
        ngrams = 4 if kind == "ngrams" else 0
        text = kind in ("text", "ngrams")
        network = character_model(cell, ngrams) if text else forecaster(cell, features=2, scaling=kind)
        folder = write_model(network, Path(mkdtemp()), "untrained")
    served_precision: Precision = "int8" if precision == "int8" else "float32"
    return open_scheduler(folder, served_precision)


def inputs(manifest: Manifest, rng: np.random.Generator, batch: int, steps: int) -> dict[str, Array]:
    """Random input: random walks at any level, with gaps; or any tokens, also unknown ones."""
    if isinstance(manifest, TextManifest):
        return {"tokens": rng.integers(0, len(manifest.vocabulary), (batch, steps))}
    assert isinstance(manifest, ForecastManifest)
    shape = (batch, steps, len(manifest.features))
    values = 10 ** rng.uniform(-1, 3) * (rng.normal(size=shape).cumsum(axis=1) + rng.normal())
    if manifest.known_ahead:
        values[..., -1] = rng.integers(0, 3, shape[:2])
    seen = rng.random(shape) < 0.9
    arrays: dict[str, Array] = {"values": np.where(seen, values, 0.0), "mask": seen.astype(np.float32)}
    for name, length in (("ahead", steps), ("future", manifest.horizon)) if manifest.known_ahead else ():
        arrays[name] = rng.integers(0, 3, (batch, length, 1)).astype(np.float64)
        arrays[f"{name}_mask"] = (rng.random((batch, length, 1)) < 0.9).astype(np.float32)
    return arrays


def part(arrays: dict[str, Array], rows: slice, steps: slice = slice(None)) -> dict[str, Array]:
    """Some rows and steps of inputs."""
    static = ("future", "future_mask")
    return {name: array[rows] if name in static else array[rows, steps] for name, array in arrays.items()}


def initial_states(manifest: Manifest, runner: Runner, batch: int) -> States:
    """Initial states; if the model takes seasons, a different season for each row."""
    states = runner.initial_states(batch)
    if isinstance(manifest, ForecastManifest) and manifest.longest_season:
        seasons = np.array([[12, 1], [1, 1], [4, 1], [7, 1], [24, 168], [2, 9]])
        return {**states, "season": seasons[np.arange(batch) % len(seasons)]}
    return states


def prefill(runner: Runner, arrays: dict[str, Array], name: str, states: States) -> tuple[Array, States]:
    """One output of inputs in one call, and the states after it."""
    batch, steps = next(iter(arrays.values())).shape[:2]
    (output,), states = runner.prefill(arrays, np.full(batch, steps), states, [name])
    return output, states


def output_name(manifest: Manifest) -> str:
    return "logits" if isinstance(manifest, TextManifest) else "quantiles"


def prefill_in_chunks(
    runner: Runner, arrays: dict[str, Array], name: str, states: States, steps: int, cuts: set[int]
) -> tuple[Array, States]:
    """The same in several calls; the output of the last."""
    output = np.empty(0)
    for start, end in itertools.pairwise(sorted({0, steps, *(cut for cut in cuts if cut < steps)})):
        output, states = prefill(runner, part(arrays, slice(None), slice(start, end)), name, states)
    return output, states


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 60), cuts=st.sets(st.integers(1, 59), max_size=5))
def test_input_in_chunks_gives_what_it_gives_in_one_call(name: str, seed: int, steps: int, cuts: set[int]) -> None:
    """Text to the bit, so that the scheduler may cut it anywhere; series to 1e-4 in float32, since running sums round
    differently, and to 1e-2 in int8, since a value between two whole numbers may round either way."""
    manifest, runner, _ = open_model(name)
    arrays = inputs(manifest, np.random.default_rng(seed), 1, steps)
    start = initial_states(manifest, runner, 1)
    whole, whole_states = prefill(runner, arrays, output_name(manifest), start)
    output, states = prefill_in_chunks(runner, arrays, output_name(manifest), start, steps, cuts)
    if isinstance(manifest, TextManifest):
        assert np.array_equal(output, whole)
        assert all(np.array_equal(states[key], state) for key, state in whole_states.items())
    elif name.endswith("float32"):
        assert_close(output, whole)
        for key, state in whole_states.items():
            assert_close(states[key], state)
    else:
        assert_close(output, whole, 1e-2)


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 64), steps=st.integers(1, 20))
def test_a_row_is_the_same_to_the_bit_alone_and_in_a_batch(name: str, seed: int, batch: int, steps: int) -> None:
    manifest, runner, _ = open_model(name)
    rng = np.random.default_rng(seed)
    arrays = inputs(manifest, rng, batch, steps)
    start = initial_states(manifest, runner, batch)
    together, together_states = prefill(runner, arrays, output_name(manifest), start)
    for row in {0, batch - 1, int(rng.integers(batch))}:
        row_start = {name: state[row : row + 1] for name, state in start.items()}
        alone, alone_states = prefill(runner, part(arrays, slice(row, row + 1)), output_name(manifest), row_start)
        assert np.array_equal(alone[0], together[row])
        for key, state in alone_states.items():
            assert np.array_equal(state[0], together_states[key][row])


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 12), steps=st.integers(1, 20))
def test_rows_of_other_lengths_do_not_change_a_row(name: str, seed: int, batch: int, steps: int) -> None:
    """Random numbers pad the shorter rows."""
    manifest, runner, _ = open_model(name)
    rng = np.random.default_rng(seed)
    arrays = inputs(manifest, rng, batch, steps)
    lengths = rng.integers(1, steps + 1, batch)
    names = [tensor.name for tensor in manifest.graph.outputs]
    start = initial_states(manifest, runner, batch)
    outputs, states = runner.prefill(arrays, lengths, start, names)
    for row, length in enumerate(lengths):
        row_input = part(arrays, slice(row, row + 1), slice(length))
        row_start = {name: state[row : row + 1] for name, state in start.items()}
        alone, alone_states = runner.prefill(row_input, np.array([length]), row_start, names)
        assert np.array_equal(outputs[0][row], alone[0][0])
        assert np.array_equal(outputs[1][row, :length], alone[1][0])
        for key, state in alone_states.items():
            assert np.array_equal(states[key][row], state[0])


@pytest.mark.parametrize("name", [name for name in ALL if name not in TEXT])
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 12))
def test_a_value_that_is_not_a_number_affects_only_its_row(name: str, seed: int, batch: int) -> None:
    manifest, runner, _ = open_model(name)
    arrays = inputs(manifest, np.random.default_rng(seed), batch, 9)
    start = initial_states(manifest, runner, batch)
    healthy, healthy_states = prefill(runner, arrays, "quantiles", start)
    arrays["values"][0, 4, 0], arrays["mask"][0, 4, 0] = np.nan, 1
    quantiles, states = prefill(runner, arrays, "quantiles", start)
    if name.startswith(("causal", "shipped-forecast", "shipped-stock")):
        assert not np.isfinite(quantiles[0]).all()  # with constant scaling, it may be forgotten
    assert np.array_equal(quantiles[1:], healthy[1:])
    assert all(np.array_equal(states[key][1:], state[1:]) for key, state in healthy_states.items())


@pytest.mark.parametrize("name", TEXT)
@given(
    seed=st.integers(0, 2**53),
    prompt=st.text("abc de\n", max_size=20),
    n=st.integers(1, 6),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
)
def test_a_seed_gives_the_same_texts_in_any_batch(
    name: str, seed: int, prompt: str, n: int, frequency_penalty: float
) -> None:
    request = GenerateRequest(prompt, 12, SamplingParams(frequency_penalty=frequency_penalty), seed)
    several = texts(name, replace(request, n=n))
    assert several == texts(name, replace(request, n=n))
    assert several[:1] == texts(name, request)


@pytest.mark.parametrize("name", TEXT)
@given(seed=st.integers(0, 2**53), prompt=st.text("abc de", min_size=1, max_size=9), first=st.integers(1, 11))
def test_a_text_in_two_calls_is_the_text_in_one(name: str, seed: int, prompt: str, first: int) -> None:
    params = SamplingParams(temperature=1.0, top_k=8)
    [whole] = texts(name, GenerateRequest(prompt, 12, params, seed))
    [rest] = texts(name, GenerateRequest(prompt + whole[:first], 12 - first, params, seed))
    assert whole[:first] + rest == whole


def texts(name: str, request: GenerateRequest) -> list[str]:
    manifest, _, scheduler = open_model(name)
    assert isinstance(manifest, TextManifest)
    rows, task = generate(manifest.tokenizer, request)
    run(scheduler, task)
    return ["".join(row.text) for row in rows]


@cache
def networks(cell: Cell) -> list[tuple[nn.Module, Runner]]:
    """Untrained networks with a cell, and their exported graphs, opened once."""
    causal, standard = forecaster(cell, 2), forecaster(cell, 2, "standard")
    texts = [character_model(cell), character_model(cell, ngrams=5)]
    for text in texts:
        round_matrices(text)
    graphs = [forecast_graph(causal), forecast_graph(standard), *map(text_graph, texts)]
    return list(zip([causal, standard, *texts], map(open_graph, graphs), strict=True))


@pytest.mark.parametrize("cell", CELLS)
@given(seed=st.integers(0, 2**32))
@example(seed=2163)  # at one step of the Elman network, two lags score the same
def test_the_exported_graph_agrees_with_pytorch(cell: Cell, seed: int) -> None:
    (causal, _), *_ = networks(cell)
    decided = reference(causal, seed).decided
    assert decided.mean() > 0.8  # the steps that are compared: most of them
    for network, runner in networks(cell):
        assert difference(network, runner, seed) <= TOLERANCE


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_a_shipped_graph_agrees_with_its_pytorch_network(name: str) -> None:
    manifest, runner, _ = open_model(f"{name}-float32")
    folder = SHIPPED / manifest.name / str(manifest.version)
    with np.load(folder / REFERENCE_FILE) as saved:
        arrays = {tensor.name: saved[tensor.name] for tensor in manifest.graph.inputs if tensor.name in saved}
        names = [tensor.name for tensor in manifest.graph.outputs]
        batch, steps = next(iter(arrays.values())).shape[:2]
        outputs, _ = runner.prefill(arrays, np.full(batch, steps), runner.initial_states(batch), names)
        for saved_name, output in zip(names, outputs, strict=True):
            assert_close(output, saved[saved_name])


def test_a_graph_of_other_weights_does_not_pass_the_agreement_check() -> None:
    network = character_model()
    round_matrices(network)
    graph = text_graph(network)
    with torch.no_grad():
        network.head.bias.add_(0.01)
    with pytest.raises(Exception, match="differs from PyTorch"):
        check_agreement(network, graph)


def assert_close(actual: Array, expected: Array, tolerance: float = 1e-4) -> None:
    """Equal up to a share of the largest number."""
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * size)

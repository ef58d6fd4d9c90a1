"""The four properties of every model: split invariance, batch invariance, reproducibility, agreement with PyTorch.

Over every cell (with random weights) and every model that Carry ships, on random input.
"""

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.runner import Array, Runner, States
from service.engine.scheduler import Scheduler
from service.forecast.manifest import ForecastManifest
from service.manifest import Manifest
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams
from service.text.task import GenerateRequest, generate
from tests.builders import character_model, forecaster, open_scheduler, run, write_model
from tests.conftest import SHIPPED
from training.nets.cells import CELLS
from training.nets.quantisation import round_matrices
from training.onnx.export import REFERENCE_FILE, check_agreement
from training.onnx.forecast import forecast_graph
from training.onnx.layers import Precision
from training.onnx.text import text_graph

MADE = [f"{kind}-{cell}" for kind in ("causal", "standard", "text") for cell in CELLS] + ["ngrams-lstm", "ngrams-gru"]
SHIPPED_MODELS = sorted(f"shipped-{path.parent.parent.name}" for path in SHIPPED.glob("*/1/manifest.json"))
EVERY = [f"{name}-{precision}" for name in (*MADE, *SHIPPED_MODELS) for precision in ("float32", "int8")]
OF_TEXT = ("text-", "ngrams-", "shipped-text", "shipped-shakespeare")
TEXT = [name for name in EVERY if name.startswith(OF_TEXT)]

Opened = tuple[Manifest, Runner, Scheduler]


@cache
def opened(name: str) -> Opened:
    """A model by its name here."""
    kind, rest = name.split("-", 1)
    rest, precision = rest.rsplit("-", 1)
    if kind == "shipped":
        folder = max((SHIPPED / rest).glob("[0-9]*"), key=lambda path: int(path.name))
    else:
        cell = CELLS[[str(known) for known in CELLS].index(rest)]
        ngrams = 4 if kind == "ngrams" else 0
        text = kind in ("text", "ngrams")
        network = character_model(cell, ngrams) if text else forecaster(cell, features=2, scaling=kind)
        folder = write_model(network, Path(mkdtemp()), "made")
    served: Precision = "int8" if precision == "int8" else "float32"
    return open_scheduler(folder, served)


def inputs(manifest: Manifest, rng: np.random.Generator, batch: int, steps: int) -> dict[str, Array]:
    """Random input: walks at any level, with gaps; or any tokens, unknown ones too."""
    if isinstance(manifest, TextManifest):
        return {"tokens": rng.integers(0, len(manifest.vocabulary), (batch, steps))}
    assert isinstance(manifest, ForecastManifest)
    shape = (batch, steps, len(manifest.features))
    values = 10 ** rng.uniform(-1, 3) * (rng.normal(size=shape).cumsum(axis=1) + rng.normal())
    if manifest.known_ahead:
        values[..., -1] = rng.integers(0, 3, shape[:2])
    seen = rng.random(shape) < 0.9
    given: dict[str, Array] = {"values": np.where(seen, values, 0.0), "mask": seen.astype(np.float32)}
    for name, length in (("ahead", steps), ("future", manifest.horizon)) if manifest.known_ahead else ():
        given[name] = rng.integers(0, 3, (batch, length, 1)).astype(np.float64)
        given[f"{name}_mask"] = (rng.random((batch, length, 1)) < 0.9).astype(np.float32)
    return given


def part(given: dict[str, Array], rows: slice, steps: slice = slice(None)) -> dict[str, Array]:
    """Of some rows some steps."""
    whole = ("future", "future_mask")
    return {name: array[rows] if name in whole else array[rows, steps] for name, array in given.items()}


def fresh(manifest: Manifest, runner: Runner, batch: int) -> States:
    """New sequences; of a model that takes seasons, each of another one."""
    states = runner.initial_states(batch)
    if isinstance(manifest, ForecastManifest) and manifest.longest_season:
        seasons = np.array([[12, 1], [1, 1], [4, 1], [7, 1], [24, 168], [2, 9]])
        return {**states, "season": seasons[np.arange(batch) % len(seasons)]}
    return states


def step(runner: Runner, given: dict[str, Array], output: str, states: States) -> tuple[Array, States]:
    """All of it at once: the output and the state."""
    batch, steps = next(iter(given.values())).shape[:2]
    (found,), after = runner.prefill(given, np.full(batch, steps), states, [output])
    return found, after


def output_of(manifest: Manifest) -> str:
    return "logits" if isinstance(manifest, TextManifest) else "quantiles"


def pieces(
    runner: Runner, given: dict[str, Array], output: str, states: States, steps: int, cuts: set[int]
) -> tuple[Array, States]:
    """The same, cut into pieces."""
    found = np.empty(0)
    for start, end in itertools.pairwise(sorted({0, steps, *(cut for cut in cuts if cut < steps)})):
        found, states = step(runner, part(given, slice(None), slice(start, end)), output, states)
    return found, states


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 60), cuts=st.sets(st.integers(1, 59), max_size=5))
def test_pieces_give_what_the_whole_gives(name: str, seed: int, steps: int, cuts: set[int]) -> None:
    """Text to the bit, which lets the scheduler cut it as it likes; series to 1e-4 in float32, whose running sums round
    differently. In int8 a value on the edge between two whole numbers may fall either way: 1e-2."""
    manifest, runner, _ = opened(name)
    given = inputs(manifest, np.random.default_rng(seed), 1, steps)
    start = fresh(manifest, runner, 1)
    whole, whole_states = step(runner, given, output_of(manifest), start)
    found, states = pieces(runner, given, output_of(manifest), start, steps, cuts)
    if isinstance(manifest, TextManifest):
        assert np.array_equal(found, whole)
        assert all(np.array_equal(states[key], state) for key, state in whole_states.items())
    elif name.endswith("float32"):
        assert_close(found, whole)
        for key, state in whole_states.items():
            assert_close(states[key], state)
    else:
        assert_close(found, whole, 1e-2)


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 64), steps=st.integers(1, 20))
def test_a_row_is_the_same_to_the_bit_alone_and_in_a_batch(name: str, seed: int, batch: int, steps: int) -> None:
    manifest, runner, _ = opened(name)
    rng = np.random.default_rng(seed)
    given = inputs(manifest, rng, batch, steps)
    start = fresh(manifest, runner, batch)
    together, together_states = step(runner, given, output_of(manifest), start)
    for row in {0, batch - 1, int(rng.integers(batch))}:
        own = {name: state[row : row + 1] for name, state in start.items()}
        alone, alone_states = step(runner, part(given, slice(row, row + 1)), output_of(manifest), own)
        assert np.array_equal(alone[0], together[row])
        for key, state in alone_states.items():
            assert np.array_equal(state[0], together_states[key][row])


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 12), steps=st.integers(1, 20))
def test_rows_of_other_lengths_change_no_bit(name: str, seed: int, batch: int, steps: int) -> None:
    """Rows of different lengths in one call of the graph, padded with other numbers."""
    manifest, runner, _ = opened(name)
    rng = np.random.default_rng(seed)
    given = inputs(manifest, rng, batch, steps)
    lengths = rng.integers(1, steps + 1, batch)
    names = [tensor.name for tensor in manifest.graph.outputs]
    start = fresh(manifest, runner, batch)
    found, states = runner.prefill(given, lengths, start, names)
    for row, length in enumerate(lengths):
        one = part(given, slice(row, row + 1), slice(length))
        own = {name: state[row : row + 1] for name, state in start.items()}
        alone, alone_states = runner.prefill(one, np.array([length]), own, names)
        assert np.array_equal(found[0][row], alone[0][0])
        assert np.array_equal(found[1][row, :length], alone[1][0])
        for key, state in alone_states.items():
            assert np.array_equal(states[key][row], state[0])


@pytest.mark.parametrize("name", [name for name in EVERY if name not in TEXT])
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 12))
def test_what_is_not_a_number_stays_in_its_row(name: str, seed: int, batch: int) -> None:
    manifest, runner, _ = opened(name)
    given = inputs(manifest, np.random.default_rng(seed), batch, 9)
    start = fresh(manifest, runner, batch)
    healthy, healthy_states = step(runner, given, "quantiles", start)
    given["values"][0, 4, 0], given["mask"][0, 4, 0] = np.nan, 1
    found, states = step(runner, given, "quantiles", start)
    if name.startswith(("causal", "shipped-forecast", "shipped-stock")):
        assert not np.isfinite(found[0]).all()  # so that its caller is told; a constant scaling forgets it
    assert np.array_equal(found[1:], healthy[1:])
    assert all(np.array_equal(states[key][1:], state[1:]) for key, state in healthy_states.items())


@pytest.mark.parametrize("name", TEXT)
@given(
    seed=st.integers(0, 2**53),
    prompt=st.text("abc de\n", max_size=20),
    n=st.integers(1, 6),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
)
def test_a_seed_gives_the_same_texts_in_any_company(
    name: str, seed: int, prompt: str, n: int, frequency_penalty: float
) -> None:
    one = GenerateRequest(prompt, 12, SamplingParams(frequency_penalty=frequency_penalty), seed)
    several = texts(name, replace(one, n=n))
    assert several == texts(name, replace(one, n=n))
    assert several[:1] == texts(name, one)


@pytest.mark.parametrize("name", TEXT)
@given(seed=st.integers(0, 2**53), prompt=st.text("abc de", min_size=1, max_size=9), first=st.integers(1, 11))
def test_a_text_split_over_two_calls_is_the_same_text(name: str, seed: int, prompt: str, first: int) -> None:
    params = SamplingParams(temperature=1.0, top_k=8)
    [whole] = texts(name, GenerateRequest(prompt, 12, params, seed))
    [rest] = texts(name, GenerateRequest(prompt + whole[:first], 12 - first, params, seed))
    assert whole[:first] + rest == whole


def texts(name: str, request: GenerateRequest) -> list[str]:
    manifest, _, scheduler = opened(name)
    assert isinstance(manifest, TextManifest)
    rows, task = generate(manifest.tokenizer, request)
    run(scheduler, task)
    return ["".join(row.text) for row in rows]


@pytest.mark.parametrize("cell", CELLS)
@given(seed=st.integers(0, 2**32))
def test_the_exported_graph_agrees_with_pytorch(cell: str, seed: int) -> None:
    known = CELLS[[str(c) for c in CELLS].index(cell)]
    causal, standard = forecaster(known, 2), forecaster(known, 2, "standard")
    assert check_agreement(causal, forecast_graph(causal), seed) <= 1e-4
    assert check_agreement(standard, forecast_graph(standard), seed) <= 1e-4
    for text in (character_model(known), character_model(known, ngrams=5)):
        round_matrices(text)
        assert check_agreement(text, text_graph(text), seed) <= 1e-4


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_a_shipped_graph_agrees_with_the_pytorch_network_it_came_from(name: str) -> None:
    manifest, runner, _ = opened(f"{name}-float32")
    folder = SHIPPED / manifest.name / str(manifest.version)
    with np.load(folder / REFERENCE_FILE) as saved:
        given = {tensor.name: saved[tensor.name] for tensor in manifest.graph.inputs if tensor.name in saved}
        names = [tensor.name for tensor in manifest.graph.outputs]
        batch, steps = next(iter(given.values())).shape[:2]
        found, _ = runner.prefill(given, np.full(batch, steps), runner.initial_states(batch), names)
        for output, array in zip(names, found, strict=True):
            assert_close(array, saved[output])


def test_a_graph_of_other_weights_does_not_pass_the_agreement_check() -> None:
    network = character_model()
    round_matrices(network)
    graph = text_graph(network)
    with torch.no_grad():
        network.head.bias.add_(0.01)
    with pytest.raises(Exception, match="differs from PyTorch"):
        check_agreement(network, graph)


def assert_close(found: Array, expected: Array, tolerance: float = 1e-4) -> None:
    """Equal to a share of the size of the numbers."""
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size)

"""The four properties of every model: split invariance, batch invariance, reproducibility, agreement with PyTorch.

Over every cell (with random weights) and every model that Carry ships, on random input.
"""

import itertools
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.runner import Array, Runner, States
from service.generation import GenerateRequest, generate
from service.manifest import ForecastManifest, TextManifest, read_manifest
from service.sampling import SamplingParams
from tests.builders import character_model, forecaster, write_model
from tests.conftest import SHIPPED
from training.cells import CELLS
from training.export import REFERENCE_FILE, check_agreement
from training.onnx_graph import forecast_graph, text_graph

MADE = [f"{kind}-{cell}" for kind in ("causal", "standard", "text") for cell in CELLS]
SHIPPED_MODELS = sorted(f"shipped-{path.parent.parent.name}" for path in SHIPPED.glob("*/1/manifest.json"))
EVERY = [*MADE, *SHIPPED_MODELS]
TEXT = [name for name in EVERY if name.startswith("text-") or name == "shipped-text"]

Opened = tuple[ForecastManifest | TextManifest, Runner]


@cache
def opened(name: str) -> Opened:
    """A model by its name here."""
    kind, _, rest = name.partition("-")
    if kind == "shipped":
        folder = max((SHIPPED / rest).glob("[0-9]*"), key=lambda path: int(path.name))
    else:
        cell = CELLS[[str(known) for known in CELLS].index(rest)]
        network = character_model(cell) if kind == "text" else forecaster(cell, features=2, scaling=kind)
        folder = write_model(network, Path(mkdtemp()), name)
    manifest = read_manifest(folder)
    return manifest, Runner(folder, manifest.graph, threads=1)


def inputs(
    manifest: ForecastManifest | TextManifest, rng: np.random.Generator, batch: int, steps: int
) -> dict[str, Array]:
    """Random input: walks at any level, with gaps; or any tokens, unknown ones too."""
    if isinstance(manifest, TextManifest):
        return {"tokens": rng.integers(0, len(manifest.vocabulary), (batch, steps))}
    shape = (batch, steps, len(manifest.features))
    values = 10 ** rng.uniform(-1, 3) * (rng.normal(size=shape).cumsum(axis=1) + rng.normal())
    seen = rng.random(shape) < 0.9
    return {"values": np.where(seen, values, 0.0), "mask": seen.astype(np.float32)}


def read(runner: Runner, manifest: ForecastManifest | TextManifest, given: dict[str, Array]) -> tuple[Array, States]:
    """All of it at once: the last output and the state."""
    names = ["logits"] if isinstance(manifest, TextManifest) else ["quantiles"]
    (found,), states = runner.step(given, runner.fresh(len(next(iter(given.values())))), names)
    return found, states


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 60), cuts=st.sets(st.integers(1, 59), max_size=5))
def test_pieces_give_what_the_whole_gives(name: str, seed: int, steps: int, cuts: set[int]) -> None:
    manifest, runner = opened(name)
    given = inputs(manifest, np.random.default_rng(seed), 1, steps)
    whole, whole_states = read(runner, manifest, given)
    states, found = runner.fresh(1), whole
    output = "logits" if isinstance(manifest, TextManifest) else "quantiles"
    for start, end in itertools.pairwise(sorted({0, steps, *(cut for cut in cuts if cut < steps)})):
        piece = {key: array[:, start:end] for key, array in given.items()}
        (found,), states = runner.step(piece, states, [output])
    assert_close(found, whole)
    for key, state in whole_states.items():
        assert_close(states[key], state)


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 64), steps=st.integers(1, 20))
def test_a_row_is_the_same_to_the_bit_alone_and_in_a_batch(name: str, seed: int, batch: int, steps: int) -> None:
    manifest, runner = opened(name)
    rng = np.random.default_rng(seed)
    given = inputs(manifest, rng, batch, steps)
    together, together_states = read(runner, manifest, given)
    for row in {0, batch - 1, int(rng.integers(batch))}:
        alone, alone_states = read(runner, manifest, {key: array[row : row + 1] for key, array in given.items()})
        assert np.array_equal(alone[0], together[row])
        for key, state in alone_states.items():
            assert np.array_equal(state[0], together_states[key][row])


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 15), others=st.integers(1, 8))
def test_rows_of_other_lengths_change_no_bit(name: str, seed: int, length: int, others: int) -> None:
    """Rows of different lengths in one call of the graph, padded with other numbers."""
    manifest, runner = opened(name)
    given = inputs(manifest, np.random.default_rng(seed), others + 1, 20)
    alone, alone_states = read(runner, manifest, {key: array[:1, :length] for key, array in given.items()})
    lengths = np.array([length, *[20] * others])
    session = runner._session
    names = ["logits" if isinstance(manifest, TextManifest) else "quantiles", *(s.output for s in manifest.graph.state)]
    found = session.run(names, {**given, "lengths": lengths, **runner.fresh(others + 1)})
    assert np.array_equal(found[0][0], alone[0])
    for state, array in zip(manifest.graph.state, found[1:], strict=True):
        assert np.array_equal(array[0], alone_states[state.name][0])


@pytest.mark.parametrize("name", TEXT)
@given(seed=st.integers(0, 2**53), prompt=st.text("abc de\n", max_size=20), n=st.integers(1, 6))
def test_a_seed_gives_the_same_texts_in_any_company(name: str, seed: int, prompt: str, n: int) -> None:
    manifest, runner = opened(name)
    assert isinstance(manifest, TextManifest)

    def texts(n: int) -> list[str]:
        request = GenerateRequest(prompt, 12, SamplingParams(temperature=1.0), seed, n=n)
        return [continuation.text for continuation in generate(runner, manifest, request)]

    assert texts(n) == texts(n)
    assert texts(1) == texts(n)[:1]


@pytest.mark.parametrize("name", TEXT)
@given(seed=st.integers(0, 2**53), prompt=st.text("abc de", min_size=1, max_size=9), first=st.integers(1, 11))
def test_a_text_split_over_two_calls_is_the_same_text(name: str, seed: int, prompt: str, first: int) -> None:
    manifest, runner = opened(name)
    assert isinstance(manifest, TextManifest)

    def text(prompt: str, length: int) -> str:
        request = GenerateRequest(prompt, length, SamplingParams(temperature=1.0, top_k=8), seed)
        return generate(runner, manifest, request)[0].text

    whole = text(prompt, 12)
    assert whole[:first] + text(prompt + whole[:first], 12 - first) == whole


@pytest.mark.parametrize("cell", CELLS)
@given(seed=st.integers(0, 2**32))
def test_the_exported_graph_agrees_with_pytorch(cell: str, seed: int) -> None:
    known = CELLS[[str(c) for c in CELLS].index(cell)]
    causal, standard, text = forecaster(known, 2), forecaster(known, 2, "standard"), character_model(known)
    assert check_agreement(causal, forecast_graph(causal), seed) <= 1e-4
    assert check_agreement(standard, forecast_graph(standard), seed) <= 1e-4
    assert check_agreement(text, text_graph(text), seed) <= 1e-4


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_a_shipped_graph_agrees_with_the_pytorch_network_it_came_from(name: str) -> None:
    manifest, runner = opened(name)
    folder = SHIPPED / manifest.name / str(manifest.version)
    with np.load(folder / REFERENCE_FILE) as saved:
        given = {tensor.name: saved[tensor.name] for tensor in manifest.graph.inputs if tensor.name != "lengths"}
        names = [tensor.name for tensor in manifest.graph.outputs]
        found, _ = runner.step(given, runner.fresh(len(next(iter(given.values())))), names)
        for output, array in zip(names, found, strict=True):
            assert_close(array, saved[output])


def test_a_graph_of_other_weights_does_not_pass_the_agreement_check() -> None:
    network = character_model()
    graph = text_graph(network)
    with torch.no_grad():
        network.head.bias.add_(0.01)
    with pytest.raises(Exception, match="differs from PyTorch"):
        check_agreement(network, graph)


def assert_close(found: Array, expected: Array) -> None:
    """Equal to 1e-4 of the size of the numbers."""
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * size)

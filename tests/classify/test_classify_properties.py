"""A classifier has the four properties of every model: a sequence may be cut anywhere, a row is the same in any batch,
what is random follows from a seed, and the graph agrees with PyTorch (`build_graphs` checks that for every folder).

The tests run every cell, with random weights, and the shipped classifiers on random input."""

import itertools
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.classify.manifest import ClassifyManifest
from service.engine.runner import Array, Runner, States
from service.manifest import read_manifest
from tests.classify.classifiers import classifier, write_classifier
from tests.conftest import SHIPPED
from training.nets.cells import CELLS
from training.onnx.export import REFERENCE_FILE, TOLERANCE

ALL = [
    f"{form}-{cell}-{precision}" for form in ("series", "text") for cell in CELLS for precision in ("float32", "int8")
]
SHIPPED_MODELS = ("control-charts", "languages")
ALL += [f"shipped-{name}-{precision}" for name in SHIPPED_MODELS for precision in ("float32", "int8")]
WHOLE = [f"{form}-{precision}" for form in ("series", "text") for precision in ("float32", "int8")]


@cache
def open_model(name: str, directions: int = 1) -> tuple[ClassifyManifest, Runner]:
    """A model by its name in this module."""
    form, *cells, precision = name.split("-")
    if form == "shipped":
        folder = SHIPPED / "-".join(cells) / "1"
    else:
        cell = CELLS[[str(known) for known in CELLS].index(cells[0])] if cells else "gru"
        network = classifier(cell, form == "text", directions=directions)
        folder = write_classifier(network, Path(mkdtemp()), "untrained")
    manifest = read_manifest(folder, ClassifyManifest)
    assert manifest.int8 is not None
    graph = manifest.graph if precision == "float32" else manifest.int8.graph
    return manifest, Runner(folder, graph, threads=1)


def inputs(manifest: ClassifyManifest, seed: int, batch: int, steps: int) -> dict[str, Array]:
    """Random series with gaps, or any tokens."""
    rng = np.random.default_rng(seed)
    if manifest.reads_text:
        return {"tokens": rng.integers(0, len(manifest.vocabulary), (batch, steps))}
    shape = (batch, steps, len(manifest.features))
    seen = rng.random(shape) < 0.9
    return {"values": np.where(seen, rng.normal(5, 4, shape), 0.0), "mask": seen.astype(np.float32)}


def scores(runner: Runner, arrays: dict[str, Array], lengths: Array, states: States) -> tuple[Array, States]:
    """The scores at each row's end, and the states after it."""
    [output], states = runner.prefill(arrays, lengths, states, ["logits"])
    return output, states


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 40), cuts=st.sets(st.integers(1, 39), max_size=5))
def test_a_sequence_in_pieces_has_the_bits_of_the_whole(name: str, seed: int, steps: int, cuts: set[int]) -> None:
    """The scores and the state, wherever it is cut; and the scores after every step are those of so many steps."""
    check_pieces(*open_model(name), seed, steps, cuts)


def check_pieces(manifest: ClassifyManifest, runner: Runner, seed: int, steps: int, cuts: set[int]) -> None:
    """Compare a sequence that is cut with the whole."""
    arrays = inputs(manifest, seed, 1, steps)
    whole, after = scores(runner, arrays, np.array([steps]), runner.initial_states(1))
    (every,), _ = runner.prefill(arrays, np.array([steps]), runner.initial_states(1), ["logits_all"])
    assert np.array_equal(every[:, -1], whole)
    states = runner.initial_states(1)
    for start, end in itertools.pairwise(sorted({0, steps, *(cut for cut in cuts if cut < steps)})):
        piece = {key: array[:, start:end] for key, array in arrays.items()}
        output, states = scores(runner, piece, np.array([end - start]), states)
        assert np.array_equal(every[:, end - 1], output)
    assert all(np.array_equal(states[key], state) for key, state in after.items())


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 20), min_size=2, max_size=33))
def test_a_row_is_the_same_to_the_bit_alone_and_in_a_batch(name: str, seed: int, lengths: list[int]) -> None:
    """Beside rows of other lengths."""
    check_rows(*open_model(name), seed, lengths)


@pytest.mark.parametrize("name", WHOLE)
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 20), min_size=2, max_size=17))
def test_a_row_that_is_read_both_ways_is_the_same_in_any_batch(name: str, seed: int, lengths: list[int]) -> None:
    """Its backward layers begin at its own end."""
    check_rows(*open_model(name, directions=2), seed, lengths)


def check_rows(manifest: ClassifyManifest, runner: Runner, seed: int, lengths: list[int]) -> None:
    """Compare each row of a batch with the row alone."""
    arrays = inputs(manifest, seed, len(lengths), max(lengths))
    together, states = scores(runner, arrays, np.array(lengths), runner.initial_states(len(lengths)))
    for row, length in enumerate(lengths):
        piece = {key: array[row : row + 1, :length] for key, array in arrays.items()}
        alone, after = scores(runner, piece, np.array([length]), runner.initial_states(1))
        assert np.array_equal(together[row : row + 1], alone)
        assert all(np.array_equal(states[key][row : row + 1], state) for key, state in after.items())


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_a_shipped_graph_agrees_with_its_pytorch_network(name: str) -> None:
    """With what PyTorch computed at export."""
    manifest, runner = open_model(f"shipped-{name}-float32")
    with np.load(SHIPPED / name / "1" / REFERENCE_FILE) as saved:
        arrays = {tensor.name: saved[tensor.name] for tensor in manifest.graph.inputs if tensor.name in saved}
        rows, steps = next(iter(arrays.values())).shape[:2]
        [every], _ = runner.prefill(arrays, np.full(rows, steps), runner.initial_states(rows), ["logits_all"])
        np.testing.assert_allclose(every, saved["logits_all"], rtol=0, atol=TOLERANCE * np.abs(every).max())

"""Matrices in int8: the stored network is the rounded one, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.manifest import read_manifest
from service.text.manifest import TextManifest
from tests.builders import character_model, write_model
from training.nets.quantisation import quantise, round_matrices
from training.onnx.export import build_graphs
from training.onnx.weights import read_text_model


@given(seed=st.integers(0, 2**32), magnitude=st.integers(-20, 20))
def test_a_rounded_matrix_is_exact_in_float32_and_rounds_to_itself(seed: int, magnitude: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (10.0**magnitude * rng.standard_t(2, (7, 5))).astype(np.float32)
    weight[:, 0] = 0
    stored, scale = quantise(weight)
    rounded = stored * scale
    assert np.array_equal(rounded, stored.astype(np.float64) * scale.astype(np.float64))
    assert np.abs(rounded - weight).max() <= 0.51 * scale.max()
    again, scale_again = quantise(rounded)
    assert np.array_equal(again, stored)
    assert np.array_equal(scale_again, scale)


@pytest.mark.parametrize("ngrams", [0, 4])
def test_rounding_a_network_again_changes_no_bit(ngrams: int) -> None:
    network = character_model(ngrams=ngrams)
    round_matrices(network)
    first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    round_matrices(network)
    assert all(torch.equal(tensor, first[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("ngrams", [0, 4])
def test_a_folder_read_back_and_written_again_has_the_same_weights(ngrams: int, tmp_path: Path) -> None:
    folders = [write_model(character_model(ngrams=ngrams), tmp_path, "first")]
    network, _ = read_text_model(folders[0])
    folders.append(write_model(network, tmp_path, "second"))
    first, second = (read_manifest(folder, TextManifest) for folder in folders)
    assert first.graph.weights is not None
    assert first.graph.weights == second.graph.weights


@pytest.mark.parametrize("ngrams", [0, 4])
def test_the_graphs_of_both_precisions_hold_the_same_weights_in_one_file(ngrams: int, tmp_path: Path) -> None:
    manifest = read_manifest(write_model(character_model(ngrams=ngrams), tmp_path, "text"), TextManifest)
    assert manifest.int8 is not None
    assert manifest.int8.decode is not None
    graphs = (manifest.graph, manifest.decode, manifest.int8.graph, manifest.int8.decode)
    assert len({graph.weights for graph in graphs}) == 1
    assert len({graph.sha256 for graph in graphs}) == 4


def test_a_text_model_is_rounded_to_what_its_graphs_hold() -> None:
    network = character_model(ngrams=4)
    before = network.head.weight.clone()
    build_graphs(network)
    after = network.head.weight.clone()
    round_matrices(network)
    assert torch.equal(network.head.weight, after)
    assert not torch.equal(before, after)

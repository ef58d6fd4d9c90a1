"""Reads networks back from model folders: the facts from `network.json`, the weights of LSTM models from ONNX files.

So training can go on from a model folder, and benchmarks can run the shipped networks in PyTorch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest, sha256_of
from service.text.manifest import TextManifest
from training.nets.cells import Recurrent
from training.nets.covariates import Covariates
from training.nets.global_forecaster import GlobalForecaster
from training.nets.text import FEATURE_STEPS, TextModel
from training.onnx.architecture import (
    GlobalForecasterArchitecture,
    TextArchitecture,
    check_architecture,
    read_architecture,
)
from training.onnx.layers import GATES, ZERO

Array = NDArray[np.float32]

_PYTORCH_GATES = np.argsort(GATES["lstm"])


class OnnxWeights:
    """The constants of a float32 graph that training/onnx/text.py or forecast.py wrote, found by the operators that use
    them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._graph = onnx.load(file).graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._graph.initializer}
        for node in self._graph.node:  # a result of constants is a constant
            if node.input and self.constants.keys() >= {*node.input}:
                results = ReferenceEvaluator(node).run(None, {name: self.constants[name] for name in node.input})
                self.constants |= dict(zip(node.output, results, strict=True))

    def lookup_table(self, dtype: str) -> Array:
        """The first table of this type that a Gather takes rows from.

        Raises:
            ValueError: the graph has no such table.
        """
        for node in self._nodes("Gather"):
            table = self.constants.get(node.input[0])
            if table is not None and table.dtype == dtype:
                return table
        raise ValueError(f"{self._file} holds no table of {dtype}; another version of Carry may have written it")

    def products(self) -> list[onnx.NodeProto]:
        """The products with a constant matrix of float32, in order."""
        return [node for node in self._nodes("MatMul") if self._is_float(node.input[1])]

    def weight(self, product: onnx.NodeProto) -> Array:
        """The constant matrix of a product, (outputs, inputs)."""
        return self.constants[product.input[1]].T

    def bias(self, product: onnx.NodeProto) -> Array:
        """The constant added to a product."""
        add = next(node for node in self._nodes("Add") if product.output[0] in node.input)
        return next(self.constants[name] for name in add.input if name in self.constants)

    def load_layers(self, recurrent: Recurrent) -> None:
        """Load the weights of LSTM layers."""
        for layer, node in zip(recurrent.layers, self._nodes("LSTM"), strict=True):
            from_input, from_hidden, bias = (self.constants[name][0] for name in node.input[1:4])
            half = len(bias) // 2
            parts = {"weight_ih": from_input, "weight_hh": from_hidden, "bias_ih": bias[:half], "bias_hh": bias[half:]}
            for name, stacked in parts.items():
                blocks = stacked.reshape(4, -1, *stacked.shape[1:])[_PYTORCH_GATES]
                self.load(layer.get_parameter(f"{name}_l0"), blocks.reshape(stacked.shape))

    def load(self, parameter: Tensor, array: Array) -> None:
        """Copy weights into a parameter.

        Raises:
            ValueError: the shapes differ.
        """
        if parameter.shape != array.shape:
            shapes = f"{tuple(array.shape)}, not {tuple(parameter.shape)}"
            raise ValueError(f"{self._file} holds weights of another network: of the shape {shapes}")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(array, dtype=np.float32)))

    def _nodes(self, kind: str) -> Sequence[onnx.NodeProto]:
        return [node for node in self._graph.node if node.op_type == kind]

    def _is_float(self, name: str) -> bool:
        return name in self.constants and self.constants[name].dtype == np.float32


def read_text_model(folder: Path, dropout: float = 0.0, weight_dropout: float = 0.0) -> tuple[TextModel, TextManifest]:
    """The network of a model folder, and its manifest.

    Raises:
        ValueError: the folder holds no LSTM text model with its `network.json`.
    """
    try:
        manifest = read_manifest(folder, TextManifest)
        unchanged = sha256_of(folder / manifest.graph.file) == manifest.graph.sha256
    except OSError as error:
        reason = (error.strerror or "not readable").lower()
        raise ValueError(f"{folder} holds no model: {error.filename}: {reason}") from error
    if not unchanged:
        raise ValueError(f"{folder / manifest.graph.file} is not the file that the manifest names: its sha256 differs")
    architecture = read_architecture(folder, TextArchitecture)
    if architecture.cell != "lstm":
        raise ValueError(f"{folder} holds {architecture.cell} layers; only weights of lstm layers can be read")
    network = TextModel(
        architecture.cell,
        architecture.vocabulary,
        architecture.embedding,
        architecture.hidden,
        architecture.layers,
        dropout,
        weight_dropout,
        architecture.residual,
        architecture.ngrams,
    )
    check_architecture(folder, architecture, network)
    weights = OnnxWeights(folder / manifest.graph.file)
    weights.load(network.embedding.weight, weights.lookup_table("float32"))
    head, *from_features = weights.products()
    weights.load(network.head.bias, weights.bias(head))
    columns = [weights.weight(product) for product in (head, *from_features)]
    weights.load(network.head.weight, np.concatenate(columns, axis=1))
    if network.ngrams is not None:
        features = (torch.from_numpy(weights.lookup_table("uint8").astype(np.float32)) - ZERO) / FEATURE_STEPS
        # A feature that was rounded to 1 was smaller.
        limit = 1 - 1 / (4 * FEATURE_STEPS)
        weights.load(network.ngrams.table.weight, torch.atanh(features.clamp(-limit, limit)).numpy())
    weights.load_layers(network.recurrent)
    return network, manifest


def read_forecaster(folder: Path) -> GlobalForecaster:
    """The network of the model folder of an LSTM forecaster of any series, without features.

    Raises:
        ValueError: the folder holds another network.
    """
    manifest = read_manifest(folder, ForecastManifest)
    architecture = read_architecture(folder, GlobalForecasterArchitecture)
    if architecture.cell != "lstm" or architecture.categories:
        raise ValueError(f"{folder}: only forecasters of lstm layers without features can be read")
    network = GlobalForecaster(
        Covariates.none(),
        architecture.cell,
        architecture.hidden,
        architecture.layers,
        0.0,
        architecture.horizon,
        architecture.quantile_levels,
    )
    check_architecture(folder, architecture, network)
    weights = OnnxWeights(folder / manifest.graph.file)
    tensors: list[tuple[str, Tensor]] = [*network.named_parameters(), ("widening", network.widening)]
    for name, tensor in tensors:
        if not name.startswith("recurrent."):
            constant = weights.constants[name]
            weights.load(tensor, constant.T if name.endswith(".weight") else constant)
    weights.load_layers(network.recurrent)
    return network.eval()

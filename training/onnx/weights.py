"""Reads the weights of an LSTM text model back from its ONNX file, so that training can go on from a model folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from service.manifest import read_manifest, sha256_of
from service.text.manifest import TextManifest
from training.nets.cells import Recurrent
from training.nets.networks import FEATURE_STEPS, TextModel
from training.onnx.layers import ZERO

Array = NDArray[np.float32]

# ONNX stacks the gates of an LSTM as i,o,f,c; PyTorch as i,f,g,o.
_PYTORCH = [0, 2, 3, 1]


class OnnxWeights:
    """The constants of a float32 graph that training/onnx/text.py or onnx_forecast.py wrote, and where they stand."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.graph = onnx.load(file).graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        for node in self.graph.node:  # what is made of constants is one
            if node.input and self.constants.keys() >= {*node.input}:
                made = ReferenceEvaluator(node).run(None, {name: self.constants[name] for name in node.input})
                self.constants |= dict(zip(node.output, made, strict=True))

    def looked_up(self, dtype: str) -> Array:
        """The first table of this type that rows are taken from.

        Raises:
            ValueError: there is none.
        """
        tables = (self.constants[node.input[0]] for node in self._nodes("Gather") if node.input[0] in self.constants)
        found = next((table for table in tables if table.dtype == dtype), None)
        if found is None:
            raise ValueError(f"{self.file} holds no table of {dtype}; an older version of Carry may have written it")
        return found

    def products(self) -> list[onnx.NodeProto]:
        """The products with a constant matrix of real numbers, in order."""
        return [node for node in self._nodes("MatMul") if self._is_real(node.input[1])]

    def weight(self, product: onnx.NodeProto) -> Array:
        """The constant matrix of a product, (outputs, inputs)."""
        return self.constants[product.input[1]].T

    def bias(self, product: onnx.NodeProto) -> Array:
        """The constant added to a product."""
        added = next(node for node in self._nodes("Add") if product.output[0] in node.input)
        return next(self.constants[name] for name in added.input if name in self.constants)

    def load_layers(self, recurrent: Recurrent) -> None:
        """Give LSTM layers their weights."""
        for layer, node in zip(recurrent.layers, self._nodes("LSTM"), strict=True):
            inside, across, bias = (self.constants[name][0] for name in node.input[1:4])
            half = len(bias) // 2
            parts = {"weight_ih": inside, "weight_hh": across, "bias_ih": bias[:half], "bias_hh": bias[half:]}
            for name, stacked in parts.items():
                blocks = stacked.reshape(4, -1, *stacked.shape[1:])
                layer.get_parameter(f"{name}_l0").data = tensor_of(blocks[_PYTORCH].reshape(stacked.shape))

    def sums_layers(self) -> bool:
        """Whether the outputs of layers are added up."""
        outputs = {node.output[0] for node in self._nodes("Squeeze")}
        return any(outputs.issuperset(node.input) for node in self._nodes("Add"))

    def _nodes(self, kind: str) -> Sequence[onnx.NodeProto]:
        return [node for node in self.graph.node if node.op_type == kind]

    def _is_real(self, name: str) -> bool:
        return name in self.constants and self.constants[name].dtype == np.float32


def tensor_of(array: Array) -> Tensor:
    """A copy in the order of memory that PyTorch wants."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def read_text_model(folder: Path, dropout: float = 0.0, weight_dropout: float = 0.0) -> tuple[TextModel, TextManifest]:
    """The network of a model folder, and its manifest.

    Raises:
        ValueError: the folder holds no LSTM text model.
    """
    try:
        manifest = read_manifest(folder, TextManifest)
        whole = sha256_of(folder / manifest.graph.file) == manifest.graph.sha256
    except OSError as error:
        reason = (error.strerror or "not readable").lower()
        raise ValueError(f"{folder} holds no model: {error.filename}: {reason}") from error
    if not isinstance(manifest, TextManifest) or manifest.provenance.cell != "lstm" or not whole:
        raise ValueError(f"{folder} holds no LSTM text model, or not as its manifest says")
    weights = OnnxWeights(folder / manifest.graph.file)
    size, hidden = len(manifest.vocabulary), manifest.provenance.hidden
    embedding = weights.looked_up("float32")
    network = TextModel(
        "lstm",
        size,
        embedding.shape[1],
        hidden,
        manifest.provenance.layers,
        dropout,
        weight_dropout,
        residual=weights.sums_layers(),
        ngrams=next((state.shape[0] + 1 for state in manifest.graph.state if state.name == "recent"), 0),
    )
    network.embedding.weight.data = tensor_of(embedding)
    head, *beside = weights.products()
    network.head.bias.data = tensor_of(weights.bias(head))
    network.head.weight.data = tensor_of(np.concatenate([weights.weight(node) for node in (head, *beside)], axis=1))
    if network.ngrams is not None:
        features = (tensor_of(weights.looked_up("uint8")) - ZERO) / FEATURE_STEPS
        # What was rounded to 1 was less.
        most = 1 - 1 / (4 * FEATURE_STEPS)
        network.ngrams.table.weight.data = torch.atanh(features.clamp(-most, most))
    weights.load_layers(network.recurrent)
    return network, manifest

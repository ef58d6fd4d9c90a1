"""The shipped weights as PyTorch networks again, from the float32 ONNX files: so that peers serve the same model."""

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from service.manifest import ForecastManifest, read_manifest
from training.networks import GlobalForecaster, TextModel
from training.scaling import Covariates

Array = NDArray[np.float32]

# ONNX stacks the gates of an LSTM as i,o,f,c; PyTorch as i,f,g,o.
_PYTORCH = [0, 2, 3, 1]


def network_of(folder: Path) -> GlobalForecaster | TextModel:
    """The network of a model folder: an LSTM over text, or over series of any kind.

    Raises:
        ValueError: it is of another kind.
    """
    manifest = read_manifest(folder)
    graph = onnx.load(folder / "model.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if manifest.provenance.cell != "lstm":
        raise ValueError("only LSTM models")
    layers, hidden = manifest.provenance.layers, manifest.provenance.hidden
    operators = [node for node in graph.node if node.op_type == "LSTM"]
    network: GlobalForecaster | TextModel
    if isinstance(manifest, ForecastManifest):
        none = Covariates(torch.zeros(0), torch.ones(0), (), ())
        levels = manifest.quantile_levels
        network = GlobalForecaster(none, "lstm", hidden, layers, 0.0, manifest.horizon, levels)
        heads = network.from_hidden, network.from_features, network.between, network.head
        products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants]
        for linear, product in zip(heads, products, strict=True):
            linear.weight.data = torch.from_numpy(constants[product.input[1]].T.copy())
            if linear.bias is not None:
                linear.bias.data = _added(graph, constants, product)
        shape = network.from_ahead.shape
        network.from_ahead.data = next(torch.from_numpy(c.copy()) for c in constants.values() if c.shape == shape)
    else:
        looked_up = [constants[n.input[0]] for n in graph.node if n.op_type == "Gather" and n.input[0] in constants]
        tables = {str(table.dtype): table for table in looked_up}
        embedding, features = tables["float32"], tables.get("float16")
        size = len(manifest.vocabulary)
        outputs = {node.output[0] for node in graph.node if node.op_type == "Squeeze"}
        residual = any(node.op_type == "Add" and outputs.issuperset(node.input) for node in graph.node)
        longest = next((state.shape[0] + 1 for state in manifest.graph.state if state.name == "recent"), 0)
        network = TextModel("lstm", size, embedding.shape[1], hidden, layers, 0.0, residual=residual, ngrams=longest)
        network.embedding.weight.data = torch.from_numpy(embedding.copy())
        head = _product(graph, constants, (hidden, size))
        weight = constants[head.input[1]].T
        if network.ngrams is not None:
            assert features is not None
            network.ngrams.table.weight.data = torch.atanh(torch.from_numpy(features.astype(np.float32)))
            beside = _product(graph, constants, (network.ngrams.width, size))
            weight = np.concatenate([weight, constants[beside.input[1]].T], axis=1)
        network.head.weight.data = torch.from_numpy(weight.copy())
        network.head.bias.data = _added(graph, constants, head)
    for layer, node in zip(network.recurrent.layers, operators, strict=True):
        inside, across, bias = (constants[name][0] for name in node.input[1:4])
        parameters = {
            "weight_ih_l0": _gates(inside),
            "weight_hh_l0": _gates(across),
            "bias_ih_l0": _gates(bias[: 4 * hidden]),
            "bias_hh_l0": _gates(bias[4 * hidden :]),
        }
        for name, value in parameters.items():
            getattr(layer, name).data = torch.from_numpy(value)
    return network.eval()


def _gates(stacked: Array) -> Array:
    blocks = stacked.reshape(4, -1, *stacked.shape[1:])
    return np.ascontiguousarray(blocks[_PYTORCH].reshape(stacked.shape))


def _product(graph: onnx.GraphProto, constants: dict[str, Array], shape: tuple[int, int]) -> onnx.NodeProto:
    """The first product with a constant of this shape."""
    product: onnx.NodeProto = next(
        node
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants and constants[node.input[1]].shape == shape
    )
    return product


def _added(graph: onnx.GraphProto, constants: dict[str, Array], product: onnx.NodeProto) -> torch.Tensor:
    """The constant added to a product."""
    added = next(node for node in graph.node if node.op_type == "Add" and product.output[0] in node.input)
    return torch.from_numpy(next(constants[name] for name in added.input if name in constants).copy())

"""Arithmetic that is written once computes the same in PyTorch and in a graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from training.nets.arithmetic import TorchBackend, positive, squash
from training.onnx.backend import OnnxBackend, Parameters, Value
from training.onnx.operations import DTYPES, Builder, Port, finish

Floats = NDArray[np.float64]
LAYER = torch.nn.Linear(4, 3)

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "operators": lambda f, x: (x * 2.0 - 1.0) / (f.abs(x) + 0.5) + 3.0 * x - (1.0 - x) + 1.0 / (x * x + 1.0) - (-x),
    "comparisons": lambda f, x: f.where((x > 0.0) & (x <= 1.0), x, -1.0) + f.where(x >= 2.0, 1.0, 0.0 * x),
    "bounds": lambda f, x: f.minimum(f.maximum(x, -0.5), 0.5) + f.maximum(x, 2.0 * x) * f.floor(x),
    "root": lambda f, x: f.sqrt(f.abs(x)),
    "sums": lambda f, x: f.cumsum(x, 1) + f.sum(x, 2) + f.mean(x, 1) + f.max(x, 2),
    "order": lambda f, x: f.median(f.slice(x, 2, 0, 3), 3) + f.sort(x, 4),
    "cuts": lambda f, x: f.concat([f.slice(x, 1, 0, None, 2), f.slice(x, 1, 1, -1), f.slice(x, 1, -1, None)], 1),
    "slices": lambda f, x: f.take(x, [2, 0, 2], 2) + f.take(x, f.constant([1, 1, 3], "int64"), 2),
    "places": lambda f, x: f.gather(f.reshape(x, 0, -1), f.constant(np.arange(12).reshape(2, 3, 2), "int64")),
    "along": lambda f, x: f.take_along(x, f.constant(np.arange(16).reshape(2, 2, 4) % 5, "int64")),
    "scatter": lambda f, x: f.scatter(x, f.constant(np.ones((2, 1, 4)), "int64"), f.slice(x, 1, 3, 4)),
    "whole numbers": lambda f, x: f.unsqueeze(
        f.cast(f.argmax(x, 2) // 2 + f.argmax(x, 2) % 3 + f.positions(x, 1), "float64"), 2
    ),
    "shapes": lambda f, x: f.reshape(f.transpose(f.unsqueeze(f.reshape(x, 0, -1, 2, 2), 2), 0, 2, 1, 4, 3), 0, 0, -1),
    "products": lambda f, x: f.matmul(x, f.transpose(x, 0, 2, 1)),
    "products of whole numbers": lambda f, x: f.cast(
        f.matmul(f.cast(x, "int64"), f.constant(np.arange(12).reshape(4, 3), "int64")), "float64"
    ),
    "layer": lambda f, x: f.cast(f.relu(f.linear(f.cast(x, "float32"), LAYER.weight, LAYER.bias)), "float64"),
    "shares": lambda f, x: f.softmax(x) * squash(x, f) + positive(x, f),
}


def in_a_graph(function: Callable[[Any, Any], Any], x: Floats) -> Floats:
    g = Builder()
    function(OnnxBackend(g, Parameters.of(LAYER)), Value(g, "x", "float64")).as_output("y")
    rest = tuple("ABCD"[: x.ndim - 1])
    graph = finish(g, (Port("x", "float64", rest),), (Port("y", "float64", ("E", "F")),), [])
    graph.model.graph.output[0].type.tensor_type.ClearField("shape")
    session = onnxruntime.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
    y: Floats = session.run(None, {"x": x})[0]
    return y


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_computes_what_pytorch_does(name: str) -> None:
    x = np.random.default_rng(len(name)).normal(size=(2, 5, 4)) * 2
    expected = FUNCTIONS[name](TorchBackend(), torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(in_a_graph(FUNCTIONS[name], x), expected, rtol=1e-6, atol=1e-7)


def test_parameters_are_constants_of_their_names_and_written_once() -> None:
    g = Builder()
    f = OnnxBackend(g, Parameters.of(LAYER))
    x = Value(g, "x", "float32")
    f.linear(x, LAYER.weight, LAYER.bias)
    f.within(Builder(prefix="branch_")).linear(x, LAYER.weight, LAYER.bias)
    assert [constant.name for constant in g.constants] == ["weight", "bias"]
    assert DTYPES["float32"] == g.constants[0].data_type

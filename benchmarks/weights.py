"""The shipped weights as PyTorch networks again, from the float32 ONNX files: so that peers serve the same model."""

from pathlib import Path

import torch

from service.manifest import ForecastManifest, read_manifest
from training.global_forecaster import GlobalForecaster
from training.onnx_weights import OnnxWeights, tensor_of
from training.covariates import Covariates


def read_forecaster(folder: Path) -> GlobalForecaster:
    """The network of the model folder of a forecaster of any series, without features.

    Raises:
        ValueError: it is of another kind.
    """
    manifest = read_manifest(folder)
    if not isinstance(manifest, ForecastManifest) or manifest.provenance.cell != "lstm":
        raise ValueError("only LSTM forecasters")
    weights = OnnxWeights(folder / manifest.graph.file)
    none = Covariates.none()
    layers, hidden = manifest.provenance.layers, manifest.provenance.hidden
    network = GlobalForecaster(none, "lstm", hidden, layers, 0.0, manifest.horizon, manifest.quantile_levels)
    heads = network.from_hidden, network.from_features, network.between, network.head
    for linear, product in zip(heads, weights.products(), strict=True):
        linear.weight.data = tensor_of(weights.weight(product))
        if linear.bias is not None:
            linear.bias.data = tensor_of(weights.bias(product))
    shape = network.from_ahead.shape
    network.from_ahead.data = next(tensor_of(c) for c in weights.constants.values() if c.shape == shape)
    weights.load_layers(network.recurrent)
    return network.eval()

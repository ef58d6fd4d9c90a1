"""The shipped weights as PyTorch networks again, from the float32 ONNX files: so that peers serve the same model."""

from pathlib import Path

from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from training.nets.covariates import Covariates
from training.nets.global_forecaster import GlobalForecaster
from training.onnx.weights import OnnxWeights, tensor_of


def read_forecaster(folder: Path) -> GlobalForecaster:
    """The network of the model folder of a forecaster of any series, without features.

    Raises:
        ValueError: it is of another kind.
    """
    manifest = read_manifest(folder, ForecastManifest)
    if manifest.provenance.cell != "lstm":
        raise ValueError("only LSTM forecasters")
    weights = OnnxWeights(folder / manifest.graph.file)
    none = Covariates.none()
    layers, hidden = manifest.provenance.layers, manifest.provenance.hidden
    network = GlobalForecaster(none, "lstm", hidden, layers, 0.0, manifest.horizon, manifest.quantile_levels)
    for name, parameter in network.named_parameters():
        if not name.startswith("recurrent."):
            found = weights.constants[name]
            parameter.data = tensor_of(found.T if name.endswith(".weight") else found)
    network.widening = tensor_of(weights.constants["widening"])
    weights.load_layers(network.recurrent)
    return network.eval()

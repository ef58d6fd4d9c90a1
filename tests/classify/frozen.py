"""Small classifiers over the states of untrained models, for tests."""

import torch
from torch import nn

from tests.builders import character_model, forecaster
from tests.classify.classifiers import CLASSES
from training.nets.frozen import FrozenClassifier, FrozenSeries, FrozenText
from training.nets.global_forecaster import GlobalForecaster
from training.nets.quantisation import round_matrices


def frozen_classifier(text: bool = False, features: int = 2) -> FrozenClassifier:
    """A classifier with a random head over an untrained model."""
    if text:
        model = character_model(ngrams=4)
        round_matrices(model)
        trunk: FrozenSeries | FrozenText = FrozenText(model)
    else:
        base = forecaster()
        assert isinstance(base, GlobalForecaster)
        trunk = FrozenSeries(base, features)
    torch.manual_seed(7)
    network = FrozenClassifier(trunk, len(CLASSES))
    nn.init.normal_(network.head.weight, std=0.5)
    nn.init.normal_(network.center, std=0.2)
    network.temperature.fill_(1.5)
    return network.eval()

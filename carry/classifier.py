"""A classifier over arrays, for measurements and for files. Knows no HTTP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.classify.manifest import ClassifyManifest
from service.classify.task import graph_inputs, softmax
from service.engine.runner import Runner
from service.manifest import Graph, read_manifest

ROWS = 64
"""Sequences of one call."""


class Classifier:
    """One graph of a classifier."""

    def __init__(self, folder: Path, manifest: ClassifyManifest, graph: Graph) -> None:
        self._runner = Runner(folder, graph, threads=0)
        self._max_steps = graph.max_steps
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> dict[str, "Classifier"]:
        """The classifier of a model folder in float32 and, where there is a graph of it, in int8; by name.

        Raises:
            ValueError: the folder holds no classifier.
        """
        manifest = read_manifest(folder, ClassifyManifest)
        models = {manifest.name: cls(folder, manifest, manifest.graph)}
        if manifest.int8 is not None:
            models[f"{manifest.name}, int8"] = cls(folder, manifest, manifest.int8.graph)
        return models

    def probabilities(self, sequences: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """The probabilities (N, C) of the classes at the end of each sequence: series (T, F), NaN where missing, or
        tokens (T,); T > 0."""
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        scores = np.empty((len(sequences), len(self.manifest.classes)), np.float32)
        for first in range(0, len(order), ROWS):
            rows = order[first : first + ROWS]
            scores[rows] = self._scores([sequences[i] for i in rows])
        return softmax(scores)

    def _scores(self, sequences: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Of sequences that are read side by side. The longest come first, so that those that go on are the first."""
        lengths = np.array([len(sequence) for sequence in sequences])
        padded = np.zeros((len(sequences), int(lengths[0]), *sequences[0].shape[1:]), sequences[0].dtype)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: len(sequence)] = sequence
        scores = np.empty((len(sequences), len(self.manifest.classes)), np.float32)
        states = self._runner.initial_states(len(sequences))
        for at in range(0, int(lengths[0]), self._max_steps):
            going = int((lengths > at).sum())
            inputs = graph_inputs(self.manifest, padded[:going, at : at + self._max_steps])
            states = {name: state[:going] for name, state in states.items()}
            taken = np.minimum(lengths[:going] - at, self._max_steps)
            [scores[:going]], states = self._runner.prefill(inputs, taken, states, ["logits"])
        return scores

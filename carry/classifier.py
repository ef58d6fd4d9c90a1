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

ROWS, STEPS = 64, 512
"""Sequences of one call, and its steps, as many as the service reads at once."""


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
        steps = self._max_steps if self.manifest.directions == 2 else STEPS
        return softmax(read_to_end(self._runner, "logits", len(self.manifest.classes), sequences, steps))


def read_to_end(
    runner: Runner, output: str, width: int, sequences: Sequence[NDArray[Any]], steps: int = STEPS
) -> NDArray[np.float32]:
    """An output of a graph, (N, width), at the end of each sequence, as `Classifier.probabilities` takes them; in calls
    of at most so many steps."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    results = np.empty((len(sequences), width), np.float32)
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        results[rows] = _read_rows(runner, output, width, [sequences[i] for i in rows], steps)
    return results


def _read_rows(
    runner: Runner, output: str, width: int, sequences: Sequence[NDArray[Any]], steps: int
) -> NDArray[np.float32]:
    """Of sequences that are read side by side. The longest come first, so that those that go on are the first."""
    lengths = np.array([len(sequence) for sequence in sequences])
    padded = np.zeros((len(sequences), int(lengths[0]), *sequences[0].shape[1:]), sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    results = np.empty((len(sequences), width), np.float32)
    states = runner.initial_states(len(sequences))
    for at in range(0, int(lengths[0]), steps):
        going = int((lengths > at).sum())
        states = {name: state[:going] for name, state in states.items()}
        taken = np.minimum(lengths[:going] - at, steps)
        inputs = graph_inputs(padded[:going, at : at + steps])
        [results[:going]], states = runner.prefill(inputs, taken, states, [output])
    return results

"""Runs an exported graph over many sequences at once: for the agreement check and for evaluation, so that what is
measured is what will be served. Knows nothing of HTTP; the service has its own engine.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.manifest import PER_STEP_OUTPUTS, ForecastManifest, Graph, State, TextManifest, read_manifest

Array = NDArray[np.generic]


class GraphSession:
    """An ONNX graph with its state: feed it pieces of sequences, as the manifest describes them."""

    def __init__(self, model: Path | bytes, state: Sequence[State], max_steps: int, threads: int = 0) -> None:
        """`threads`: 0 for as many as there are cores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._state = state
        self._max_steps = max_steps

    @classmethod
    def open(cls, folder: Path, graph: Graph, threads: int = 0) -> "GraphSession":
        """A graph of a model folder."""
        return cls(folder / graph.file, graph.state, graph.max_steps, threads)

    def fresh_state(self, batch: int) -> dict[str, Array]:
        """The state of `batch` sequences of which nothing was seen yet."""
        return {s.name: np.full((batch, *s.shape), s.initial, dtype=s.dtype) for s in self._state}

    def step(
        self, feeds: Mapping[str, Array], state: Mapping[str, Array], outputs: Sequence[str]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """One call of the graph: the outputs asked for, and the state after it."""
        names = [*outputs, *(s.output for s in self._state)]
        per_step = np.array(not PER_STEP_OUTPUTS.isdisjoint(outputs))
        results = self._session.run(names, {**feeds, **state, "per_step": per_step})
        after = {s.name: result for s, result in zip(self._state, results[len(outputs) :], strict=True)}
        return dict(zip(outputs, results, strict=False)), after

    def read(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], state: Mapping[str, Array] | None = None
    ) -> Iterable[dict[str, Array]]:
        """Feed inputs (B, T, ...) of equal length piece by piece; the outputs of each piece."""
        batch, steps = next(iter(feeds.values())).shape[:2]
        state = state or self.fresh_state(batch)
        for start in range(0, steps, self._max_steps):
            piece = {name: array[:, start : start + self._max_steps] for name, array in feeds.items()}
            size = min(self._max_steps, steps - start)
            piece["lengths"] = np.full(batch, size, dtype=np.int64)
            results, state = self.step(piece, state, outputs)
            yield results


def _graphs(manifest: ForecastManifest | TextManifest) -> dict[str, Graph]:
    graphs = {manifest.name: manifest.graph}
    return graphs | ({f"{manifest.name}, int8": manifest.int8.graph} if manifest.int8 else {})


class ForecastModel:
    """An exported forecaster over arrays."""

    def __init__(self, session: GraphSession, manifest: ForecastManifest) -> None:
        self._session = session
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> dict[str, "ForecastModel"]:
        """The forecaster of a model folder, by name; also in int8, where there is one.

        Raises:
            ValueError: the folder holds no forecaster.
        """
        manifest = read_manifest(folder)
        if not isinstance(manifest, ForecastManifest):
            raise ValueError(f"{folder} holds a {manifest.kind} model, not a forecaster")
        return {name: cls.of_folder(folder, manifest, graph) for name, graph in _graphs(manifest).items()}

    @classmethod
    def of_folder(cls, folder: Path, manifest: ForecastManifest, graph: Graph) -> "ForecastModel":
        """The forecaster that one of the graphs in a folder is."""
        return cls(GraphSession.open(folder, graph), manifest)

    def forecast(self, histories: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Histories, each (T, F) with NaN = missing -> quantiles (N, H, Q) of the head. Similar lengths go together."""
        quantiles = np.empty((len(histories), self.manifest.horizon, len(self.manifest.quantile_levels)))
        order = sorted(range(len(histories)), key=lambda i: len(histories[i]))
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            quantiles[rows] = self._forecast([histories[i] for i in rows])
        return quantiles

    def _forecast(self, histories: Sequence[NDArray[np.float64]]) -> Array:
        # Missing steps before a series begins change nothing, so shorter rows are filled up at the front.
        steps = max(len(history) for history in histories)
        values = np.full((len(histories), steps, len(self.manifest.features)), np.nan)
        for row, history in zip(values, histories, strict=True):
            row[steps - len(history) :] = history
        seen = np.isfinite(values)
        feeds = {"values": np.where(seen, values, 0.0), "mask": seen.astype(np.float32)}
        *_, last = self._session.read(feeds, ["quantiles"])
        return last["quantiles"]

    def one_step(self, series: NDArray[np.float64]) -> NDArray[np.float64]:
        """A series (T, F) -> the quantiles (T, Q) of the value after each step."""
        seen = np.isfinite(series)[None]
        feeds = {"values": np.where(seen, series, 0.0), "mask": seen.astype(np.float32)}
        pieces = [piece["one_step"][0] for piece in self._session.read(feeds, ["one_step"])]
        return np.concatenate(pieces).astype(np.float64)

    def unroll(self, history: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
        """Feed the median forecast back as if it had been observed, for one feature: (T, 1) -> (horizon,)."""
        middle = self.manifest.quantile_levels.index(0.5)
        state = self._session.fresh_state(1)
        values, forecast = history, np.empty(0)
        while len(forecast) < horizon:
            seen = np.isfinite(values)[None]
            feeds: dict[str, Array] = {
                "values": np.where(seen, values, 0.0),
                "mask": seen.astype(np.float32),
                "lengths": np.array([len(values)], dtype=np.int64),
            }
            results, state = self._session.step(feeds, state, ["quantiles"])
            block = results["quantiles"][0, :, middle].astype(np.float64)
            values, forecast = block[:, None], np.concatenate([forecast, block])
        return forecast[:horizon]


class CharacterModel:
    """An exported character model over tokens."""

    def __init__(self, session: GraphSession, manifest: TextManifest) -> None:
        self._session = session
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> dict[str, "CharacterModel"]:
        """The character model of a model folder, by name; also in int8, where there is one.

        Raises:
            ValueError: the folder holds no character model.
        """
        manifest = read_manifest(folder)
        if not isinstance(manifest, TextManifest):
            raise ValueError(f"{folder} holds a {manifest.kind} model, not a character model")
        return {name: cls.of_folder(folder, manifest, graph) for name, graph in _graphs(manifest).items()}

    @classmethod
    def of_folder(cls, folder: Path, manifest: TextManifest, graph: Graph) -> "CharacterModel":
        """The character model that one of the graphs in a folder is."""
        return cls(GraphSession.open(folder, graph), manifest)

    def log_probabilities(self, tokens: NDArray[np.int64]) -> Iterable[NDArray[np.float64]]:
        """Tokens (T,) -> pieces of (t, V): natural logarithms of the next token's probabilities after each."""
        for piece in self._session.read({"tokens": tokens[None]}, ["logits_all"]):
            scores = piece["logits_all"][0].astype(np.float64)
            scores -= scores.max(axis=1, keepdims=True)
            yield scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def bits_per_character(self, documents: Sequence[NDArray[np.int64]]) -> float:
        """Total bits over total characters predicted, each document read once from its start with the state carried.

        The first character of a document is read, not predicted.
        """
        nats, count = 0.0, 0
        for tokens in documents:
            at = 1
            for logs in self.log_probabilities(tokens[:-1]):
                nats -= float(logs[np.arange(len(logs)), tokens[at : at + len(logs)]].sum())
                at += len(logs)
            count += len(tokens) - 1
        return nats / math.log(2) / max(count, 1)

"""Models over arrays, for measurements and for files: a forecaster on the service's engine, a text model over many
documents at once. So what is measured is what the service serves. Knows no HTTP.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine.decode import DecodeGraph
from service.engine.engine import Engine
from service.engine.prefill import CHUNK
from service.engine.runner import Runner
from service.errors import InvalidRequestError, NonFiniteOutputError
from service.forecast.kind import FORECAST
from service.forecast.manifest import ForecastManifest
from service.forecast.task import Forecast, ForecastRequest, forecast, initial_state
from service.forecast.timestamps import seasons_of
from service.kinds import KINDS
from service.manifest import Graph, read_manifest
from service.metrics import Metrics
from service.registry import find_model, open_model
from service.settings import Settings
from service.text.decoder import TextDecoder
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams, log_softmax
from service.text.task import GenerateRequest, generate


def _graphs(manifest: ForecastManifest | TextManifest) -> dict[str, Graph]:
    graphs = {manifest.name: manifest.graph}
    return graphs | ({f"{manifest.name}, int8": manifest.int8.graph} if manifest.int8 else {})


class ForecastModel:
    """A forecaster over arrays, on an engine of its own. Close it when done."""

    def __init__(self, engine: Engine, manifest: ForecastManifest) -> None:
        self._engine = engine
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> dict[str, "ForecastModel"]:
        """The forecaster of a model folder in float32 and, where there is a graph of it, in int8; by name.

        Raises:
            ValueError: the folder holds no forecaster.
        """
        manifest = read_manifest(folder, ForecastManifest)
        return {name: cls.of_folder(folder, manifest, graph) for name, graph in _graphs(manifest).items()}

    @classmethod
    def of_folder(cls, folder: Path, manifest: ForecastManifest, graph: Graph) -> "ForecastModel":
        """The forecaster of one graph of a folder."""
        engine = Engine(
            manifest.name,
            Runner(folder, graph, threads=1),
            None,
            split_invariant=False,
            max_waiting_steps=sys.maxsize,
            metrics=Metrics().engine(manifest.name),
            chunk=min(CHUNK, graph.max_steps),
        )
        return cls(engine, manifest)

    def submit(self, request: ForecastRequest, season_length: tuple[int, ...] | None = None) -> "Future[Forecast]":
        """Begin a forecast. Without `season_length`, the model finds the season in the values.

        Raises:
            InvalidRequestError: the season is longer than the model can hold.
        """
        start = initial_state(self.manifest, season_length)
        return self._engine.submit(forecast(self.manifest, request, start), request.cost_steps)

    def one_step(self, series: NDArray[np.float64], season: int) -> NDArray[np.float64]:
        """The quantiles (T, Q) of the value after each step of a series (T, F); season: its values per season, 1 where
        it is not known."""
        request = ForecastRequest(series, 1, self.manifest.quantile_levels, include_history=True)
        result = self.submit(request, usual_season(self.manifest, None, season)).result()
        assert result.history is not None
        return np.concatenate([result.history[1:], result.quantiles])

    def unroll(self, history: NDArray[np.float64], horizon: int, season: int) -> NDArray[np.float64]:
        """Feed the median back as if it had been observed, for one feature: (T, 1) -> (horizon,)."""
        request = ForecastRequest(history, horizon, self.manifest.quantile_levels)
        return self.submit(request, usual_season(self.manifest, None, season)).result().median

    def close(self) -> None:
        """End the engine."""
        self._engine.close()


SeasonedRequest = tuple[ForecastRequest, tuple[int, ...] | None]
"""A request and its season, as `ForecastModel.submit` takes them."""
QuantilesOrReason = NDArray[np.float64] | str
"""Quantiles (horizon, L), or the reason why the model gives none."""


def usual_season(manifest: ForecastManifest, freq: str | None, season: int) -> tuple[int, ...] | None:
    """The seasons to tell a model of a series: those of its frequency, if the service knows the frequency, else the one
    that the data name (1: none), as far as the model can hold them. None tells it nothing."""
    seasons: tuple[int, ...] | None = None
    if freq:
        with suppress(InvalidRequestError):
            seasons = seasons_of(freq)
    seasons = seasons or ((season,) if season > 1 else ())
    return tuple(length for length in seasons if length <= manifest.longest_season) or None


def find_forecaster(settings: Settings, name: str | None) -> ForecastManifest:
    """The manifest of the forecaster "name" or "name@version" in `settings.models_dir`; without a name, of the default.

    Raises:
        CarryError: there is no such model.
    """
    return find_model(settings, KINDS, name, FORECAST)


class ForecastProcesses:
    """`settings.processes` processes that forecast with the model `name`. They start while their owner reads its data.
    A context manager."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._pool = ProcessPoolExecutor(settings.processes, get_context("spawn"), initializer=_import_this)
        self._pool.submit(_import_this)

    def __enter__(self) -> "ForecastProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def forecast(self, requests: Sequence[SeasonedRequest]) -> list[QuantilesOrReason]:
        """As `forecast_all`, spread over the processes."""
        count = self._settings.processes
        # Each process gets short and long series alike.
        order = sorted(range(len(requests)), key=lambda i: requests[i][0].cost_steps)
        shares = [order[first::count] for first in range(count)]
        results: list[QuantilesOrReason] = [""] * len(requests)
        portions = [[requests[i] for i in share] for share in shares]
        run = partial(forecast_all, self._settings, self._name)
        for share, portion in zip(shares, self._pool.map(run, portions), strict=True):
            for i, result in zip(share, portion, strict=True):
                results[i] = result
        return results


def _import_this() -> None:
    """Makes a process that runs it import this module."""


def forecast_all(settings: Settings, name: str, requests: Sequence[SeasonedRequest]) -> list[QuantilesOrReason]:
    """The quantiles (horizon, L) of each request by the model `name`, or the reason why there are none.

    Raises:
        CarryError: there is no such model.
    """
    opened = open_model(
        settings.model_copy(update={"max_waiting_steps": sys.maxsize}), KINDS, Metrics(), name, FORECAST
    )
    try:
        model = ForecastModel(opened.engine, opened.manifest)
        pending: list[Future[Forecast] | str] = []
        for request, season in requests:
            try:
                pending.append(model.submit(request, season))
            except InvalidRequestError as error:
                pending.append(error.detail)
        results: list[QuantilesOrReason] = []
        for future in pending:
            try:
                results.append(future if isinstance(future, str) else future.result().quantiles)
            except (InvalidRequestError, NonFiniteOutputError) as error:
                results.append(error.detail)
        return results
    finally:
        opened.engine.close()


class LanguageModel:
    """A text model over tokens."""

    def __init__(self, runner: Runner, manifest: TextManifest, max_steps: int) -> None:
        self._runner = runner
        self._max_steps = max_steps
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> dict[str, "LanguageModel"]:
        """The text model of a model folder in float32 and, where there is a graph of it, in int8; by name.

        Raises:
            ValueError: the folder holds no text model.
        """
        manifest = read_manifest(folder, TextManifest)
        return {name: cls.of_folder(folder, manifest, graph) for name, graph in _graphs(manifest).items()}

    @classmethod
    def of_folder(cls, folder: Path, manifest: TextManifest, graph: Graph) -> "LanguageModel":
        """The text model of one graph of a folder."""
        return cls(Runner(folder, graph, threads=0), manifest, graph.max_steps)

    def log_probabilities(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """The natural logarithms (T, V) of the next token's probabilities after each of the tokens (T,)."""
        states, logarithms = self._runner.initial_states(1), []
        for start in range(0, len(tokens), self._max_steps):
            piece = tokens[None, start : start + self._max_steps]
            lengths = np.array([piece.shape[1]])
            [logits], states = self._runner.prefill({"tokens": piece}, lengths, states, ["logits_all"])
            logarithms.append(log_softmax(logits[0].astype(np.float32)))
        return np.concatenate(logarithms)

    def nats(self, documents: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """What each document (T,) costs in nats, read once from its start with the state carried. The model reads the
        first token, and predicts the others."""
        costs = np.zeros(len(documents))
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i]))
        for first in range(0, len(order), DOCUMENTS):
            rows = order[first : first + DOCUMENTS]
            costs[rows] = self._nats([documents[i] for i in rows])
        return costs

    def _nats(self, documents: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """As `nats`, of documents that are read side by side. The longest come first, so that those that go on are the
        first rows."""
        total = np.zeros(len(documents))
        expected = np.array([len(tokens) - 1 for tokens in documents])
        size = max(1, min(self._max_steps, SCORES // (len(documents) * len(self.manifest.vocabulary))))
        states = self._runner.initial_states(len(documents))
        for at in range(0, int(expected.max(initial=0)), size):
            lengths = np.minimum(expected[expected > at] - at, size)
            tokens = np.zeros((len(lengths), lengths[0] + 1), dtype=np.int64)
            for row, document in zip(tokens, documents, strict=False):
                piece = document[at : at + tokens.shape[1]]
                row[: len(piece)] = piece
            states = {name: array[: len(lengths)] for name, array in states.items()}
            [logits], states = self._runner.prefill({"tokens": tokens[:, :-1]}, lengths, states, ["logits_all"])
            scores = logits.astype(np.float32, copy=False)
            actual = np.take_along_axis(scores, tokens[:, 1:, None], axis=2)[..., 0]
            highest = scores.max(axis=2, keepdims=True)
            costs = np.log(np.exp(scores - highest).sum(axis=2, dtype=np.float64)) + highest[..., 0] - actual
            total[: len(lengths)] += np.where(np.arange(costs.shape[1]) < lengths[:, None], costs, 0.0).sum(axis=1)
        return total


DOCUMENTS = 32
"""Documents read side by side."""
SCORES = 1 << 22
"""Scores in one call of the graph, at most: these are 16 MiB."""


class TextWriter:
    """A text model that writes, on an engine of its own. Close it when done."""

    def __init__(self, folder: Path, manifest: TextManifest, prefill: Graph, decode: Graph) -> None:
        """prefill, decode: the graph that reads a prompt and the one that decodes."""
        self.manifest = manifest
        self._engine = Engine(
            manifest.name,
            Runner(folder, prefill, threads=1),
            DecodeGraph(Runner(folder, decode, threads=1), TextDecoder(manifest.vocabulary)),
            split_invariant=True,
            max_waiting_steps=sys.maxsize,
            metrics=Metrics().engine(manifest.name),
            chunk=min(CHUNK, prefill.max_steps),
        )

    def write(self, requests: Sequence[GenerateRequest]) -> list[str]:
        """The text of each request, of one text each."""
        submitted = []
        for request in requests:
            [row], task = generate(self.manifest.tokenizer, request)
            submitted.append((row, self._engine.submit(task, request.cost_steps)))
        texts = []
        for row, future in submitted:
            future.result()
            texts.append(row.text)
        return texts

    def write_targets(self, sources: Sequence[str], max_length: int) -> list[str]:
        """Of a model of pairs, the target of each source: always the most probable token next, until the end mark, or
        until there are `max_length` tokens."""
        pairs, greedy = self.manifest.pairs, SamplingParams(temperature=0.0)
        assert pairs is not None
        return self.write(
            [
                GenerateRequest(source + pairs.separator, max_length, greedy, seed=0, stop=(pairs.end,))
                for source in sources
            ]
        )

    def close(self) -> None:
        """End the engine."""
        self._engine.close()


def write_samples(
    folder: Path, manifest: TextManifest, graphs: tuple[Graph, Graph], prompt: str, temperatures: Sequence[float]
) -> list[str]:
    """What a model writes after a prompt, for each temperature: about 400 characters, by a fixed seed. graphs: the one
    that reads the prompt and the one that decodes."""
    length = 400 if manifest.unit == "character" else 80
    with closing(TextWriter(folder, manifest, *graphs)) as writer:
        return writer.write(
            [GenerateRequest(prompt, length, SamplingParams(temperature=t), seed=1) for t in temperatures]
        )

"""Runs an exported graph over many sequences at once: for the agreement check and for evaluation, so that what is
measured is what will be served. A forecaster is driven by the service's own engine and forecasting. Knows no HTTP.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.decode import DecodeGraph
from service.engine.engine import Engine
from service.engine.prefill import CHUNK
from service.engine.runner import Runner
from service.errors import InvalidRequestError, NonFiniteOutputError
from service.forecast.kind import FORECAST
from service.forecast.manifest import ForecastManifest
from service.forecast.task import Forecast, ForecastRequest, begin, forecast
from service.forecast.timestamps import seasons_of
from service.kinds import KINDS
from service.manifest import PER_STEP_OUTPUTS, Graph, State, read_manifest
from service.metrics import Metrics
from service.registry import find_model, open_model
from service.settings import Settings
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams, log_softmax
from service.text.task import CharacterDecoder, GenerateRequest, continuation, generate
from training.data.texts import Encoded
from training.evaluation.windows import Window

Array = NDArray[np.generic]

Hint = Literal["usual", "season", "none"]
"""What a caller tells a model of a window's season: the usual seasons of its frequency, such as the day and the week of
hourly values; the one season that the measures scale by; or nothing."""


class GraphSession:
    """An ONNX graph with its state: feed it pieces of sequences, as the manifest describes them."""

    def __init__(self, model: Path | bytes, state: Sequence[State], max_steps: int, threads: int = 0) -> None:
        """`threads`: 0 for as many as there are cores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._state = state
        self.max_steps = max_steps

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
        for start in range(0, steps, self.max_steps):
            piece = {name: array[:, start : start + self.max_steps] for name, array in feeds.items()}
            size = min(self.max_steps, steps - start)
            piece["lengths"] = np.full(batch, size, dtype=np.int64)
            results, state = self.step(piece, state, outputs)
            yield results


def _graphs(manifest: ForecastManifest | TextManifest) -> dict[str, Graph]:
    graphs = {manifest.name: manifest.graph}
    return graphs | ({f"{manifest.name}, int8": manifest.int8.graph} if manifest.int8 else {})


class ForecastModel:
    """An exported forecaster over arrays: the service's own forecasting on an engine of its own. Close it when done."""

    def __init__(self, engine: Engine, manifest: ForecastManifest) -> None:
        self._engine = engine
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> dict[str, "ForecastModel"]:
        """The forecaster of a model folder, by name; also in int8, where there is one.

        Raises:
            ValueError: the folder holds no forecaster.
        """
        manifest = read_manifest(folder, ForecastManifest)
        return {name: cls.of_folder(folder, manifest, graph) for name, graph in _graphs(manifest).items()}

    @classmethod
    def of_folder(cls, folder: Path, manifest: ForecastManifest, graph: Graph) -> "ForecastModel":
        """The forecaster that one of the graphs in a folder is."""
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
        """Begin a forecast; without a season, it is found in the values.

        Raises:
            InvalidRequestError: the model cannot hold such a season.
        """
        start = begin(self.manifest, season_length)
        return self._engine.submit(forecast(self.manifest, request, start), request.cost_steps)

    def forecast(
        self, windows: Sequence[Window], horizon: int, levels: Sequence[float], hint: Hint = "usual"
    ) -> NDArray[np.float64]:
        """Forecast what follows each history as far as its truth goes, with a hint of the season and the future of
        features known ahead: quantiles (N, horizon, Q), NaN beyond.

        Raises:
            CarryError: the model refuses a series.
        """
        pending = []
        for w in windows:
            request = ForecastRequest(w.history, len(w.truth), tuple(levels), future=known_future(w, self.manifest))
            pending.append(self.submit(request, hinted_season(self.manifest, w, hint)))
        found = np.full((len(windows), horizon, len(levels)), np.nan)
        for row, window, future in zip(found, windows, pending, strict=True):
            row[: len(window.truth)] = future.result().quantiles
        return found

    def one_step(self, series: NDArray[np.float64], season: int) -> NDArray[np.float64]:
        """A series (T, F) of so many values per season (1: not known) -> the quantiles (T, Q) of the value after each
        step."""
        request = ForecastRequest(series, 1, self.manifest.quantile_levels, include_history=True)
        found = self.submit(request, usual_season(self.manifest, None, season)).result()
        assert found.history is not None
        return np.concatenate([found.history[1:], found.quantiles])

    def unroll(self, history: NDArray[np.float64], horizon: int, season: int) -> NDArray[np.float64]:
        """Let it go on by itself, the median fed back as if it had been observed, for one feature: (T, 1) ->
        (horizon,)."""
        request = ForecastRequest(history, horizon, self.manifest.quantile_levels)
        return self.submit(request, usual_season(self.manifest, None, season)).result().median

    def close(self) -> None:
        """End the engine."""
        self._engine.close()


def known_future(window: Window, manifest: ForecastManifest) -> NDArray[np.float64] | None:
    """What followed of the features known ahead, (H, K); None where there are none."""
    if window.future is None or not manifest.known_ahead:
        return None
    return window.future[:, [manifest.features.index(name) for name in manifest.known_ahead]]


Asked = tuple[ForecastRequest, tuple[int, ...] | None]
"""A forecast, and the season (as in `ForecastModel.submit`)."""
Answer = NDArray[np.float64] | str
"""Quantiles (horizon, L), or why there are none."""


def usual_season(manifest: ForecastManifest, freq: str | None, season: int) -> tuple[int, ...] | None:
    """What to say of the season of a series: that of its frequency, where the service reads it so, else the one that is
    known of the data (1: none), as far as the model can hold them; None: nothing."""
    usual: tuple[int, ...] | None = None
    if freq:
        with suppress(InvalidRequestError):
            usual = seasons_of(freq)
    usual = usual or ((season,) if season > 1 else ())
    return tuple(one for one in usual if one <= manifest.longest_season) or None


def hinted_season(manifest: ForecastManifest, window: Window, hint: Hint) -> tuple[int, ...] | None:
    """The season of a window that a model is told; None for nothing."""
    if hint == "none":
        return None
    return usual_season(manifest, window.group if hint == "usual" else None, window.season)


def find_forecaster(settings: Settings, name: str | None) -> ForecastManifest:
    """The manifest of the forecaster "name" or "name@version" in `settings.models_dir`; without a name, the default's.

    Raises:
        CarryError: there is no such model.
    """
    return find_model(settings, KINDS, name, FORECAST)


class Forecasters:
    """Processes, as many as `settings.processes`, that forecast with the model `name`. They start at once, so that
    their owner can read its data meanwhile. A context manager."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._pool = ProcessPoolExecutor(settings.processes, get_context("spawn"), initializer=_import_this)
        self._pool.submit(_import_this)

    def __enter__(self) -> "Forecasters":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def forecast(self, asked: Sequence[Asked]) -> list[Answer]:
        """As `forecast_all`, spread over the processes."""
        count = self._settings.processes
        # As long series as the others have: each process gets of every length.
        order = sorted(range(len(asked)), key=lambda i: asked[i][0].cost_steps)
        shares = [order[first::count] for first in range(count)]
        answers: list[Answer] = [""] * len(asked)
        portions = [[asked[i] for i in share] for share in shares]
        for share, found in zip(
            shares, self._pool.map(partial(forecast_all, self._settings, self._name), portions), strict=True
        ):
            for i, answer in zip(share, found, strict=True):
                answers[i] = answer
        return answers


def _import_this() -> None:
    """Sent to a process, makes it import this module."""


def forecast_all(settings: Settings, name: str, asked: Sequence[Asked]) -> list[Answer]:
    """The quantiles (horizon, L) of each forecast by the model `name`, or why there is none.

    Raises:
        CarryError: there is no such model.
    """
    chosen = open_model(
        settings.model_copy(update={"max_waiting_steps": sys.maxsize}), KINDS, Metrics(), name, FORECAST
    )
    try:
        model = ForecastModel(chosen.engine, chosen.manifest)
        pending: list[Future[Forecast] | str] = []
        for request, season in asked:
            try:
                pending.append(model.submit(request, season))
            except InvalidRequestError as error:
                pending.append(error.detail)
        answers: list[Answer] = []
        for future in pending:
            try:
                answers.append(future if isinstance(future, str) else future.result().quantiles)
            except (InvalidRequestError, NonFiniteOutputError) as error:
                answers.append(error.detail)
        return answers
    finally:
        chosen.engine.close()


class LanguageModel:
    """An exported text model over tokens."""

    def __init__(self, session: GraphSession, manifest: TextManifest) -> None:
        self._session = session
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> dict[str, "LanguageModel"]:
        """The text model of a model folder, by name; also in int8, where there is one.

        Raises:
            ValueError: the folder holds no text model.
        """
        manifest = read_manifest(folder, TextManifest)
        return {name: cls.of_folder(folder, manifest, graph) for name, graph in _graphs(manifest).items()}

    @classmethod
    def of_folder(cls, folder: Path, manifest: TextManifest, graph: Graph) -> "LanguageModel":
        """The text model that one of the graphs in a folder is."""
        return cls(GraphSession.open(folder, graph), manifest)

    def log_probabilities(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Tokens (T,) -> natural logarithms of the next token's probabilities after each (T, V)."""
        pieces = self._session.read({"tokens": tokens[None]}, ["logits_all"])
        return np.concatenate([log_softmax(piece["logits_all"][0].astype(np.float32)) for piece in pieces])

    def nats(self, documents: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """What each document (T,) costs in all: it is read once from its start, with the state carried. Its first token
        is read, not predicted."""
        found = np.zeros(len(documents))
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i]))
        for first in range(0, len(order), DOCUMENTS):
            some = order[first : first + DOCUMENTS]
            found[some] = self._nats([documents[i] for i in some])
        return found

    def _nats(self, documents: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Of documents that are read side by side, the longest first, so that those that go on are the first rows."""
        found = np.zeros(len(documents))
        expected = np.array([len(tokens) - 1 for tokens in documents])
        size = max(1, min(self._session.max_steps, SCORES // (len(documents) * len(self.manifest.vocabulary))))
        state: Mapping[str, Array] = self._session.fresh_state(len(documents))
        for at in range(0, int(expected.max(initial=0)), size):
            lengths = np.minimum(expected[expected > at] - at, size)
            tokens = np.zeros((len(lengths), lengths[0] + 1), dtype=np.int64)
            for row, document in zip(tokens, documents, strict=False):
                piece = document[at : at + tokens.shape[1]]
                row[: len(piece)] = piece
            feeds = {"tokens": tokens[:, :-1], "lengths": lengths}
            state = {name: array[: len(lengths)] for name, array in state.items()}
            outputs, state = self._session.step(feeds, state, ["logits_all"])
            scores = outputs["logits_all"].astype(np.float32, copy=False)
            came = np.take_along_axis(scores, tokens[:, 1:, None], axis=2)[..., 0]
            highest = scores.max(axis=2, keepdims=True)
            costs = np.log(np.exp(scores - highest).sum(axis=2, dtype=np.float64)) + highest[..., 0] - came
            found[: len(lengths)] += np.where(np.arange(costs.shape[1]) < lengths[:, None], costs, 0.0).sum(axis=1)
        return found


DOCUMENTS = 32
"""Documents read side by side."""
SCORES = 1 << 22
"""Scores in one call of the graph, at most: these are 16 MiB."""


def text_scores(manifest: TextManifest, documents: Sequence[Encoded], nats: float) -> dict[str, float]:
    """The measures of what documents cost together. The first token of a document is not predicted, so its characters
    do not count; an unknown word costs what its token does."""
    characters = max(1, sum(document.characters for document in documents))
    scores = {"bits_per_character": nats / math.log(2) / characters, "nats_per_character": nats / characters}
    if manifest.unit == "word":
        words = sum(max(0, len(document.tokens) - 1) for document in documents)
        scores["perplexity_per_word"] = math.exp(nats / max(1, words))
    return scores


def write_samples(
    folder: Path, manifest: TextManifest, graphs: tuple[Graph, Graph], prompt: str, temperatures: Sequence[float]
) -> list[str]:
    """What the service's own engine writes after a prompt, with the graphs that read and that decode: a text of about
    400 characters for each temperature, with a fixed seed."""
    read, decode = graphs
    engine = Engine(
        manifest.name,
        Runner(folder, read, threads=1),
        DecodeGraph(Runner(folder, decode, threads=1), CharacterDecoder(manifest.vocabulary)),
        split_invariant=True,
        max_waiting_steps=sys.maxsize,
        metrics=Metrics().engine(manifest.name),
        chunk=min(CHUNK, read.max_steps),
    )
    tokenizer = manifest.tokenizer
    length = 400 if manifest.unit == "character" else 80
    try:
        texts = []
        for temperature in temperatures:
            request = GenerateRequest(prompt, length, SamplingParams(temperature=temperature), seed=1)
            [row], task = generate(tokenizer, request)
            engine.submit(task, request.cost_steps).result()
            texts.append(continuation(tokenizer, row, 0).text)
        return texts
    finally:
        engine.close()

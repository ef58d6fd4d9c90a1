"""The shipped float32 models on plain ONNX Runtime, as every ONNX peer uses them. Needs numpy and onnxruntime only."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

MODELS = Path("models")
PREFILL_STEPS = 512
"""Most time steps of a prompt or series in one call."""

State = dict[str, NDArray[Any]]


class OnnxModel:
    """A model folder: its session, and one call on a batch with the state carried."""

    def __init__(self, name: str, threads: int = 0) -> None:
        folder = max((MODELS / name).glob("[0-9]*"), key=lambda path: int(path.name))
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._state = self.manifest["graph"]["state"]
        # Whether outputs for every step are wanted as well: they are not.
        per_step = any(given["name"] == "per_step" for given in self.manifest["graph"]["inputs"])
        self._options = {"per_step": np.array(False)} if per_step else {}
        self._outputs = [self.manifest["graph"]["outputs"][0]["name"], *(s["output"] for s in self._state)]

    def fresh_state(self, batch: int) -> State:
        """The state of `batch` sequences of which nothing was seen yet."""
        return {s["name"]: np.full((batch, *s["shape"]), s["initial"], dtype=s["dtype"]) for s in self._state}

    def run(self, inputs: dict[str, NDArray[Any]], state: State) -> tuple[NDArray[Any], State]:
        """The first output and the state after it."""
        output, *after = self._session.run(self._outputs, {**inputs, **state, **self._options})
        return output, {s["name"]: value for s, value in zip(self._state, after, strict=True)}

    def read(self, inputs: dict[str, NDArray[Any]], lengths: NDArray[np.int64]) -> tuple[NDArray[Any], State]:
        """The first output after the whole of each row, and the state there. In pieces; rows that ended sit out."""
        state = self.fresh_state(len(lengths))
        output: NDArray[Any] | None = None
        for start in range(0, int(lengths.max()), PREFILL_STEPS):
            rows = np.flatnonzero(lengths > start)
            left = np.minimum(lengths[rows] - start, PREFILL_STEPS)
            stop = start + int(left.max())
            piece = {name: value[rows, start:stop] for name, value in inputs.items()}
            part, after = self.run(piece | {"lengths": left}, {name: value[rows] for name, value in state.items()})
            if output is None:
                output = np.zeros((len(lengths), *part.shape[1:]), part.dtype)
            output[rows] = part
            for name, value in after.items():
                state[name][rows] = value
        assert output is not None
        return output, state


@dataclass(frozen=True)
class TextRequest:
    """A request to continue a text."""

    prompt: str
    max_length: int
    temperature: float
    seed: int


class OnnxText(OnnxModel):
    """The text model: characters to characters, a batch in lockstep."""

    def __init__(self, threads: int = 0) -> None:
        super().__init__("text", threads)
        self._characters = np.array(self.manifest["vocabulary"])
        self._tokens = {character: token for token, character in enumerate(self.manifest["vocabulary"])}

    def generate(self, requests: Sequence[TextRequest]) -> Iterator[list[str]]:
        """One character for each request and step, "" once it has all of its own, until the longest is done."""
        lengths = np.array([len(request.prompt) for request in requests], dtype=np.int64)
        tokens = np.zeros((len(requests), lengths.max()), dtype=np.int64)
        for row, request in zip(tokens, requests, strict=True):
            row[: len(request.prompt)] = [self._tokens.get(character, 0) for character in request.prompt]
        temperatures = np.array([[request.temperature] for request in requests], dtype=np.float32)
        longest = max(request.max_length for request in requests)
        uniforms = np.array([np.random.default_rng(request.seed).random(longest) for request in requests])
        limits = [request.max_length for request in requests]
        ones = np.ones(len(requests), dtype=np.int64)
        logits, state = self.read({"tokens": tokens}, lengths)
        for step in range(longest):
            tokens = sample(logits / temperatures, uniforms[:, step : step + 1])
            characters = self._characters[tokens].tolist()
            yield [character if step < limit else "" for character, limit in zip(characters, limits, strict=True)]
            if step + 1 < longest:
                logits, state = self.run({"tokens": tokens[:, None], "lengths": ones}, state)


def sample(logits: NDArray[Any], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """A token of each row (B, V) by the inverse of its cumulative probabilities at (B, 1); never the unknown one."""
    logits[:, 0] = -np.inf
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = weights.cumsum(axis=1, dtype=np.float64)
    chosen: NDArray[np.int64] = (cumulative <= uniforms * cumulative[:, -1:]).sum(axis=1)
    return chosen.clip(max=logits.shape[1] - 1)


class OnnxForecast(OnnxModel):
    """The forecast model: series to quantiles by level."""

    def __init__(self, threads: int = 0) -> None:
        super().__init__("forecast", threads)
        self._levels = [f"{level:g}" for level in self.manifest["quantile_levels"]]

    def forecast(self, series: Sequence[Sequence[float]], horizon: int) -> list[dict[str, list[float]]]:
        """The quantiles of the next `horizon` values of each series (the model knows 24)."""
        lengths = np.array([len(values) for values in series], dtype=np.int64)
        padded = np.zeros((len(series), lengths.max(), 1))
        mask = np.zeros((len(series), lengths.max(), 1), dtype=np.float32)
        for row, values in enumerate(series):
            padded[row, : len(values), 0] = values
            mask[row, : len(values)] = 1
        quantiles, _ = self.read({"values": padded, "mask": mask}, lengths)
        return [{level: row[:horizon, i].tolist() for i, level in enumerate(self._levels)} for row in quantiles]

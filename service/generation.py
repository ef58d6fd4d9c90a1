"""A text request, from characters to characters, on one model's graph. Knows nothing of HTTP."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Runner, States, fork, take
from service.errors import NotPredictableError
from service.manifest import TextManifest
from service.sampling import SamplingParams, derived_seeds, log_softmax, sample, uniforms

Candidate = tuple[str, float]
"""A character and its probability."""


class Tokenizer:
    """Characters to tokens and back, as the manifest says."""

    def __init__(self, manifest: TextManifest) -> None:
        self._characters = manifest.vocabulary
        self._tokens = {character: token for token, character in enumerate(manifest.vocabulary)}
        self._replacements = str.maketrans(manifest.replacements)

    def encode(self, text: str) -> tuple[str, NDArray[np.int64]]:
        """The text with its replacements made, and its tokens (T,), 0 where unknown."""
        text = text.translate(self._replacements)
        return text, np.fromiter((self._tokens.get(c, 0) for c in text), dtype=np.int64, count=len(text))

    def unknown(self, text: str) -> list[str]:
        """The characters outside of the vocabulary, each once, in order."""
        return [c for c in dict.fromkeys(text.translate(self._replacements)) if c not in self._tokens]

    def start(self) -> int:
        """The token that stands for "nothing came before": a new line, where the model knows one."""
        return self._tokens.get("\n", 0)

    def character(self, token: int) -> str:
        """The character of a token; "" of the unknown one."""
        return self._characters[token]

    def candidates(self, logs: NDArray[np.float64], count: int) -> list[Candidate]:
        """The most probable known characters of one distribution (V,), best first."""
        count = min(count, len(logs) - 1)
        if not count:
            return []
        best = 1 + np.argpartition(-logs[1:], count - 1)[:count]
        best = best[np.argsort(-logs[best], kind="stable")]
        return [(self._characters[token], math.exp(logs[token])) for token in best]


@dataclass(frozen=True)
class GenerateRequest:
    """`n` texts of at most `max_length` characters each; `logprobs`: how many candidates to tell at each."""

    prompt: str
    max_length: int
    params: SamplingParams
    seed: int
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int = 0


@dataclass(frozen=True)
class Chosen:
    """A character generated, its probability, and the most probable ones there."""

    character: str
    probability: float
    candidates: list[Candidate]


@dataclass(frozen=True)
class Continuation:
    """One generated text. finish_reason: "length" or "stop"."""

    text: str
    finish_reason: str
    chosen: list[Chosen]


class _Row:
    """A text being generated."""

    def __init__(self) -> None:
        self.text = ""
        self.chosen: list[Chosen] = []
        self.stopped = False

    def stop_at(self, stops: Sequence[str]) -> None:
        """End before the stop text that has just been completed, if any; of several, the one that began first."""
        completed = [len(stop) for stop in stops if self.text.endswith(stop)]
        if completed:
            self.text = self.text[: -max(completed)]
            self.stopped = True


def generate(runner: Runner, manifest: TextManifest, request: GenerateRequest) -> list[Continuation]:
    """Read the prompt once and continue it `n` times, as one batch whose rows leave when they stop.

    Raises:
        NotPredictableError: the model gives no finite scores.
    """
    tokenizer = Tokenizer(manifest)
    _, tokens = tokenizer.encode(request.prompt)
    if not len(tokens):
        tokens = np.array([tokenizer.start()])
    scores, states = runner.prefill({"tokens": tokens[None]}, runner.fresh(1), "logits")
    rows = [_Row() for _ in range(request.n)]
    states = fork(states, request.n)
    scores = np.repeat(scores, request.n, axis=0)
    seeds = derived_seeds(request.seed, request.n)
    seen = np.zeros(scores.shape, dtype=bool)
    seen[:, tokens] = True
    active = np.arange(request.n)
    for position in range(len(tokens), len(tokens) + request.max_length):
        if not np.isfinite(scores).all():
            raise NotPredictableError("the model gives no finite scores after this prompt", "$.prompt")
        uniform = uniforms(seeds[active], np.full(len(active), position))
        chosen = sample(scores, request.params, seen[active], uniform)
        seen[active, chosen] = True
        logs = log_softmax(scores) if request.logprobs else None
        for i, (row, token) in enumerate(zip((rows[j] for j in active), chosen, strict=True)):
            character = tokenizer.character(int(token))
            row.text += character
            if logs is not None:
                best = tokenizer.candidates(logs[i], request.logprobs)
                row.chosen.append(Chosen(character, math.exp(logs[i, token]), best))
            row.stop_at(request.stop)
        going = np.array([i for i, j in enumerate(active) if not rows[j].stopped], dtype=np.int64)
        if not len(going) or position == len(tokens) + request.max_length - 1:
            break
        active = active[going]
        scores, states = _decode(runner, chosen[going], take(states, going) if len(going) < len(chosen) else states)
    return [Continuation(row.text, "stop" if row.stopped else "length", row.chosen[: len(row.text)]) for row in rows]


def _decode(runner: Runner, tokens: NDArray[np.int64], states: States) -> tuple[NDArray[np.float32], States]:
    (scores,), after = runner.step({"tokens": tokens[:, None]}, states, ["logits"])
    return scores.astype(np.float32, copy=False), after


@dataclass(frozen=True)
class Position:
    """A character of the text, the probability it had given those before it (None for the first), and what the model
    expects next."""

    character: str
    probability: float | None
    candidates: list[Candidate]


@dataclass(frozen=True)
class Prediction:
    """What follows a text; per position, if asked for, with the text's mean cost in bits per character."""

    candidates: list[Candidate]
    positions: list[Position] | None
    bits_per_character: float | None


def predict(runner: Runner, manifest: TextManifest, text: str, top_k: int, per_position: bool) -> Prediction:
    """The next character's distribution after the text, or after each of its characters.

    Raises:
        NotPredictableError: the model gives no finite scores.
    """
    tokenizer = Tokenizer(manifest)
    text, tokens = tokenizer.encode(text)
    if not len(tokens):
        text, tokens = "", np.array([tokenizer.start()])
    positions: list[Position] = []
    nats = 0.0
    logs = np.empty((0, len(manifest.vocabulary)))
    output = "logits_all" if per_position else "logits"
    for (scores,), _ in runner.read({"tokens": tokens[None]}, runner.fresh(1), [output]):
        if not np.isfinite(scores).all():
            raise NotPredictableError("the model gives no finite scores after this text", "$.text")
        before, logs = logs[-1:], log_softmax(scores.reshape(-1, scores.shape[-1]))
        if per_position and text:
            expected = np.concatenate([before, logs])
            skipped = len(expected) - len(logs)  # 1 but for the first chunk, whose first character nothing precedes
            for i, row in enumerate(logs):
                at = len(positions)
                log = expected[i - 1 + skipped][tokens[at]] if at else None
                nats -= log or 0.0
                probability = None if log is None else math.exp(log)
                positions.append(Position(text[at], probability, tokenizer.candidates(row, top_k)))
    bits = nats / math.log(2) / (len(positions) - 1) if len(positions) > 1 else None
    return Prediction(tokenizer.candidates(logs[-1], top_k), positions if per_position else None, bits)

"""A text request, from characters to characters, as a task for the engine. Knows nothing of HTTP."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, States
from service.engine.sequence import FRESH, Decode, Read, Result, Snapshot, Task, repeat
from service.errors import NotPredictableError
from service.manifest import TextManifest
from service.sampling import SamplingParams, controls, derived_seeds, log_softmax, uniforms

Candidate = tuple[str, float]
"""A character and its probability."""


class Tokenizer:
    """Characters to tokens and back, as the manifest says."""

    def __init__(self, manifest: TextManifest) -> None:
        self._characters = manifest.vocabulary
        self.size = len(manifest.vocabulary)
        self._replacements = str.maketrans(manifest.replacements)
        # By code point; the last one stands for all that the vocabulary does not reach.
        self._tokens = np.zeros(2 + max(ord("\n"), *map(ord, manifest.vocabulary[1:])), dtype=np.int64)
        self._tokens[[ord(character) for character in manifest.vocabulary[1:]]] = np.arange(1, len(self._characters))

    def encode(self, text: str) -> tuple[str, NDArray[np.int64]]:
        """The text with its replacements made, and its tokens (T,), 0 where unknown."""
        text = text.translate(self._replacements)
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        return text, self._tokens[np.minimum(points, len(self._tokens) - 1)]

    def unknown(self, text: str) -> list[str]:
        """The characters outside of the vocabulary, each once, in order."""
        known = frozenset(self._characters)
        return [c for c in dict.fromkeys(text.translate(self._replacements)) if c not in known]

    def start(self) -> int:
        """The token that stands for "nothing came before": a new line, where the model knows one."""
        return int(self._tokens[ord("\n")])

    def candidates(self, logs: NDArray[np.float64], count: int) -> list[list[Candidate]]:
        """The most probable known characters of each distribution (N, V), best first."""
        count = min(count, logs.shape[1] - 1)
        known = logs[:, 1:]
        best = np.argpartition(-known, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(known, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        chances = np.exp(np.take_along_axis(known, best, axis=1))
        return [
            [(self._characters[1 + token], chance) for token, chance in zip(*row, strict=True)]
            for row in zip(best.tolist(), chances.tolist(), strict=True)
        ]


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

    @property
    def work(self) -> int:
        """Steps at most."""
        return len(self.prompt) + self.max_length * self.n


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


Listener = Callable[[list["Row"]], None]
"""Told on the engine's thread, after each step, of the rows that have new text."""


class Row:
    """A text being generated. `start`: its place in the whole text; `keeps`: whether it notes where it stands."""

    def __init__(self, request: GenerateRequest, seed: int, start: int, keeps: bool, listener: Listener | None) -> None:
        self.params = request.params
        self.seed = seed
        self.start = start
        self.keeps = keeps
        self.kept: tuple[int, States] | None = None
        """The state after so many of its own steps, none of which will be taken back."""
        self.prompt: list[int] = []
        """What it has yet to read."""
        self.steps = 0
        """Those that it has gone since it joined, reading and writing."""
        self.left = request.max_length
        self.stops = request.stop
        self.listener = listener
        self.text: list[str] = []
        self.ready = 0
        """Characters that are sure to stay: all but what may be the beginning of a stop text."""
        self.stopped = False
        self.failed = False
        self.scores: list[NDArray[np.float32]] | None = [] if request.logprobs else None
        self._whole = request.max_length
        self._given = 0
        self._longest = max(map(len, request.stop), default=0)

    @property
    def written(self) -> int:
        """Characters generated so far, before any stop text was taken away."""
        return self._whole - self.left

    def take(self, characters: Sequence[str]) -> int:
        """Add characters, no more than are wanted; how many of them it read. Ends before a stop text that they
        complete; of several, before the one that began first."""
        characters = characters[: self.left]
        if not self.stops:
            self.text += characters
            self.left -= len(characters)
            self.ready = len(self.text)
            return len(characters)
        for count, character in enumerate(characters, 1):
            self.text.append(character)
            self.left -= 1
            tail = "".join(self.text[-self._longest :])
            completed = max((len(stop) for stop in self.stops if tail.endswith(stop)), default=0)
            held = 0
            if completed:
                del self.text[-completed:]
                self.left, self.stopped = 0, True
            elif self.left:
                held = next(k for k in range(len(tail), -1, -1) if not k or self._begins_stop(tail[-k:]))
            self.ready = len(self.text) - held
            if self.stopped:
                return count
        return len(characters)

    def stand(self, steps: int, given: int, states: States) -> None:
        """Note the state after `steps` more steps, `given` of which read the prompt, unless one may be taken back."""
        self.steps += steps
        self._given += given
        if self.steps <= self._given + self.ready:
            self.kept = self.steps, states

    def _begins_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self.stops)


SHORT = 128
"""A prompt of so many characters is read beside the texts that are being written, sixteen characters in each call: by
itself each of its characters would cost several times as much."""
DECODE_STEPS = 16
"""Characters in one call of the graph: what is left of Python's share is small, and nobody waits long to join."""


class CharacterDecoder:
    """Texts that are being generated, all at once."""

    outputs = ("tokens", "scores")

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._characters = vocabulary
        self._rows: list[Row] = []
        self._arranged = False

    def join(self, rows: Sequence[Row]) -> None:
        """Add rows at the end of the batch."""
        self._rows += rows
        self._arranged = False

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drop the other rows."""
        self._rows = [row for row, stays in zip(self._rows, kept, strict=True) if stays]
        self._arranged = False

    def inputs(self) -> dict[str, Array]:
        """Controls and random numbers of the next characters: no more than the longest wants, nor than any wants whose
        state at its end will be asked for."""
        if not self._arranged:
            self._arrange()
        most = min(DECODE_STEPS, max(len(row.prompt) + row.left for row in self._rows))
        steps = np.arange(min([most, *(len(row.prompt) + row.left for row in self._keepers)]))
        given = np.full((len(steps), len(self._rows)), -1, dtype=np.int64)
        for i, row in enumerate(self._rows):
            if row.prompt:
                read = row.prompt[: len(steps)]
                given[: len(read), i] = read
        drawn = uniforms(self._seeds, self._positions + steps[:, None]) * self._random
        return {**self._controls, "uniforms": drawn, "given_tokens": given}

    def take(self, found: Sequence[Array], states: States) -> tuple[int, NDArray[np.bool_]]:
        """Give each row its characters."""
        tokens, scores = found
        finite = np.asarray(np.isfinite(scores).all(axis=2))
        healthy = bool(finite.all())
        for i, (row, own) in enumerate(zip(self._rows, tokens.T.tolist(), strict=True)):
            read = min(len(row.prompt), len(own))
            row.prompt = row.prompt[read:]
            written = slice(read, read + row.take([self._characters[token] for token in own[read:]]))
            if not healthy and not finite[written, i].all():
                row.left, row.failed = 0, True
            if row.scores is not None:
                row.scores.append(scores[written, i].copy())
            if row.keeps:
                row.stand(len(own), read, {name: array[i : i + 1].copy() for name, array in states.items()})
        self._positions += len(tokens)
        for listener, rows in self._listeners.items():
            listener(rows)
        return len(tokens), np.array([row.left > 0 for row in self._rows])

    def _arrange(self) -> None:
        rows = self._rows
        self._arranged = True
        self._controls = controls([row.params for row in rows], len(self._characters))
        self._random = np.array([row.params.temperature > 0 for row in rows], dtype=np.float32)
        self._seeds = np.array([row.seed for row in rows], dtype=np.uint64)
        # A character's random number goes by its place in the whole text.
        self._positions = np.array([row.start + row.written - len(row.prompt) for row in rows], dtype=np.int64)
        self._keepers = [row for row in rows if row.keeps]
        self._listeners: dict[Listener, list[Row]] = {}
        for row in rows:
            if row.listener is not None:
                self._listeners.setdefault(row.listener, []).append(row)


def generate(
    tokenizer: Tokenizer,
    request: GenerateRequest,
    start: Snapshot = FRESH,
    keeps: bool = False,
    listener: Listener | None = None,
) -> tuple[list[Row], Task[Snapshot]]:
    """The rows of a request, and the task that reads the prompt once, on from where a sequence stands, and continues it
    `n` times. If it `keeps`, its answer is where the first of them stands at the end of the text that is given back.

    The task raises NotPredictableError if the model gives no finite scores.
    """
    tokens = tokenizer.encode(request.prompt)[1]
    if not len(tokens) and not start.position and request.max_length:
        tokens = np.array([tokenizer.start()])
    seeds = derived_seeds(request.seed, request.n).tolist()
    rows = [Row(request, seed, start.position + len(tokens), keeps, listener) for seed in seeds]

    def task() -> Task[Snapshot]:
        at = start
        if len(tokens) and (len(rows) > 1 or len(tokens) > SHORT or not request.max_length):
            at = yield from _read(tokenizer, start, tokens)
        elif request.max_length:
            rows[0].prompt = tokens.tolist()
        if not request.max_length:
            return at
        seen = _seen(tokenizer, at, tokens)
        yield Decode(rows, repeat({**at.states, "seen": seen}, len(rows)))
        if any(row.failed for row in rows):
            raise NotPredictableError("the model gives no finite scores after this prompt", "$.prompt")
        if not keeps:
            return at
        # Where the last call of the graph went beyond the end of the text, or into a stop text, it is read again.
        gone = np.concatenate([tokens, tokenizer.encode("".join(rows[0].text))[1]])[at.position - start.position :]
        # The graph notes what has occurred only where a penalty asks for it.
        seen = _seen(tokenizer, at, gone)
        steps, states = rows[0].kept or (0, at.states)
        at = Snapshot(at.position + steps, states)
        if steps < len(gone):
            at = yield from _read(tokenizer, at, gone[steps:])
        return Snapshot(at.position, {**at.states, "seen": seen})

    return rows, task()


def _read(tokenizer: Tokenizer, start: Snapshot, tokens: NDArray[np.int64]) -> Task[Snapshot]:
    """Where a sequence stands after some more tokens, one at least."""
    read: Result = yield Read({"tokens": tokens[None]}, ("logits",), _recurrent(start))
    seen = _seen(tokenizer, start, tokens)
    return Snapshot(start.position + len(tokens), {**read.states, "logits": read.outputs["logits"], "seen": seen})


def _seen(tokenizer: Tokenizer, start: Snapshot, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens have occurred (1, V), these among them."""
    seen = start.states["seen"].copy() if start.position else np.zeros((1, tokenizer.size), dtype=bool)
    seen[0, tokens] = True
    return seen


def _recurrent(at: Snapshot) -> dict[str, Array]:
    """The state of the graph that reads: that of the one that decodes has two tensors more."""
    return {name: array for name, array in at.states.items() if name not in ("logits", "seen")}


def continuation(tokenizer: Tokenizer, row: Row, logprobs: int) -> Continuation:
    """What a row has become."""
    text = "".join(row.text)
    chosen = []
    if row.scores and text:
        logs = log_softmax(np.concatenate(row.scores)[: len(text)])
        own = np.exp(logs[np.arange(len(text)), tokenizer.encode(text)[1]]).tolist()
        chosen = [Chosen(*each) for each in zip(text, own, tokenizer.candidates(logs, logprobs), strict=True)]
    return Continuation(text, "stop" if row.stopped else "length", chosen)


@dataclass(frozen=True)
class Position:
    """A character of the text, the probability it had given those before it (None if there were none), and what the
    model expects next."""

    character: str
    probability: float | None
    candidates: list[Candidate]


@dataclass(frozen=True)
class Prediction:
    """What follows a text; per position, if asked for, with the text's mean cost in bits per character."""

    candidates: list[Candidate]
    positions: list[Position] | None
    bits_per_character: float | None


@dataclass(frozen=True)
class Scored:
    """scores (N, V): after a text, or after each of its characters, before them those that preceded the first if there
    are such. after: where the sequence stands, the text read."""

    scores: NDArray[np.float32]
    after: Snapshot


def predict(tokenizer: Tokenizer, text: str, per_position: bool, start: Snapshot = FRESH) -> Task[Scored]:
    """Read a text, on from where a sequence stands. See `prediction`."""
    tokens = tokenizer.encode(text)[1]
    before = start.states["logits"] if start.position else None
    if not len(tokens):
        if before is None:
            first = yield from _read(tokenizer, start, np.array([tokenizer.start()]))
            before = first.states["logits"]
        return Scored(before, start)
    if not per_position:
        after = yield from _read(tokenizer, start, tokens)
        return Scored(after.states["logits"], after)
    read: Result = yield Read({"tokens": tokens[None]}, ("logits_all", "logits"), _recurrent(start))
    each = read.outputs["logits_all"][0]
    scores = each if before is None else np.concatenate([before, each])
    states = {**read.states, "logits": read.outputs["logits"], "seen": _seen(tokenizer, start, tokens)}
    return Scored(scores, Snapshot(start.position + len(tokens), states))


def prediction(
    tokenizer: Tokenizer, text: str, scores: NDArray[np.float32], top_k: int, per_position: bool
) -> Prediction:
    """What the scores that `predict` gave say.

    Raises:
        NotPredictableError: they are not finite.
    """
    if not np.isfinite(scores).all():
        raise NotPredictableError("the model gives no finite scores after this text", "$.text")
    text, tokens = tokenizer.encode(text)
    positions: list[Position] = []
    nats, known = 0.0, 0
    lead = len(scores) - len(text)
    """1 where the first of them expected the first character, 0 where that one came out of nowhere."""
    for start in range(0, len(text) if per_position else 0, 1024):
        # With the row before, which expected the first of these characters.
        logs = log_softmax(scores[max(0, lead + start - 1) : lead + start + 1024])
        came = tokens[start : start + 1024]
        best = tokenizer.candidates(logs[-len(came) :], top_k)
        expected = came if lead + start else came[1:]
        chances = logs[np.arange(len(expected)), expected]
        nats, known = nats - float(chances.sum()), known + len(expected)
        own: list[float | None] = [*[None] * (len(came) - len(expected)), *chances.tolist()]
        for character, log, candidates in zip(text[start : start + 1024], own, best, strict=True):
            positions.append(Position(character, None if log is None else math.exp(log), candidates))
    [after] = tokenizer.candidates(log_softmax(scores[-1:]), top_k)
    bits = nats / math.log(2) / known if known else None
    return Prediction(after, positions if per_position else None, bits)

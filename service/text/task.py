"""A text request, from text to text, as a task for the engine. Knows nothing of HTTP.

A model's tokens stand for pieces of text: for single characters, or in a word model for words and marks.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, States
from service.engine.sequence import EMPTY_STATE, Decode, Prefill, PrefillResult, SequenceState, Task, repeat_states
from service.errors import InvalidRequestError, NonFiniteOutputError
from service.manifest import COUNTS
from service.text.sampling import BAN, SamplingParams, controls, derived_seeds, log_softmax, uniforms
from service.text.stopping import StopTexts
from service.text.tokenizer import AnyText, Candidate, TokenizedText, Tokenizer
from service.text.unicode import CombiningMarksError, composed, continues, open_end

FinishReason = Literal["length", "stop"]


PIECE_BYTES = 64
"""Of a piece of text: as text, as a token, in lists and in an answer."""
ROW_BYTES = 4096
"""Of a text, however short."""
TOLD_BYTES = 120
"""Of a candidate and its probability in an answer, as JSON, twice."""
SCORES_BYTES = 128
"""Of an array of scores, however small."""


def scores_bytes(positions: int, vocabulary: int) -> int:
    """Of the scores of all pieces at each of some positions."""
    return positions * (4 * vocabulary + SCORES_BYTES)


@dataclass(frozen=True)
class GenerateRequest:
    """`n` texts of at most `max_length` tokens each; `logprobs`: how many candidates to tell at each; `echo`: give them
    back with the prompt before them."""

    prompt: AnyText
    max_length: int
    params: SamplingParams
    seed: int
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int = 0
    echo: bool = False

    @property
    def cost_steps(self) -> int:
        """Steps at most."""
        return self._read + self.max_length * self.n

    def most_bytes(self, vocabulary: int, state_bytes: int) -> int:
        """Held at most, until it is answered; `state_bytes`: where one sequence stands."""
        written, echoed = self.max_length * self.n, self._read if self.echo else 0
        scored = scores_bytes(written + 2 * echoed, vocabulary) if self.logprobs else 0
        told = (written + echoed * self.n) * (1 + self.logprobs) * TOLD_BYTES if self.logprobs else 0
        rows = self.n * (3 * state_bytes + 4 * vocabulary + ROW_BYTES)
        return rows + (self._read + written + echoed * self.n) * PIECE_BYTES + scored + told

    @property
    def _read(self) -> int:
        return len(self.prompt.tokens if isinstance(self.prompt, TokenizedText) else self.prompt)


@dataclass(frozen=True)
class Chosen:
    """A piece that was generated, or one of the prompt, the probability that the model gave it, and the most probable
    ones in its place. Nothing is known of a piece that nothing came before: None, and no candidates."""

    character: str
    probability: float | None
    candidates: list[Candidate]


@dataclass(frozen=True)
class Continuation:
    """One text given back, and why it ended."""

    text: str
    finish_reason: FinishReason
    chosen: list[Chosen]


def logarithm(probability: float) -> float:
    """Its natural logarithm, or that of the least number above 0."""
    return math.log(max(probability, 5e-324))


Listener = Callable[[list["Row"]], None]
"""Told on the engine's thread, after each step, of the rows that have new text."""


class Row:
    """A text being generated. `start`: its place in the whole text; `keeps`: whether it notes where it stands;
    `echoed`: the prompt's pieces, if they are to be given back."""

    def __init__(
        self,
        request: GenerateRequest,
        seed: int,
        start: int,
        keeps: bool,
        listener: Listener | None,
        echoed: Sequence[str] = (),
        stops: StopTexts | None = None,
    ) -> None:
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
        self.stops = stops
        self.listener = listener
        self.echoed = echoed
        self.echoed_scores: NDArray[np.float32] | None = None
        """(N, V): those that expected what is echoed, all of it or all but the first."""
        self.text: list[str] = []
        """The pieces written."""
        self.ready = 0
        """How many are sure to stay: all but what may be the beginning of a stop text."""
        self.stopped = False
        self.failed = False
        self.ended = False
        """Nothing more will be written, and nothing failed. Set last, for those who look from another thread."""
        self.scores: list[NDArray[np.float32]] | None = [] if request.logprobs else None
        """Those (V,) that each piece was drawn from, and perhaps some beyond the last."""
        self._whole = request.max_length
        self._given = 0
        self._stop_state = 0

    @property
    def written(self) -> int:
        """Pieces generated so far, before any stop text was taken away."""
        return self._whole - self.left

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return "stop" if self.stopped else "length"

    def given(self, since: int, until: int) -> list[str]:
        """Some of the pieces that it gives back, those echoed first."""
        lead = len(self.echoed)
        return [*self.echoed[since:until], *self.text[max(0, since - lead) : max(0, until - lead)]]

    def take(self, pieces: Sequence[str]) -> int:
        """Add pieces, no more than are wanted; how many of them it read. Ends with the last whole piece before a stop
        text that they complete; of several, before the one that is complete first, and of these the one that began
        first."""
        pieces = pieces[: self.left]
        if self.stops is None:
            self.text += pieces
            self.left -= len(pieces)
            self.ready = len(self.text)
            return len(pieces)
        for count, piece in enumerate(pieces, 1):
            self.text.append(piece)
            self.left -= 1
            completed = self._completed(self.stops, piece)
            if completed:
                self.left, self.stopped = 0, True
            begun = completed or (self.stops.depth[self._stop_state] if self.left else 0)
            self.ready = len(self.text) - self._pieces_in(begun)
            if self.stopped:
                del self.text[self.ready :]
                return count
        return len(pieces)

    def stand(self, steps: int, given: int, states: States) -> None:
        """Note the state after `steps` more steps, `given` of which read the prompt, unless one may be taken back."""
        self.steps += steps
        self._given += given
        if self.steps <= self._given + self.ready:
            self.kept = self.steps, states

    def _completed(self, stops: StopTexts, piece: str) -> int:
        """How many characters to take away, from where the first stop text begins that the piece completes."""
        for count, character in enumerate(piece, 1):
            self._stop_state = stops.advance(self._stop_state, character)
            length = stops.completed[self._stop_state]
            if length:
                return length + len(piece) - count
        return 0

    def _pieces_in(self, characters: int) -> int:
        """How many pieces at the end hold so many characters."""
        count = 0
        while characters > 0:
            count += 1
            characters -= len(self.text[-count])
        return count


SHORT = 128
"""A prompt of so many tokens is read beside the texts that are being written, sixteen tokens in each call: by itself
each of its tokens would cost several times as much."""
DECODE_STEPS = 16
"""Tokens in one call of the graph: what is left of Python's share is small, and nobody waits long to join."""


class CharacterDecoder:
    """Texts that are being generated, all at once."""

    outputs = ("tokens", "scores")

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._pieces = vocabulary
        self._arranged_for: Sequence[Row] = ()

    def inputs(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Controls and random numbers of the next tokens: no more than the longest wants, nor than any wants whose
        state at its end will be asked for, nor, of those that somebody watches, than the first that it writes."""
        if rows is not self._arranged_for:
            self._arrange(rows)
        most = min(DECODE_STEPS, max(len(row.prompt) + row.left for row in rows))
        last = (len(row.prompt) + row.left for row in self._keepers)
        first = (len(row.prompt) + 1 for row in self._watched if not row.written)
        steps = np.arange(min([most, *last, *first]))
        given = np.full((len(steps), len(rows)), -1, dtype=np.int64)
        for i, row in enumerate(rows):
            if row.prompt:
                read = row.prompt[: len(steps)]
                given[: len(read), i] = read
        drawn = uniforms(self._seeds, self._positions + steps[:, None]) * self._random
        return {**self._controls, "uniforms": drawn, "given_tokens": given}

    def advance(
        self, rows: Sequence[Row], found: Sequence[Array], states: States
    ) -> tuple[int, NDArray[np.bool_], dict[int, Exception]]:
        """Give each row its pieces."""
        tokens, scores = found
        finite = np.asarray(np.isfinite(scores).all(axis=2))
        healthy = bool(finite.all())
        errors: dict[int, Exception] = {}
        for i, (row, own) in enumerate(zip(rows, tokens.T.tolist(), strict=True)):
            try:
                read = min(len(row.prompt), len(own))
                row.prompt = row.prompt[read:]
                if row.scores is not None:
                    row.scores.extend(scores[read:, i].copy())
                written = slice(read, read + row.take([self._pieces[token] for token in own[read:]]))
                if not healthy and not finite[written, i].all():
                    row.left, row.failed = 0, True
                if row.keeps:
                    kept = {name: array[i : i + 1].copy() for name, array in states.items() if name != COUNTS}
                    row.stand(len(own), read, kept)
                row.ended = not row.left and not row.failed
            except Exception as error:  # what one row meets harms no other
                errors[i] = error
        self._positions += len(tokens)
        for listener, watched in self._listeners.items():
            try:
                listener(watched)
            except Exception as error:  # as above
                errors |= {i: error for i, row in enumerate(rows) if row.listener is listener}
        return len(tokens), np.array([row.left > 0 for row in rows]), errors

    def _arrange(self, rows: Sequence[Row]) -> None:
        self._arranged_for = ()
        self._controls = controls([row.params for row in rows], len(self._pieces))
        self._random = np.array([not row.params.greedy for row in rows], dtype=np.float32)
        self._seeds = np.array([row.seed for row in rows], dtype=np.uint64)
        # A token's random number goes by its place in the whole text.
        self._positions = np.array([row.start + row.written - len(row.prompt) for row in rows], dtype=np.int64)
        self._keepers = [row for row in rows if row.keeps]
        self._watched = [row for row in rows if row.listener is not None]
        self._listeners: dict[Listener, list[Row]] = {}
        for row in self._watched:
            if row.listener is not None:
                self._listeners.setdefault(row.listener, []).append(row)
        self._arranged_for = rows


def generate(
    tokenizer: Tokenizer,
    request: GenerateRequest,
    start: SequenceState = EMPTY_STATE,
    keeps: bool = False,
    listener: Listener | None = None,
) -> tuple[list[Row], Task[SequenceState]]:
    """The rows of a request, and the task that reads the prompt once, on from where a sequence stands, and continues it
    `n` times. If it `keeps`, its answer is where the first of them stands at the end of the text that is given back.

    The task raises NonFiniteOutputError if the model gives no finite scores.

    Raises:
        InvalidRequestError: the biases ban all that the model could write; or the prompt, or a stop text, is no text
            that can be read here.
    """
    banned = {token for token, bias in request.params.logit_bias if bias <= BAN}
    if len(banned - {0}) == tokenizer.size - 1:
        raise InvalidRequestError("bans all that the model could write", "$.logit_bias")
    prompt = tokenizer.tokenize(request.prompt, "$.prompt")
    check_follows(start, prompt.composed, "$.prompt")
    tokens, text = prompt.tokens, prompt.composed
    if not len(tokens) and not start.position and request.max_length:
        text, tokens = "\n", np.array([tokenizer.start()])
    echoed = prompt.pieces if request.echo else ()
    seeds = derived_seeds(request.seed, request.n).tolist()
    stops = _stop_texts(request.stop)
    rows = [Row(request, seed, start.position + len(tokens), keeps, listener, echoed, stops) for seed in seeds]

    def task() -> Task[SequenceState]:
        at = start
        if echoed and request.logprobs:
            scored = yield from _read_each(tokenizer, start, tokens)
            if not np.isfinite(scored.scores).all():
                raise NonFiniteOutputError("the model gives no finite scores for this prompt", "$.prompt")
            at = scored.after
            for row in rows:
                row.echoed_scores = scored.scores[:-1]
        elif len(tokens) and (len(rows) > 1 or len(tokens) > SHORT or not request.max_length):
            at = yield from _read(tokenizer, start, tokens)
        elif request.max_length:
            rows[0].prompt = tokens.tolist()
        if not request.max_length:
            for row in rows:
                row.ended = True
            return _ended(at, start, text)
        seen = _seen(tokenizer, at, tokens)
        yield Decode(rows, repeat_states({**at.states, "seen": seen}, len(rows)))
        if any(row.failed for row in rows):
            raise NonFiniteOutputError("the model gives no finite scores after this prompt", "$.prompt")
        if not keeps:
            return at
        # Where the last call of the graph went beyond the end of the text, or into a stop text, it is read again.
        gone = np.concatenate([tokens, tokenizer.tokens(rows[0].text)])[at.position - start.position :]
        seen = _seen(tokenizer, at, gone)
        steps, states = rows[0].kept or (0, at.states)
        at = SequenceState(at.position + steps, states)
        if steps < len(gone):
            at = yield from _read(tokenizer, at, gone[steps:])
        at = SequenceState(at.position, {**at.states, "seen": seen})
        return _ended(at, start, text + "".join(rows[0].text))

    return rows, task()


def _stop_texts(texts: Sequence[str]) -> StopTexts | None:
    """Texts as the model writes them, in their composed form; what it never writes is never met."""
    found = []
    for i, text in enumerate(texts):
        try:
            found.append(composed(text))
        except CombiningMarksError as error:
            raise InvalidRequestError(str(error), f"$.stop[{i}]") from None
    return StopTexts(found) if found else None


def check_follows(start: SequenceState, text: str, path: str) -> None:
    """Refuse a text of which the first characters change what was read before it: what was read cannot be taken back.

    Raises:
        InvalidRequestError: it is such a text.
    """
    if continues(start.text_end, text):
        last, first = start.text_end[-1], text[0]
        raise InvalidRequestError(
            f"begins with U+{ord(first):04X}, which changes how the text before it is read, the end of which is "
            f"U+{ord(last):04X}: send the two in one text",
            path,
        )


def _ended(at: SequenceState, start: SequenceState, text: str) -> SequenceState:
    """Where a sequence stands, some composed text after a start."""
    return replace(at, text_end=open_end(start.text_end + text))


def _read(tokenizer: Tokenizer, start: SequenceState, tokens: NDArray[np.int64]) -> Task[SequenceState]:
    """Where a sequence stands after some more tokens, one at least."""
    read: PrefillResult = yield Prefill({"tokens": tokens[None]}, ("logits",), _recurrent(start))
    seen = _seen(tokenizer, start, tokens)
    return SequenceState(start.position + len(tokens), {**read.states, "logits": read.outputs["logits"], "seen": seen})


def _seen(tokenizer: Tokenizer, start: SequenceState, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens have occurred (1, V), these among them."""
    seen = start.states["seen"].copy() if start.position else np.zeros((1, tokenizer.size), dtype=bool)
    seen[0, tokens] = True
    return seen


def _recurrent(at: SequenceState) -> dict[str, Array]:
    """The state of the graph that reads: that of the one that decodes has two tensors more."""
    return {name: array for name, array in at.states.items() if name not in ("logits", "seen")}


BLOCK_ITEMS = 2000
"""Candidates that are told at once: those of a long text are told in blocks, so that none takes long or much memory."""


def block_size(candidates: int) -> int:
    """How many positions there are in a block."""
    return max(1, BLOCK_ITEMS // max(1, candidates))


def continuation(tokenizer: Tokenizer, row: Row, logprobs: int) -> Continuation:
    """What a row has become."""
    blocks = chosen_blocks(tokenizer, row, logprobs)
    return Continuation(whole_text(row), row.finish_reason, list(itertools.chain.from_iterable(blocks)))


def whole_text(row: Row) -> str:
    """The text that a row gives back."""
    return "".join(row.echoed) + "".join(row.text)


def chosen_blocks(tokenizer: Tokenizer, row: Row, logprobs: int) -> Iterator[list[Chosen]]:
    """What the model expected in the place of each piece that a row gives back, in blocks."""
    size, end = block_size(logprobs), len(row.echoed) + len(row.text)
    for since in range(0, end if logprobs else 0, size):
        yield chosen(tokenizer, row, since, min(end, since + size), logprobs)


def chosen(tokenizer: Tokenizer, row: Row, since: int, until: int, logprobs: int) -> list[Chosen]:
    """What the model expected in the place of some of the pieces that a row gives back, those echoed first; empty if
    `logprobs`, the number of candidates, is 0."""
    lead = len(row.echoed)
    if not logprobs or row.scores is None:
        return []
    pieces = row.given(since, until)
    scores = list(row.scores[max(0, since - lead) : max(0, until - lead)])
    if row.echoed_scores is not None:
        unexpected = lead - len(row.echoed_scores)
        scores = [*row.echoed_scores[max(0, since - unexpected) : max(0, until - unexpected)], *scores]
    if not scores:
        return [Chosen(piece, None, []) for piece in pieces]
    logs = log_softmax(np.stack(scores))
    expected = pieces[len(pieces) - len(scores) :]
    own = np.exp(logs[np.arange(len(expected)), tokenizer.tokens(expected)]).tolist()
    told = [Chosen(*each) for each in zip(expected, own, tokenizer.candidates(logs, logprobs), strict=True)]
    return [*(Chosen(piece, None, []) for piece in pieces[: -len(scores)]), *told]


@dataclass(frozen=True)
class Position:
    """A piece of the text, the probability it had given those before it (None if there were none), and what the model
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


@dataclass(frozen=True)
class Scored:
    """scores (N, V): after a text, or after each of its tokens, before them those that preceded the first if there are
    such. after: where the sequence stands, the text read. ranked: what was asked for of continuations."""

    scores: NDArray[np.float32]
    after: SequenceState
    ranked: tuple["Ranked", ...] = ()


@dataclass(frozen=True)
class Ranked:
    """A continuation, by its place among those given, and the natural logarithm of its probability after the text; and
    per character of it as it was read."""

    index: int
    log: float
    log_per_character: float


def predict(
    tokenizer: Tokenizer,
    text: AnyText,
    per_position: bool,
    start: SequenceState = EMPTY_STATE,
    continuations: Sequence[AnyText] = (),
) -> Task[Scored]:
    """Read a text, on from where a sequence stands, and rank continuations of it, none of them empty, which leave the
    sequence at the end of the text. See `prediction`.

    The task raises NonFiniteOutputError if the model gives no finite scores for a continuation, and InvalidRequestError
    if a text is none that can be read here.
    """
    text = tokenizer.tokenize(text, "$.text")
    check_follows(start, text.composed, "$.text")
    tokens = text.tokens
    if not len(tokens):
        begun = start if start.position else (yield from _read(tokenizer, start, np.array([tokenizer.start()])))
        scored = Scored(begun.states["logits"], start)
    elif per_position:
        scored = yield from _read_each(tokenizer, start, tokens)
        begun = scored.after
    else:
        begun = yield from _read(tokenizer, start, tokens)
        scored = Scored(begun.states["logits"], begun)
    after = _ended(scored.after, start, text.composed)
    ranked = yield from _rank(tokenizer, replace(begun, text_end=after.text_end), continuations)
    return replace(scored, after=after, ranked=ranked)


RANKED_ROWS = 16
"""Continuations in one reading."""


def predict_bytes(read: int, per_position: bool, candidates: int, ranked: Sequence[int], vocabulary: int) -> int:
    """What `predict` of so many tokens, `ranked` more in each continuation, holds at most until it is answered with so
    many candidates at a position."""
    positions = 2 * (read + 1) * per_position + 2 * RANKED_ROWS * max(ranked, default=0)
    told = (1 + read * per_position) * candidates * TOLD_BYTES
    return ROW_BYTES + (read + sum(ranked)) * PIECE_BYTES + scores_bytes(positions, vocabulary) + told


def _rank(tokenizer: Tokenizer, start: SequenceState, continuations: Sequence[AnyText]) -> Task[tuple[Ranked, ...]]:
    """The most probable first."""
    texts: list[NDArray[np.int64]] = []
    lengths: list[int] = []
    for i, continuation in enumerate(continuations):
        text = tokenizer.tokenize(continuation, f"$.candidates[{i}]")
        check_follows(start, text.composed, f"$.candidates[{i}]")
        texts.append(text.tokens)
        lengths.append(sum(map(len, text.pieces)))
    logs = np.zeros(len(texts))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    # Those of much the same length together, so that little is read of nothing.
    for first in range(0, len(order), RANKED_ROWS):
        group = order[first : first + RANKED_ROWS]
        tokens = np.zeros((len(group), len(texts[group[-1]])), dtype=np.int64)
        for row, i in enumerate(group):
            tokens[row, : len(texts[i])] = texts[i]
        scores = repeat_states({"logits": start.states["logits"]}, len(group))["logits"][:, None]
        if tokens.shape[1] > 1:
            states = repeat_states(_recurrent(start), len(group))
            read: PrefillResult = yield Prefill({"tokens": tokens[:, :-1]}, ("logits_all",), states)
            scores = np.concatenate([scores, read.outputs["logits_all"]], axis=1)
        # Here and now: the scores of all continuations would fill the memory.
        for row, i in enumerate(group):
            own = texts[i]
            logs[i] = log_softmax(scores[row, : len(own)])[np.arange(len(own)), own].sum()
    if not np.isfinite(logs).all():
        raise NonFiniteOutputError("the model gives no finite scores after this text", "$.text")
    best = sorted(range(len(texts)), key=lambda i: -logs[i])
    return tuple(Ranked(i, float(logs[i]), float(logs[i]) / lengths[i]) for i in best)


def _read_each(tokenizer: Tokenizer, start: SequenceState, tokens: NDArray[np.int64]) -> Task[Scored]:
    """Scores after each of some more tokens, one at least."""
    read: PrefillResult = yield Prefill({"tokens": tokens[None]}, ("logits_all", "logits"), _recurrent(start))
    scores = read.outputs["logits_all"][0]
    if start.position:
        scores = np.concatenate([start.states["logits"], scores])
    states = {**read.states, "logits": read.outputs["logits"], "seen": _seen(tokenizer, start, tokens)}
    return Scored(scores, SequenceState(start.position + len(tokens), states))


def prediction(
    tokenizer: Tokenizer, text: AnyText, scores: NDArray[np.float32], top_k: int, per_position: bool
) -> Prediction:
    """What the scores that `predict` gave say.

    Raises:
        NonFiniteOutputError: they are not finite.
    """
    if not np.isfinite(scores).all():
        raise NonFiniteOutputError("the model gives no finite scores after this text", "$.text")
    [after] = tokenizer.candidates(log_softmax(scores[-1:]), top_k)
    if not per_position:
        return Prediction(after, None, None)
    blocks = list(position_blocks(tokenizer, text, scores, top_k))
    positions = list(itertools.chain.from_iterable(block.positions for block in blocks))
    return Prediction(after, positions, bits_per_character(blocks))


@dataclass(frozen=True)
class PositionBlock:
    """Some positions, what those of their pieces cost that had something before them, in nats, and the characters of
    these."""

    positions: list[Position]
    nats: float
    characters: int


def bits_per_character(blocks: Iterable[PositionBlock]) -> float | None:
    """The mean cost of a text."""
    nats, characters = 0.0, 0
    for block in blocks:
        nats += block.nats
        characters += block.characters
    return nats / math.log(2) / characters if characters else None


def position_blocks(
    tokenizer: Tokenizer, text: AnyText, scores: NDArray[np.float32], top_k: int
) -> Iterator[PositionBlock]:
    """What finite scores say of each piece of a text, in blocks."""
    text = tokenizer.tokenize(text)
    pieces, tokens, size = text.pieces, text.tokens, block_size(top_k)
    lead = len(scores) - len(pieces)
    """1 where the first of them expected the first piece, 0 where that one came out of nowhere."""
    for start in range(0, len(pieces), size):
        # With the row before, which expected the first of these pieces.
        logs = log_softmax(scores[max(0, lead + start - 1) : lead + start + size])
        came = tokens[start : start + size]
        best = tokenizer.candidates(logs[-len(came) :], top_k)
        unexpected = 0 if lead + start else 1
        expected = came[unexpected:]
        chances = logs[np.arange(len(expected)), expected]
        own: list[float | None] = [*[None] * unexpected, *chances.tolist()]
        yield PositionBlock(
            [
                Position(piece, None if log is None else math.exp(log), candidates)
                for piece, log, candidates in zip(pieces[start : start + size], own, best, strict=True)
            ],
            -float(chances.sum()),
            sum(map(len, pieces[start + unexpected : start + size])),
        )

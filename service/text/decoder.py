"""Rows of text that the engine decodes together: the inputs of each call of the graph, and what its outputs mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, States
from service.manifest import COUNTS
from service.text.sampling import SamplingParams, controls, uniforms
from service.text.stopping import StopTexts

DECODE_STEPS = 16
"""Tokens in one call of the graph: Python's share of the time is small then, and a new row joins soon."""

FinishReason = Literal["length", "stop"]

Listener = Callable[[list["Row"]], None]
"""Called on the engine's thread, after each call of the graph, with the rows that have new text."""


@dataclass(eq=False)
class Row:
    """One text that is generated.

    position: the index of its first token in the sequence; random numbers go by it.
    saves_state: whether it saves the state at its end.
    echo: the prompt's tokens, if they are returned before the text.
    scores: (V,) that each token was sampled from, and perhaps some beyond the last; None if nobody asks for them.
    """

    params: SamplingParams
    seed: int
    position: int
    max_length: int
    saves_state: bool = False
    listener: Listener | None = None
    echo: Sequence[str] = ()
    stops: StopTexts | None = None
    scores: list[NDArray[np.float32]] | None = None

    prompt: list[int] = field(default_factory=list)
    """Token ids that it has yet to read."""
    tokens: list[str] = field(default_factory=list)
    """Generated, without the stop text."""
    num_flushable: int = 0
    """How many of the tokens are final: all but those that may begin a stop text."""
    remaining: int = field(init=False)
    """Tokens that it may still generate."""
    steps: int = 0
    """Steps of the graph since it joined, those that read the prompt among them."""
    saved_state: tuple[int, States] | None = None
    """The state after so many of its steps; every token up to there is final."""
    echo_scores: NDArray[np.float32] | None = None
    """Scores (N, V) that predicted the echo: each of its tokens, or all but the first."""
    score: float | None = None
    """Of a text that a beam search found: the mean log-probability of its tokens, those of a stop text included."""
    stopped: bool = False
    """A stop text ended it."""
    failed: bool = False
    """The model gave scores that are not finite."""
    ended: bool = False
    """It ended, and did not fail. Set last: other threads read it."""
    _prompt_steps: int = 0
    _stop_state: int = 0

    def __post_init__(self) -> None:
        self.remaining = self.max_length

    @property
    def num_generated(self) -> int:
        """Tokens generated so far, those of a stop text included."""
        return self.max_length - self.remaining

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return "stop" if self.stopped else "length"

    @property
    def text(self) -> str:
        """The generated text."""
        return "".join(self.tokens)

    @property
    def returned_text(self) -> str:
        """The text with the echo before it."""
        return "".join(self.echo) + self.text

    def returned_tokens(self, begin: int, end: int) -> list[str]:
        """The tokens from `begin` to `end` of the echo and the text."""
        lead = len(self.echo)
        return [*self.echo[begin:end], *self.tokens[max(0, begin - lead) : max(0, end - lead)]]

    def append(self, tokens: Sequence[str]) -> int:
        """Add generated tokens, at most those that remain; returns how many it took.

        A stop text ends the row with the last whole token before it. Of several, the one that is complete first; of
        those complete at once, the one that began first.
        """
        tokens = tokens[: self.remaining]
        if self.stops is None:
            self.tokens += tokens
            self.remaining -= len(tokens)
            self.num_flushable = len(self.tokens)
            return len(tokens)
        for count, token in enumerate(tokens, 1):
            self.tokens.append(token)
            self.remaining -= 1
            self._stop_state, stop_length = self.stops.read(self._stop_state, token)
            if stop_length:
                self.remaining, self.stopped = 0, True
            held = stop_length or (self.stops.depth[self._stop_state] if self.remaining else 0)
            self.num_flushable = len(self.tokens) - self._tokens_holding(held)
            if self.stopped:
                del self.tokens[self.num_flushable :]
                return count
        return len(tokens)

    def snapshot(self, steps: int, prompt_steps: int, states: States) -> None:
        """Save the state after `steps` more steps, `prompt_steps` of which read the prompt, unless a stop text may
        still remove a token before it."""
        self.steps += steps
        self._prompt_steps += prompt_steps
        if self.steps <= self._prompt_steps + self.num_flushable:
            self.saved_state = self.steps, states

    def _tokens_holding(self, characters: int) -> int:
        """How many of the last tokens hold the last `characters`."""
        count = 0
        while characters > 0:
            count += 1
            characters -= len(self.tokens[-count])
        return count


class TextDecoder:
    """The `Decoder` of text models: feeds a batch of rows to the graph that decodes, and hands each row its tokens."""

    output_names = ("tokens", "scores")

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._batch: Sequence[Row] = ()

    def inputs(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Controls, random numbers and prompt tokens of the next call: DECODE_STEPS steps, or fewer where every row
        ends sooner, where a row that saves its state ends sooner, or where a streamed row has its first token."""
        if rows is not self._batch:
            self._set_batch(rows)
        longest = max(len(row.prompt) + row.remaining for row in rows)
        to_saved_state = (len(row.prompt) + row.remaining for row in self._saving)
        to_first_token = (len(row.prompt) + 1 for row in self._streamed if not row.num_generated)
        steps = np.arange(min([DECODE_STEPS, longest, *to_saved_state, *to_first_token]))
        given_tokens = np.full((len(steps), len(rows)), -1, dtype=np.int64)
        for i, row in enumerate(rows):
            if row.prompt:
                ids = row.prompt[: len(steps)]
                given_tokens[: len(ids), i] = ids
        numbers = uniforms(self._seeds, self._positions + steps[:, None]) * self._random
        return {**self._controls, "uniforms": numbers, "given_tokens": given_tokens}

    def advance(
        self, rows: Sequence[Row], outputs: Sequence[Array], states: States
    ) -> tuple[int, NDArray[np.bool_], dict[int, Exception]]:
        """Hand each row its tokens, scores and state; call the listeners."""
        tokens, scores = outputs
        finite = np.asarray(np.isfinite(scores).all(axis=2))
        all_finite = bool(finite.all())
        errors: dict[int, Exception] = {}
        for i, (row, ids) in enumerate(zip(rows, tokens.T.tolist(), strict=True)):
            try:
                num_read = min(len(row.prompt), len(ids))
                row.prompt = row.prompt[num_read:]
                if row.scores is not None:
                    row.scores.extend(scores[num_read:, i].copy())
                num_taken = row.append([self._vocabulary[id] for id in ids[num_read:]])
                if not all_finite and not finite[num_read : num_read + num_taken, i].all():
                    row.remaining, row.failed = 0, True
                if row.saves_state:
                    own_states = {name: array[i : i + 1].copy() for name, array in states.items() if name != COUNTS}
                    row.snapshot(len(ids), num_read, own_states)
                row.ended = not row.remaining and not row.failed
            except Exception as error:  # a row's failure harms no other row
                errors[i] = error
        self._positions += len(tokens)
        for listener, streamed in self._streams.items():
            try:
                listener(streamed)
            except Exception as error:  # a listener's failure harms only its own rows
                errors |= {i: error for i, row in enumerate(rows) if row.listener is listener}
        return len(tokens), np.array([row.remaining > 0 for row in rows]), errors

    def _set_batch(self, rows: Sequence[Row]) -> None:
        """Prepare what stays the same while the batch does."""
        self._batch = ()
        self._controls = controls([row.params for row in rows], len(self._vocabulary))
        self._random = np.array([not row.params.greedy for row in rows], dtype=np.float32)
        self._seeds = np.array([row.seed for row in rows], dtype=np.uint64)
        self._positions = np.array([row.position + row.num_generated - len(row.prompt) for row in rows], dtype=np.int64)
        self._saving = [row for row in rows if row.saves_state]
        self._streamed = [row for row in rows if row.listener is not None]
        self._streams: dict[Listener, list[Row]] = {}
        for row in self._streamed:
            if row.listener is not None:
                self._streams.setdefault(row.listener, []).append(row)
        self._batch = rows

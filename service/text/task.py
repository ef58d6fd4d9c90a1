"""Generating: a request for texts as a task for the engine. Knows nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.sequence import EMPTY_STATE, Decode, SequenceState, Task, repeat_states
from service.errors import InvalidRequestError, NonFiniteOutputError
from service.text.beams import beam_search, search_bytes
from service.text.decoder import Listener, Row
from service.text.footprint import CANDIDATE_BYTES, ROW_BYTES, TOKEN_BYTES, scores_bytes
from service.text.prefill import prefill, prefill_scores, seen_tokens
from service.text.sampling import BAN, SamplingParams, derived_seeds
from service.text.stopping import StopTexts
from service.text_pieces import check_follows, with_text_end
from service.tokenizer import AnyText, Ids, TokenizedText, Tokenizer
from service.unicode import CombiningMarksError, nfc

INLINE_PREFILL_MAX = 128
"""A single row reads a prompt of so many tokens while other rows decode, DECODE_STEPS in each call. To prefill it by
itself would cost several times as much a token."""


@dataclass(frozen=True)
class GenerateRequest:
    """`n` texts of at most `max_length` tokens each. `logprobs`: candidates to return at each token; `echo`: return the
    prompt before each text. `beams`: search the most probable texts with so many hypotheses, at least `n`, instead of
    sampling; 0: sample. `path`: of the prompt in the request."""

    prompt: AnyText
    max_length: int
    params: SamplingParams
    seed: int
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int = 0
    echo: bool = False
    beams: int = 0
    path: str = "$.prompt"

    @property
    def cost_steps(self) -> int:
        """The most steps of the graph that it takes."""
        # A search whose end is stored reads its best text once more: the hypotheses' states are not kept.
        return self._prompt_length + self.max_length * (self.beams + 1 if self.beams else self.n)

    def max_bytes(self, vocabulary: int, state_bytes: int) -> int:
        """The most that it holds until it is answered. `state_bytes`: the size of one sequence's state."""
        texts = max(self.n, self.beams)
        generated, echoed = self.max_length * texts, self._prompt_length if self.echo else 0
        scores = scores_bytes(generated + 2 * echoed, vocabulary) if self.logprobs else 0
        answer = (generated + echoed * self.n) * (1 + self.logprobs) * CANDIDATE_BYTES if self.logprobs else 0
        rows = texts * (3 * state_bytes + 4 * vocabulary + ROW_BYTES)
        rows += search_bytes(self.max_length, self.beams, vocabulary)
        return rows + (self._prompt_length + generated + echoed * self.n) * TOKEN_BYTES + scores + answer

    @property
    def _prompt_length(self) -> int:
        return len(self.prompt.ids if isinstance(self.prompt, TokenizedText) else self.prompt)


def generate(
    tokenizer: Tokenizer,
    request: GenerateRequest,
    start: SequenceState = EMPTY_STATE,
    returns_state: bool = False,
    listener: Listener | None = None,
) -> tuple[list[Row], Task[SequenceState]]:
    """The rows of a request, and the task that reads the prompt once, from a state, and continues it `n` times. With
    `returns_state`, the task's answer is the first row's state at the end of the text that it returns.

    The task raises NonFiniteOutputError if the model gives no finite scores.

    Raises:
        InvalidRequestError: the biases ban every token; or the prompt or a stop text cannot be read.
    """
    banned = {id for id, bias in request.params.logit_bias if bias <= BAN}
    if len(banned - {0}) == tokenizer.size - 1:
        raise InvalidRequestError("bans every token; leave at least one", "$.logit_bias")
    prompt = tokenizer.tokenize(request.prompt, request.path)
    check_follows(start, prompt.nfc, request.path)
    ids, text = prompt.ids, prompt.nfc
    if not len(ids) and not start.position and request.max_length:
        ids, text = np.array([tokenizer.start_id]), "\n"
    stops = _stop_texts(request.stop)
    rows = [
        Row(
            request.params,
            seed,
            start.position + len(ids),
            request.max_length,
            returns_state,
            listener,
            prompt.tokens if request.echo else (),
            stops,
            [] if request.logprobs else None,
        )
        for seed in derived_seeds(request.seed, request.n).tolist()
    ]
    return rows, _run(tokenizer, request, rows, start, ids, text)


def _run(
    tokenizer: Tokenizer, request: GenerateRequest, rows: list[Row], start: SequenceState, ids: Ids, text: str
) -> Task[SequenceState]:
    """Read the prompt, the token ids of a composed text, and let the rows decode."""
    first, state = rows[0], start
    if first.echo and first.scores is not None:
        scores, state = yield from prefill_scores(tokenizer, start, ids)
        if not np.isfinite(scores).all():
            raise NonFiniteOutputError("the model gives no finite scores for this prompt", request.path)
        for row in rows:
            row.echo_scores = scores[:-1]
    elif len(ids) and (len(rows) > 1 or request.beams or len(ids) > INLINE_PREFILL_MAX or not first.max_length):
        state = yield from prefill(tokenizer, start, ids)
    elif first.max_length:
        first.prompt = ids.tolist()
    if not first.max_length:
        for row in rows:
            row.ended = True
        return with_text_end(state, start, text)
    if request.beams:
        yield from beam_search(tokenizer, rows, request.beams, state, request.path)
    else:
        seen = seen_tokens(tokenizer, state, ids)
        yield Decode(rows, repeat_states({**state.states, "seen": seen}, len(rows)))
    if any(row.failed for row in rows):
        raise NonFiniteOutputError("the model gives no finite scores after this prompt", request.path)
    if not first.saves_state:
        return state
    # Where the last call of the graph went beyond the end of the text, prefill what follows the saved state.
    unread = np.concatenate([ids, tokenizer.ids(first.tokens)])[state.position - start.position :]
    seen = seen_tokens(tokenizer, state, unread)
    steps, states = first.saved_state or (0, state.states)
    state = SequenceState(state.position + steps, states)
    if steps < len(unread):
        state = yield from prefill(tokenizer, state, unread[steps:])
    state = SequenceState(state.position, {**state.states, "seen": seen})
    return with_text_end(state, start, text + first.text)


def _stop_texts(texts: Sequence[str]) -> StopTexts | None:
    """The stop texts in composed form, as the model writes."""
    composed = []
    for i, text in enumerate(texts):
        try:
            composed.append(nfc(text))
        except CombiningMarksError as error:
            raise InvalidRequestError(str(error), f"$.stop[{i}]") from None
    return StopTexts(composed) if composed else None

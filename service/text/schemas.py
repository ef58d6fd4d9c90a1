"""The JSON of requests and answers about texts."""

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from service.errors import InvalidRequestError
from service.http.schemas import (
    MAX_INTEGER,
    Answer,
    AnswerSession,
    AnswerState,
    Body,
    ModelId,
    StatefulBody,
    check_unicode,
)
from service.validation import check_field_count

MAX_BIASES = 1024
Text = Annotated[str, AfterValidator(check_unicode)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(check_unicode)]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1)]


Unknown = Annotated[
    Literal["replace", "error"],
    Field(
        description="What to do with characters (words, in a word model) that the model does not know, once the text "
        "is in Unicode's composed form (NFC) with LF as line ends and plain quotes and dashes: `replace` reads each as "
        "the unknown one and lists it in `unknown_characters`; `error` refuses the text and names the first one and "
        "its position."
    ),
]
Length = Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]
Temperature = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=10)]
RepetitionPenalty = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0.1, le=10)]
Penalty = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-2, le=2)]
Bias = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], BeforeValidator(partial(check_field_count, max_fields=MAX_BIASES))]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_unicode)]], Field(max_length=16)
]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
Copies = Annotated[int, Field(strict=True, ge=1, le=128)]
Flag = Annotated[bool, Field(strict=True)]
MAX_BEAMS = 16


class GenerateBody(StatefulBody):
    """A prompt, and how to continue it; or, for a model of pairs, a source, to get its target. A token is a character
    or a word, as the model's `unit` says. The controls act
    in this order, each on the result of the one before: `repetition_penalty`, `frequency_penalty` and
    `presence_penalty`, `logit_bias`, `temperature`, `top_k`, `top_p`, `min_p`. `top_k` and `top_p` also keep tokens
    that are as probable as the last one they keep."""

    prompt: Text | None = Field(
        default=None, description="The text to continue; may be empty.", examples=["The old house "]
    )
    source: Text | None = Field(
        default=None,
        description="Instead of a prompt, for a model that was trained on pairs: the text to turn into its target, "
        "such as its translation. The model reads it with the separator of its pairs, and stops at their end. A source "
        "begins a new sequence: a session or state that it continues must be empty.",
        examples=["3. Mai 2021"],
    )
    max_length: Length = Field(default=200, description="The most tokens to generate; 0 only reads the prompt.")
    temperature: Temperature = Field(
        default=0.8,
        description="Divides the scores. 0 takes the most probable token; of several, the first in the vocabulary. If "
        "absent, a text with a `source` is written with 0: it is an answer, and chance would only spoil it.",
    )
    top_k: Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)] = Field(
        default=0, description="Keep the k most probable tokens; 0: all."
    )
    top_p: Share = Field(
        default=1.0,
        description="Keep the fewest most probable tokens whose mass reaches p of the mass that top_k left. 0 takes "
        "the most probable token, as `temperature` 0 does.",
    )
    min_p: Share = Field(default=0.0, description="Keep tokens at least min_p times as probable as the best.")
    repetition_penalty: RepetitionPenalty = Field(
        default=1.0,
        description="Above 1, tokens that already occurred become less likely. Divides their positive scores and "
        "multiplies their negative ones.",
    )
    frequency_penalty: Penalty = Field(
        default=0.0,
        description="Subtracted from a token's score for each time that this request wrote it; the prompt and earlier "
        "calls of the session do not count.",
    )
    presence_penalty: Penalty = Field(
        default=0.0, description="Subtracted once from the score of each token that this request wrote."
    )
    logit_bias: Biases = Field(
        default={},
        description="By character of the vocabulary (in a word model, word with the space before it): a number to add "
        "to its score; -100 bans it.",
        examples=[{"e": -5.0}],
    )
    stop: Stops = Field(
        default=[],
        description="End before the first of these texts that the model writes. It writes composed text (NFC); a word "
        "model ends with the last whole word before the stop text.",
    )
    seed: Seed | None = Field(
        default=None,
        description="The same request with the same seed gives the same text. Any 64-bit integer, signed or unsigned "
        "(-1 is 2**64 - 1). Random if absent.",
    )
    n: Copies = Field(default=1, description="How many texts; with `beams`, at most so many.")
    beams: Annotated[int, Field(strict=True, ge=1, le=MAX_BEAMS)] | None = Field(
        default=None,
        description="Search the most probable texts instead of sampling, with so many beginnings of a text at a time. "
        "Returns the `n` texts with the highest mean log-probability of a token, the best first. 1 is the same as "
        "`temperature` 0. Goes neither with the controls nor with `stream`.",
    )
    logprobs: Annotated[int, Field(strict=True, ge=0, le=100)] = Field(
        default=0,
        description="Return so many candidates at each token, with their log-probabilities in the model's own "
        "distribution, before any control.",
    )
    echo: Flag = Field(
        default=False, description="Return the prompt, as the model read it, before the text; in `logprobs`, too."
    )
    unknown: Unknown = "replace"
    stream: Flag = Field(default=False, description="Send the text while it is generated, as server-sent events.")

    @property
    def used_temperature(self) -> float:
        """The temperature; 0 for a source without one."""
        return 0.0 if self.source is not None and "temperature" not in self.model_fields_set else self.temperature

    @property
    def text_path(self) -> str:
        """The JSON path of the prompt or the source."""
        return "$.prompt" if self.source is None else "$.source"

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.prompt is None and self.source is None:
            detail = "is required; of a model that was trained on pairs, `prompt` or `source`"
            raise InvalidRequestError(detail, "$.prompt")
        if self.prompt is not None and self.source is not None:
            raise InvalidRequestError("send `prompt` or `source`, not both", "$.source")
        return self

    @model_validator(mode="after")
    def _controls_of_a_search(self) -> Self:
        if self.beams is None:
            return self
        others = sorted(self.model_fields_set - SEARCH_FIELDS)
        if others:
            detail = "does not go with `beams`, which search the most probable texts: leave it out"
            raise InvalidRequestError(detail, f"$.{others[0]}")
        if self.stream:
            raise InvalidRequestError("does not go with `beams`: the best text is known at the end", "$.stream")
        if self.n > self.beams:
            raise InvalidRequestError(f"with `beams`, at most so many texts: {self.beams}", "$.n")
        return self


SEARCH_FIELDS = frozenset(
    {*StatefulBody.model_fields, "prompt", "source", "max_length", "beams", "n", "seed", "stop", "stream"}
) | {"logprobs", "echo", "unknown"}
"""The fields of a `GenerateBody` that go with `beams`."""


class CandidateLog(Answer):
    """A character or word, and the natural logarithm of its probability."""

    character: str
    logprob: float


class ChosenLog(Answer):
    """A character or word of the text, and the most probable ones in its place. The first of a sequence has `null` and
    none."""

    character: str
    logprob: float | None
    top: list[CandidateLog]


Score = Annotated[
    float | None,
    Field(
        description="With `beams`: the mean log-probability of the text's tokens, those of the stop text that ended it "
        "among them."
    ),
]


class Choice(Answer):
    """One generated text."""

    text: str
    finish_reason: Literal["length", "stop"]
    logprobs: list[ChosenLog] | None
    score: Score


class Usage(Answer):
    """Characters that the model read and generated; in a word model, words."""

    prompt_characters: int
    generated_characters: int


class GenerateAnswer(Answer):
    """The generated text; with `n` above 1, the first of `choices`."""

    model: ModelId
    text: str
    finish_reason: Literal["length", "stop"]
    logprobs: list[ChosenLog] | None
    score: Score
    choices: list[Choice] | None
    seed: int
    usage: Usage
    unknown_characters: list[str] = Field(
        description="Characters of the prompt that the model does not know; in a word model, words."
    )
    session: AnswerSession
    state: AnswerState


class PredictBody(StatefulBody):
    """A text, to see what the model expects next."""

    text: Text = Field(description="May be empty.", examples=["She opened the do"])
    top_k: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(default=5, description="How many candidates.")
    per_position: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Return candidates after each token of the text, and the text's bits per character.",
    )
    candidates: Annotated[list[NonEmptyText], Field(min_length=1, max_length=1000, fail_fast=True)] | None = Field(
        default=None,
        description="Continuations of the text to rank by their probability. They move no session.",
        examples=[["e", " and", "ut"]],
    )
    unknown: Unknown = "replace"


class CandidateProbability(Answer):
    """A character or word, and its probability."""

    character: str
    probability: float


class PositionAnswer(Answer):
    """A character or word of the text, its probability (`null` for the first of a sequence), and what the model expects
    next."""

    character: str
    probability: float | None
    next: list[CandidateProbability]


class RankedCandidate(Answer):
    """A continuation, its index in the request, and the natural logarithm of its probability: in all, and per
    character as the model read it."""

    index: int
    text: str
    logprob: float
    logprob_per_character: float


class PredictAnswer(Answer):
    """What the model expects next."""

    model: ModelId
    next: list[CandidateProbability]
    positions: list[PositionAnswer] | None
    bits_per_character: float | None = Field(
        description="With `per_position`: the mean over all but the first character or word of a sequence. In a word "
        "model, too, per character."
    )
    candidates: list[RankedCandidate] | None = Field(description="The most probable one first.")
    unknown_characters: list[str]
    session: AnswerSession
    state: AnswerState


class FirstText(Body):
    """The first text of a new session."""

    prompt: Text | None = Field(default=None, description="A text to read.")

"""The JSON of requests and answers about texts."""

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from service.http.schemas import (
    MAX_INTEGER,
    Answer,
    AnswerSession,
    AnswerState,
    Body,
    ModelId,
    StatefulBody,
    check_field_count,
    check_unicode,
)

MOST_BIASES = 1024
Text = Annotated[str, AfterValidator(check_unicode)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(check_unicode)]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1)]


Unknown = Annotated[
    Literal["replace", "error"],
    Field(
        description="What becomes of characters (words, of a word model) that the model does not know, once the text "
        "is in Unicode's composed form (NFC) with LF as line ends and plain quotes and dashes: `replace` reads each as "
        "the unknown one and tells it in `unknown_characters`; `error` refuses the text and tells the first and its "
        "position."
    ),
]
Length = Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]
Temperature = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=10)]
RepetitionPenalty = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0.1, le=10)]
Penalty = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-2, le=2)]
Bias = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], BeforeValidator(partial(check_field_count, max_fields=MOST_BIASES))]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_unicode)]], Field(max_length=16)
]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
Copies = Annotated[int, Field(strict=True, ge=1, le=128)]
Flag = Annotated[bool, Field(strict=True)]


class GenerateBody(StatefulBody):
    """A prompt, and how to continue it. What a token is, is the model's `unit`: a character, or a word. The controls
    act in this order, each on what the one before it left: `repetition_penalty`, `frequency_penalty` and
    `presence_penalty`, `logit_bias`, `temperature`, `top_k`, `top_p`, `min_p`. Tokens that are as probable as the last
    one that is kept are kept with it."""

    prompt: Text = Field(description="The text to continue; may be empty.", examples=["The old house "])
    max_length: Length = Field(default=200, description="Most tokens to generate; 0 only reads the prompt.")
    temperature: Temperature = Field(
        default=0.8,
        description="Divides the scores. 0 takes the most probable token, of several the first in the vocabulary.",
    )
    top_k: Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)] = Field(
        default=0, description="Keep the k most probable; 0: all."
    )
    top_p: Share = Field(
        default=1.0,
        description="Keep the fewest whose mass reaches p of what top_k left. 0 takes the most probable token, as "
        "`temperature` 0 does.",
    )
    min_p: Share = Field(default=0.0, description="Keep those at least min_p times as probable as the best.")
    repetition_penalty: RepetitionPenalty = Field(
        default=1.0,
        description="Above 1: tokens that already occurred become less likely: their scores are divided by it where "
        "above 0, multiplied where below.",
    )
    frequency_penalty: Penalty = Field(
        default=0.0,
        description="Is subtracted from the score of a token for each time that this request wrote it; the prompt and "
        "what a session holds do not count.",
    )
    presence_penalty: Penalty = Field(
        default=0.0, description="Is subtracted once from the score of each token that this request wrote."
    )
    logit_bias: Biases = Field(
        default={},
        description="By character of the vocabulary (word, of a word model, with the space before it): what is added "
        "to its score; -100 bans it.",
        examples=[{"e": -5.0}],
    )
    stop: Stops = Field(
        default=[],
        description="End before any of these texts, as the model writes them: composed (NFC), and otherwise as they "
        "are; of a word model, with the last whole word before it.",
    )
    seed: Seed | None = Field(
        default=None,
        description="The same request with the same seed gives the same text. Any integer of 64 bits, with or without "
        "a sign (-1 is 2**64 - 1). Random if absent.",
    )
    n: Copies = Field(default=1, description="How many texts.")
    logprobs: Annotated[int, Field(strict=True, ge=0, le=100)] = Field(
        default=0,
        description="Tell so many candidates at each token, with log-probabilities, of the model's own distribution: "
        "before any control.",
    )
    echo: Flag = Field(
        default=False, description="Give the text back with the prompt before it, as it was read; `logprobs` too."
    )
    unknown: Unknown = "replace"
    stream: Flag = Field(default=False, description="Send the text as it is written, as server-sent events.")


class CandidateLog(Answer):
    """A character, or word, and the natural logarithm of its probability."""

    character: str
    logprob: float


class ChosenLog(Answer):
    """A character, or word, of the text beside the most probable ones in its place. `null` and none where nothing came
    before it."""

    character: str
    logprob: float | None
    top: list[CandidateLog]


class Choice(Answer):
    """One generated text."""

    text: str
    finish_reason: Literal["length", "stop"]
    logprobs: list[ChosenLog] | None


class Usage(Answer):
    """What was read and written: characters, or of a word model words."""

    prompt_characters: int
    generated_characters: int


class GenerateAnswer(Answer):
    """The generated text; with `n` above 1, the first of `choices`."""

    model: ModelId
    text: str
    finish_reason: Literal["length", "stop"]
    logprobs: list[ChosenLog] | None
    choices: list[Choice] | None
    seed: int
    usage: Usage
    unknown_characters: list[str] = Field(
        description="Those of the prompt that the model does not know; of a word model, words."
    )
    session: AnswerSession
    state: AnswerState


class PredictBody(StatefulBody):
    """A text, to see what the model expects next."""

    text: Text = Field(description="May be empty.", examples=["She opened the do"])
    top_k: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(default=5, description="How many candidates.")
    per_position: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Tell them after each token of the text as it is read, and the text's bits per character.",
    )
    candidates: Annotated[list[NonEmptyText], Field(min_length=1, max_length=1000, fail_fast=True)] | None = Field(
        default=None,
        description="Continuations of the text, to be ranked by their probability. They move no session.",
        examples=[["e", " and", "ut"]],
    )
    unknown: Unknown = "replace"


class CandidateProbability(Answer):
    """A character, or word, and its probability."""

    character: str
    probability: float


class PositionAnswer(Answer):
    """A character of the text, or word, the probability it had (`null` for the very first), and what the model expects
    next."""

    character: str
    probability: float | None
    next: list[CandidateProbability]


class RankedCandidate(Answer):
    """A continuation, its place among those that were sent, and the natural logarithm of its probability: in all, and
    per character of it as it was read."""

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
        description="With `per_position`, of what had something before it. Of a word model, too, per character."
    )
    candidates: list[RankedCandidate] | None = Field(description="The most probable first, in all.")
    unknown_characters: list[str]
    session: AnswerSession
    state: AnswerState


class FirstText(Body):
    """The first text of a new session."""

    prompt: Text | None = Field(default=None, description="A text to read.")

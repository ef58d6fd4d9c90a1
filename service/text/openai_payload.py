"""The requests that the `openai` client (version 3.54) sends to the completions API. Knows nothing of engines."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from service.errors import InvalidRequestError, LimitExceededError
from service.http.schemas import MAX_INTEGER, Body, unsupported
from service.settings import Settings
from service.text.openai_fields import known_fields
from service.text.sampling import SamplingParams
from service.text.schemas import Biases, Copies, Flag, Penalty, RepetitionPenalty, Share, Stops, Temperature, Text
from service.tokenizer import TokenizedText, Tokenizer


def _layout(prompt: Any) -> str:
    """The tag of the prompt's type, so that pydantic tries, and names in its errors, only that one."""
    if not isinstance(prompt, list):
        return "<text>"
    first = prompt[0] if prompt else ""
    return "<tokens>" if isinstance(first, int) else "<lists>" if isinstance(first, list) else "<texts>"


def _stop_list(stop: Any) -> Any:
    """Stop texts as a list, without empty ones: those ask for nothing."""
    stops = [stop] if isinstance(stop, str) else stop
    return [text for text in stops if text != ""] if isinstance(stops, list) else stops


def _whole_number(value: Any) -> Any:
    """Take 5.0 for 5: JSON does not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _logprobs_count(logprobs: Any) -> Any:
    """Take `true`, which clients of chats send, for 1."""
    return {True: 1, False: None}[logprobs] if isinstance(logprobs, bool) else _whole_number(logprobs)


Whole = BeforeValidator(_whole_number)
OpenAiLength = Annotated[int, Whole, Field(strict=True, ge=-1, le=MAX_INTEGER)]
OpenAiCopies = Annotated[Copies, Whole]
OpenAiSeed = Annotated[int, Whole, Field(strict=True, gt=-(2**64), lt=2**64)]
OpenAiStops = Annotated[Stops, BeforeValidator(_stop_list, json_schema_input_type=str | list[str])]


MAX_PROMPTS = 50_000
"""Prompts in one call, whatever the settings allow: to validate more would keep other callers waiting."""
TokenList = Annotated[list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]], Field(fail_fast=True)]
Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("<texts>")]
    | Annotated[TokenList, Tag("<tokens>")]
    | Annotated[list[TokenList], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("<lists>")],
    Discriminator(_layout),
]


def _nullable(schema: dict[str, Any]) -> None:
    """Tell OpenAPI that every optional field may be `null`."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            annotations = {key: field.pop(key) for key in ("description", "default", "title") if key in field}
            schema["properties"][name] = {"anyOf": [{**field}, {"type": "null"}], **annotations}


class LenientBody(Body):
    """A request that may have `null` for any optional field, and fields that change nothing here."""

    model_config = ConfigDict(json_schema_extra=_nullable)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return known_fields(data, cls.model_fields) if isinstance(data, dict) else data


class StreamOptions(LenientBody):
    """`include_usage`: the last frame has the usage; `continuous_usage_stats`: each frame has the usage so far."""

    include_usage: Flag = False
    continuous_usage_stats: Flag = False
    include_obfuscation: Annotated[Flag, unsupported("streams are not padded here: leave it out")] = False


class ControlsPayload(LenientBody):
    """The fields that completions and chats share. `null` is the default. A token is a character, in a word model a
    word."""

    model: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        default=None,
        description="`name` or `name@version`; if absent, or one of OpenAI's own such as `gpt-3.5-turbo-instruct`, the "
        "default text model.",
    )
    max_tokens: OpenAiLength | None = Field(
        default=None,
        description="The most tokens of a text. If absent or -1: CARRY_DEFAULT_MAX_TOKENS, or fewer if the limit "
        "over all texts is lower.",
    )
    temperature: Temperature = 1.0
    top_p: Share = Field(default=1.0, description="0 takes the most probable token, as `temperature` 0 does.")
    n: OpenAiCopies = Field(default=1, description="How many texts of each prompt.")
    logit_bias: Biases = Field(default={}, description="By token: a number to add to its score; -100 bans the token.")
    stop: OpenAiStops = Field(default=[], description="End before any of these texts.")
    seed: OpenAiSeed | None = Field(
        default=None,
        description="The same request with the same seed gives the same text. Random if absent or below 0.",
    )
    stream: Flag = False
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty = Field(default=0.0, description="As in /generate.")
    frequency_penalty: Penalty = Field(default=0.0, description="As in /generate.")
    top_k: Annotated[int, Whole, Field(strict=True, ge=-1, le=2**64 - 1)] = Field(
        default=0, description="As in /generate; -1 is 0."
    )
    min_p: Share = Field(default=0.0, description="As in /generate.")
    repetition_penalty: RepetitionPenalty = Field(default=1.0, description="As in /generate.")

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("needs `stream` to be true", "$.stream_options")
        return self

    def params(self, tokenizer: Tokenizer) -> SamplingParams:
        """The sampling controls.

        Raises:
            InvalidRequestError: a key of `logit_bias` is not a token.
        """
        ids = {str(id): id for id in range(1, tokenizer.size)} if self.logit_bias else {}
        for key in self.logit_bias:
            if key not in ids:
                raise InvalidRequestError(
                    f"no token that the model generates; those are 1 to {len(ids)}", f"$.logit_bias.{key[:20]}"
                )
        biases = tuple((ids[key], bias) for key, bias in self.logit_bias.items())
        return SamplingParams(
            self.temperature,
            max(0, self.top_k),
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.frequency_penalty,
            self.presence_penalty,
            biases,
        )


class CompletionPayload(ControlsPayload):
    """Prompts, and how to continue them."""

    prompt_path: ClassVar[str] = "$.prompt"
    prompt: Prompt = Field(
        default="", description="A text, or a list of tokens, indices into the model's vocabulary; or a list of those."
    )
    best_of: OpenAiCopies | None = Field(
        default=None,
        description="Generate so many texts, and return the `n` with the highest mean log-probability of a token.",
    )
    echo: Flag = Field(default=False, description="Begin each text with its prompt.")
    logprobs: Annotated[
        Annotated[int, Field(strict=True, ge=0, le=20)] | None,
        BeforeValidator(_logprobs_count, json_schema_input_type=bool | Annotated[int, Field(ge=0, le=20)] | None),
    ] = Field(default=None, description="Log-probabilities of each token and of so many candidates in its place.")
    suffix: Annotated[str, unsupported("these models write no text before a suffix: leave it out")] = ""

    @property
    def texts(self) -> int:
        """Texts to generate for each prompt."""
        return self.best_of or self.n

    def check(self, settings: Settings) -> None:
        """Check that fields fit together, and the limits.

        Raises:
            InvalidRequestError: `best_of` does not fit `n` or `stream`.
            LimitExceededError: too many texts, or too long ones.
        """
        if self.texts < self.n:
            raise InvalidRequestError("must be at least n", "$.best_of")
        if self.stream and self.texts > self.n:
            raise InvalidRequestError("must be at most n: a stream cannot know which will be the best", "$.best_of")
        count = self.texts * (len(self.prompt) if self._many else 1)
        if count > settings.max_batch_requests:
            limit = settings.max_batch_requests
            raise LimitExceededError(
                f"at most {limit} texts at once, over all prompts, and these are {count}", self.prompt_path
            )
        length = sum(map(len, self.each_prompt.values()))
        if length > settings.max_text_length:
            raise LimitExceededError(
                f"at most {settings.max_text_length} characters are read at once", self.prompt_path
            )
        if count * self.length(settings) > settings.max_generated_length:
            limit = settings.max_generated_length
            raise LimitExceededError(f"at most {limit} tokens are generated at once, over all texts", "$.max_tokens")

    def length(self, settings: Settings) -> int:
        """The most tokens of a text."""
        if self.max_tokens is not None and self.max_tokens >= 0:
            return self.max_tokens
        texts = self.texts * (len(self.prompt) if self._many else 1)
        return min(settings.default_max_tokens, settings.max_generated_length // max(1, texts))

    @property
    def _many(self) -> bool:
        """Whether `prompt` is a list of prompts."""
        return isinstance(self.prompt, list) and not isinstance(next(iter(self.prompt), 0), int)

    @property
    def each_prompt(self) -> dict[str, str | list[int]]:
        """The prompts, by their JSON paths."""
        prompt: Any = self.prompt
        path = self.prompt_path
        return {f"{path}[{i}]": item for i, item in enumerate(prompt)} if self._many else {path: prompt}


def read_prompt(prompt: str | list[int], tokenizer: Tokenizer, path: str) -> TokenizedText:
    """Tokenize a prompt: a text, or token ids.

    Raises:
        InvalidRequestError: the text cannot be read; or an id is not in the vocabulary, or no text has these tokens.
    """
    if isinstance(prompt, str):
        return tokenizer.tokenize(prompt, path)
    text = tokenizer.tokenize(detokenize(prompt, tokenizer, path), path)
    if text.ids.tolist() != prompt:
        raise InvalidRequestError("their text has other tokens than these: send the text", path)
    return text


def detokenize(ids: Sequence[int], tokenizer: Tokenizer, path: str) -> str:
    """The text of token ids.

    Raises:
        InvalidRequestError: an id is not in the vocabulary.
    """
    if ids and max(ids) >= tokenizer.size:
        raise InvalidRequestError(f"no token; those are 0 to {tokenizer.size - 1}", f"{path}[{np.argmax(ids)}]")
    return "".join(tokenizer.vocabulary[id] or tokenizer.unknown_token for id in ids)

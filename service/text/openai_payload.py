"""What the `openai` client (version 3.54) sends to the completions API, and reads. Knows nothing of engines."""

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
from service.text.tokenizer import TokenizedText, Tokenizer


def _layout(prompt: Any) -> str:
    if not isinstance(prompt, list):
        return "<text>"
    first = prompt[0] if prompt else ""
    return "<tokens>" if isinstance(first, int) else "<lists>" if isinstance(first, list) else "<texts>"


def _in_a_list(stop: Any) -> Any:
    """An empty stop text asks for nothing."""
    stops = [stop] if isinstance(stop, str) else stop
    return [one for one in stops if one != ""] if isinstance(stops, list) else stops


def _whole_number(given: Any) -> Any:
    """As JSON has it: 5.0 is 5."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _as_count(logprobs: Any) -> Any:
    """Clients of chats say `true`: it is one."""
    return {True: 1, False: None}[logprobs] if isinstance(logprobs, bool) else _whole_number(logprobs)


Whole = BeforeValidator(_whole_number)
OpenAiLength = Annotated[int, Whole, Field(strict=True, ge=-1, le=MAX_INTEGER)]
OpenAiCopies = Annotated[Copies, Whole]
OpenAiSeed = Annotated[int, Whole, Field(strict=True, gt=-(2**64), lt=2**64)]
OpenAiStops = Annotated[Stops, BeforeValidator(_in_a_list, json_schema_input_type=str | list[str])]


MOST_PROMPTS = 50_000
"""In one call, however many the settings allow: more take long to be validated, and others wait."""
TokenList = Annotated[list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]], Field(fail_fast=True)]
Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True), Tag("<texts>")]
    | Annotated[TokenList, Tag("<tokens>")]
    | Annotated[list[TokenList], Field(max_length=MOST_PROMPTS, fail_fast=True), Tag("<lists>")],
    Discriminator(_layout),
]


def _nullable(schema: dict[str, Any]) -> None:
    """Tell OpenAPI that each field that may be absent may be `null`."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            told = {key: field.pop(key) for key in ("description", "default", "title") if key in field}
            schema["properties"][name] = {"anyOf": [{**field}, {"type": "null"}], **told}


class LenientBody(Body):
    """A request in which `null` is as good as absent, and which may have fields that change nothing here."""

    model_config = ConfigDict(json_schema_extra=_nullable)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return known_fields(data, cls.model_fields) if isinstance(data, dict) else data


class StreamOptions(LenientBody):
    """`include_usage`: a last frame tells it; `continuous_usage_stats`: each frame tells what there is so far."""

    include_usage: Flag = False
    continuous_usage_stats: Flag = False
    include_obfuscation: Annotated[Flag, unsupported("streams are not padded here: leave it out")] = False


class ControlsPayload(LenientBody):
    """What completions and chats have in common. A `null` is the default. A token is a character, of a word model a
    word."""

    model: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        default=None,
        description="`name` or `name@version`; if absent, or one of OpenAI's own such as `gpt-3.5-turbo-instruct`, the "
        "default text model.",
    )
    max_tokens: OpenAiLength | None = Field(
        default=None,
        description="Most tokens of a text. If absent or -1, CARRY_DEFAULT_MAX_TOKENS, or as many as may be generated "
        "over all texts if these are fewer.",
    )
    temperature: Temperature = 1.0
    top_p: Share = Field(default=1.0, description="0 takes the most probable token, as `temperature` 0 does.")
    n: OpenAiCopies = Field(default=1, description="How many texts of each prompt.")
    logit_bias: Biases = Field(default={}, description="By token: what is added to its score; -100 bans it.")
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
            raise InvalidRequestError("only where `stream` is true", "$.stream_options")
        return self

    def params(self, tokenizer: Tokenizer) -> SamplingParams:
        """The controls.

        Raises:
            InvalidRequestError: a bias is of no token.
        """
        tokens = {str(token): token for token in range(1, tokenizer.size)} if self.logit_bias else {}
        for key in self.logit_bias:
            if key not in tokens:
                raise InvalidRequestError(
                    f"no token to write; those are 1 to {len(tokens)}", f"$.logit_bias.{key[:20]}"
                )
        biases = tuple((tokens[key], bias) for key, bias in self.logit_bias.items())
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
        default=None, description="Write so many, answer with the `n` of the highest mean log-probability of a token."
    )
    echo: Flag = Field(default=False, description="Begin each text with its prompt.")
    logprobs: Annotated[
        Annotated[int, Field(strict=True, ge=0, le=20)] | None,
        BeforeValidator(_as_count, json_schema_input_type=bool | Annotated[int, Field(ge=0, le=20)] | None),
    ] = Field(default=None, description="Log-probabilities of each token, and of so many candidates in its place.")
    suffix: Annotated[str, unsupported("nothing is inserted before a suffix here: leave it out")] = ""

    @property
    def texts(self) -> int:
        """Texts to write for each prompt."""
        return self.best_of or self.n

    def check(self, settings: Settings) -> None:
        """Refuse what does not go together, and what is too much.

        Raises:
            InvalidRequestError, LimitExceededError: it is.
        """
        if self.texts < self.n:
            raise InvalidRequestError("at least n", "$.best_of")
        if self.stream and self.texts > self.n:
            raise InvalidRequestError("at most n: a stream cannot know which will be the best", "$.best_of")
        count = self.texts * (len(self.prompt) if self._many else 1)
        if count > settings.max_batch_requests:
            most = settings.max_batch_requests
            raise LimitExceededError(
                f"at most {most} texts at once, over all prompts, and these are {count}", self.prompt_path
            )
        read = sum(map(len, self.each_prompt.values()))
        if read > settings.max_text_length:
            raise LimitExceededError(
                f"at most {settings.max_text_length} characters are read at once", self.prompt_path
            )
        if count * self.length(settings) > settings.max_generated_length:
            most = settings.max_generated_length
            raise LimitExceededError(f"at most {most} tokens are generated at once, over all texts", "$.max_tokens")

    def length(self, settings: Settings) -> int:
        """Most tokens of a text."""
        if self.max_tokens is not None and self.max_tokens >= 0:
            return self.max_tokens
        texts = self.texts * (len(self.prompt) if self._many else 1)
        return min(settings.default_max_tokens, settings.max_generated_length // max(1, texts))

    @property
    def _many(self) -> bool:
        """Whether there is a list of prompts."""
        return isinstance(self.prompt, list) and not isinstance(next(iter(self.prompt), 0), int)

    @property
    def each_prompt(self) -> dict[str, str | list[int]]:
        """The prompts, by their JSON paths."""
        prompt: Any = self.prompt
        path = self.prompt_path
        return {f"{path}[{i}]": one for i, one in enumerate(prompt)} if self._many else {path: prompt}


def read_prompt(prompt: str | list[int], tokenizer: Tokenizer, path: str) -> TokenizedText:
    """A prompt as the model reads it.

    Raises:
        InvalidRequestError: tokens that there are not, or that no text has; or a text that cannot be read here.
    """
    return tokenizer.tokenize(prompt, path) if isinstance(prompt, str) else _text(prompt, tokenizer, path)


def _text(tokens: Sequence[int], tokenizer: Tokenizer, path: str) -> TokenizedText:
    """The text of these tokens."""
    text = tokenizer.tokenize(text_of_tokens(tokens, tokenizer, path), path)
    if text.ids.tolist() != tokens:
        raise InvalidRequestError("these tokens are not those of the text that they make: send the text", path)
    return text


def text_of_tokens(tokens: Sequence[int], tokenizer: Tokenizer, path: str) -> str:
    """The pieces of these tokens, one after the other.

    Raises:
        InvalidRequestError: there are no such tokens.
    """
    if tokens and max(tokens) >= tokenizer.size:
        raise InvalidRequestError(f"no token; those are 0 to {tokenizer.size - 1}", f"{path}[{np.argmax(tokens)}]")
    return "".join(tokenizer.vocabulary[id] or tokenizer.unknown_token for id in tokens)

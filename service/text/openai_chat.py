"""Chats over completion models: a plain template, and the form of OpenAI's chat API.

The models continue texts; nobody trained them to converse. The template is the plainest that reads as a dialogue.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from service.http.context import RequestContext
from service.http.schemas import Answer, Body, unsupported
from service.text.answers import json_list
from service.text.decoder import Row
from service.text.logprobs import TokenLogprob, log_probability, logprob_blocks
from service.text.openai_answers import CompletionUsage
from service.text.openai_completion import Completion, find_text_model
from service.text.openai_payload import CompletionPayload, ControlsPayload, OpenAiLength
from service.text.schemas import Flag, Text
from service.text.streaming import TextDelta
from service.tokenizer import TokenLevel

USER, ASSISTANT = "User:", "Assistant:"
ENDS = (f"\n{USER}", f"\n{ASSISTANT}")
"""Stop texts: a turn ends where the next one begins."""
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] in ['system', 'developer'] %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""`chat_prompt` as a Jinja template, for clients that read one."""


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """One turn. Ignores the other fields of earlier answers (`refusal`, `annotations`, `reasoning_content`)."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=1000, fail_fast=True)] | None = None
    tool_calls: Annotated[list[Any] | None, unsupported("these models call no tools: leave it out")] = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatPayload(ControlsPayload):
    """A chat, and how to continue it."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2000, fail_fast=True)]
    max_completion_tokens: OpenAiLength | None = Field(default=None, description="The newer name of `max_tokens`.")
    logprobs: Flag = Field(default=False, description="Log-probabilities of each token.")
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = Field(
        default=None, description="With `logprobs`: also those of so many candidates in the token's place."
    )


class ChatPrompt(CompletionPayload):
    """A chat as a prompt."""

    prompt_path: ClassVar[str] = "$.messages"


def chat_prompt(messages: Sequence[ChatMessage], level: TokenLevel) -> str:
    """The dialogue up to the assistant's next turn. A word of a word model includes the space before it."""
    text = ""
    for message in messages:
        if message.role in ("system", "developer"):
            text += f"{message.text}\n\n"
        else:
            text += f"{USER if message.role == 'user' else ASSISTANT} {message.text}\n"
    return f"{text}{ASSISTANT} " if level == "character" else f"{text}{ASSISTANT}"


def chat_completion(body: ChatPayload, level: TokenLevel) -> ChatPrompt:
    """The completion request that answers a chat."""
    shared = {name: getattr(body, name) for name in ControlsPayload.model_fields}
    length = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return ChatPrompt.model_construct(
        **shared
        | {
            "prompt": chat_prompt(body.messages, level),
            "max_tokens": length,
            "stop": [*body.stop, *ENDS],
            "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        }
    )


class ChatCompletion(Completion):
    """The assistant's next turns, as completions."""

    id_prefix = "chatcmpl"
    answer_object = "chat.completion"
    frame_object = "chat.completion.chunk"

    def __init__(self, body: ChatPayload, call: RequestContext) -> None:
        model = find_text_model(body.model, call.app)
        super().__init__(chat_completion(body, model.manifest.tokenizer.level), call)
        self._begun: set[int] = set()
        """Indices of the texts of which the stream has sent a part."""

    def _choice(self, index: int, row: Row, offset: int) -> dict[str, Any]:
        logprobs, count = None, self._body.logprobs
        if count is not None:
            blocks = logprob_blocks(self._tokenizer, row, self._candidates)
            logprobs = {"content": json_list(_logprobs(block, count) for block in blocks), "refusal": None}
        message = {"role": "assistant", "content": self._turn_start(row.text), "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": row.finish_reason}

    def _opening_choices(self, texts: int) -> list[dict[str, Any]]:
        return [_delta(index, {"role": "assistant", "content": ""}, None, None) for index in range(texts)]

    def _delta_choices(self, delta: TextDelta, offset: int) -> list[dict[str, Any]]:
        choices, count = [], self._body.logprobs
        if delta.text:
            text = delta.text if delta.index in self._begun else self._turn_start(delta.text)
            self._begun.add(delta.index)
            logprobs = None if count is None else {"content": _logprobs(delta.logprobs, count), "refusal": None}
            choices.append(_delta(delta.index, {"content": text}, logprobs, None))
        if delta.finish_reason is not None:
            choices.append(_delta(delta.index, {}, None, delta.finish_reason))
        return choices

    def _turn_start(self, text: str) -> str:
        """The beginning of a turn. In a word model, drops the space between `Assistant:` and the first word."""
        return text if self._tokenizer.level == "character" else text.removeprefix(" ")


def _delta(index: int, delta: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(logprobs: Sequence[TokenLogprob], count: int) -> list[dict[str, Any]]:
    """`ChatLogprob`s."""
    return [
        _candidate(logprob.token, logprob.probability or 0.0)
        | {"top_logprobs": [_candidate(token, p) for token, p in logprob.candidates[:count]]}
        for logprob in logprobs
    ]


def _candidate(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": log_probability(probability), "bytes": [*token.encode()]}


class ChatReply(Answer):
    """A turn of the assistant."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatCandidate(Answer):
    """A token, the natural logarithm of its probability, and its bytes in UTF-8."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(ChatCandidate):
    """A generated token, and the most probable ones in its place."""

    top_logprobs: list[ChatCandidate]


class ChatLogprobs(Answer):
    """The log-probabilities of each token."""

    content: list[ChatLogprob]
    refusal: None


class ChatChoice(Answer):
    """One turn."""

    index: int
    message: ChatReply
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatAnswer(Answer):
    """The turns. In a stream, frames of `object` `chat.completion.chunk`, with `delta` in place of `message`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str = Field(description="`name@version`")
    choices: list[ChatChoice]
    usage: CompletionUsage
    system_fingerprint: str

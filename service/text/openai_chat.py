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
from service.text.openai_completion import Completion, text_model
from service.text.openai_payload import CompletionPayload, ControlsPayload, OpenAiLength
from service.text.schemas import Flag, Text
from service.text.streaming import TextDelta
from service.text.tokenizer import TokenLevel

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
"""`prompt_of` in the language that clients read templates in (Jinja)."""


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """One turn. What else earlier answers have (`refusal`, `annotations`, `reasoning_content`) is not read."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=1000, fail_fast=True)] | None = None
    tool_calls: Annotated[list[Any] | None, unsupported("these models call no tools: leave it out")] = None

    @property
    def text(self) -> str:
        """All of its parts."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatPayload(ControlsPayload):
    """A chat, and how to go on with it."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2000, fail_fast=True)]
    max_completion_tokens: OpenAiLength | None = Field(default=None, description="The newer name of `max_tokens`.")
    logprobs: Flag = Field(default=False, description="Log-probabilities of each token.")
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = Field(
        default=None, description="With `logprobs`: of so many candidates in its place, too."
    )


class ChatPrompt(CompletionPayload):
    """A chat as a prompt to be continued."""

    prompt_path: ClassVar[str] = "$.messages"


def prompt_of(messages: Sequence[ChatMessage], level: TokenLevel) -> str:
    """The dialogue up to where the next turn of the assistant begins. In a word model, a word brings its own space."""
    text = ""
    for message in messages:
        if message.role in ("system", "developer"):
            text += f"{message.text}\n\n"
        else:
            text += f"{USER if message.role == 'user' else ASSISTANT} {message.text}\n"
    return f"{text}{ASSISTANT} " if level == "character" else f"{text}{ASSISTANT}"


def completion_of(body: ChatPayload, level: TokenLevel) -> ChatPrompt:
    """The completion that answers a chat."""
    shared = {name: getattr(body, name) for name in ControlsPayload.model_fields}
    length = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return ChatPrompt.model_construct(
        **shared
        | {
            "prompt": prompt_of(body.messages, level),
            "max_tokens": length,
            "stop": [*body.stop, *ENDS],
            "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        }
    )


class ChatCompletion(Completion):
    """A chat to be continued."""

    id_prefix = "chatcmpl"
    answer_object = "chat.completion"
    frame_object = "chat.completion.chunk"

    def __init__(self, body: ChatPayload, call: RequestContext) -> None:
        model = text_model(body.model, call.app)
        super().__init__(completion_of(body, model.manifest.tokenizer.level), call)
        self._begun: set[int] = set()
        """The texts of which something was sent."""

    def _choice(self, index: int, row: Row, offset: int) -> dict[str, Any]:
        logprobs, count = None, self._body.logprobs
        if count is not None:
            blocks = logprob_blocks(self._model.manifest.tokenizer, row, self._told)
            logprobs = {"content": json_list(_logs(block, count) for block in blocks), "refusal": None}
        text = self._first(row.text)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": row.finish_reason}

    def _opening(self, texts: int) -> list[dict[str, Any]]:
        return [_delta(index, {"role": "assistant", "content": ""}, None, None) for index in range(texts)]

    def _frames_of(self, new: TextDelta, offset: int) -> list[dict[str, Any]]:
        frames, count = [], self._body.logprobs
        if new.text:
            text = new.text if new.index in self._begun else self._first(new.text)
            self._begun.add(new.index)
            logprobs = None if count is None else {"content": _logs(new.logprobs, count), "refusal": None}
            frames.append(_delta(new.index, {"content": text}, logprobs, None))
        if new.finish_reason is not None:
            frames.append(_delta(new.index, {}, None, new.finish_reason))
        return frames

    def _first(self, text: str) -> str:
        """What a turn begins with, without the space that parts it from its name in a word model."""
        return text if self._model.manifest.tokenizer.level == "character" else text.removeprefix(" ")


def _delta(index: int, delta: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _logs(logprobs: Sequence[TokenLogprob], count: int) -> list[dict[str, Any]]:
    """`ChatLogprob`s."""
    return [
        _log(logprob.token, logprob.probability or 0.0)
        | {"top_logprobs": [_log(token, p) for token, p in logprob.candidates[:count]]}
        for logprob in logprobs
    ]


def _log(token: str, probability: float) -> dict[str, Any]:
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
    """A token that was written, and the most probable ones in its place."""

    top_logprobs: list[ChatCandidate]


class ChatLogprobs(Answer):
    """Of each token."""

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

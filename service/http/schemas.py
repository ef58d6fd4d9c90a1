"""Base schemas of requests and answers. Unknown fields are errors, so that a mistyped option is never ignored."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.validation import check_field_count

MAX_INTEGER = 2**31
"""Bound of every integer. No limit is as high; an integer of thousands of digits could not be shown in an error."""
ModelName = Annotated[
    str | None, Field(min_length=1, max_length=80, description="`name` or `name@version`; the default model if absent.")
]


def check_unicode(text: str) -> str:
    """Reject half a surrogate pair: JSON can write it, but it is not a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid unicode: half of a surrogate pair") from None
    return text


def unsupported(why: str) -> AfterValidator:
    """A validator for a field that only other services support: it accepts no value but an empty one."""

    def refuse(value: Any) -> Any:
        if value:
            raise ValueError(why)
        return value

    return AfterValidator(refuse)


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_field_count(cls, data: Any) -> Any:
        return check_field_count(data)


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class FieldError(Answer):
    """What is wrong with one field."""

    path: str = Field(examples=["$.series[3]"])
    message: str


class Problem(Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    trace_id: str = Field(description="Of the caller's `traceparent`, or of a new trace (W3C Trace Context).")
    errors: list[FieldError] = []


class ModelId(Answer):
    """The model that answered."""

    name: str
    version: int


class SessionId(Answer):
    """The session after the call. Its version is also the answer's ETag."""

    id: str
    version: int
    position: int = Field(description="Values or characters read so far, with the generated ones.")


class StatefulBody(Body):
    """A request that can continue from a session or a state."""

    model: ModelName = None
    session_id: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="The session to continue from, and to update."
    )
    state: str | None = Field(
        default=None,
        description='Instead of a session: the `state` of an earlier answer to continue from, or `""` to start. The '
        "answer has the new state. The service stores nothing.",
    )
    commit: Annotated[bool, Field(strict=True)] = Field(
        default=True, description="`false`: continue from the session or state without updating it."
    )


AnswerSession = Annotated[SessionId | None, Field(description="The session of the request, if it has one.")]
AnswerState = Annotated[
    str | None, Field(description="The new state, if the request has a `state` and `commit` is true.")
]

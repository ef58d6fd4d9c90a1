"""The JSON of requests and answers. Unknown fields are refused, so that a mistyped option is never silently dropped."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e30, le=1e30)]
MAX_INTEGER = 2**31
"""Of every integer: no limit is as high, and one of thousands of digits could not even be named in an error."""
MAX_FIELDS = 64
ModelName = Annotated[
    str | None, Field(min_length=1, max_length=80, description="`name` or `name@version`; the default model if absent.")
]


def check_unicode(text: str) -> str:
    """JSON can write half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid unicode: half of a surrogate pair") from None
    return text


def check_field_count(data: Any, max_fields: int = MAX_FIELDS) -> Any:
    """Each wrong field would be an error of its own, and a body has room for a million."""
    if isinstance(data, dict) and len(data) > max_fields:
        raise ValueError(f"has more than {max_fields} fields")
    return data


def unsupported(why: str) -> AfterValidator:
    """Refuse whatever asks for it."""

    def refuse(given: Any) -> Any:
        if given:
            raise ValueError(why)
        return given

    return AfterValidator(refuse)


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, data: Any) -> Any:
        return check_field_count(data)


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class FieldError(Answer):
    """What is wrong with one field."""

    path: str = Field(examples=["$.series[3]"])
    message: str


class Problem(Answer):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] = []


class ModelId(Answer):
    """The model that answered."""

    name: str
    version: int


class SessionId(Answer):
    """The session as the call left it; its version is also the answer's ETag."""

    id: str
    version: int
    position: int = Field(description="Values or characters read so far, generated ones among them.")


class StatefulBody(Body):
    """A request that may go on from where another one ended."""

    model: ModelName = None
    session_id: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Go on from where this session stands, and move it there."
    )
    state: str | None = Field(
        default=None,
        description='Instead of a session: the `state` of an earlier answer, to go on from there; `""` begins anew. '
        "The answer has the new one. The service keeps nothing.",
    )
    commit: Annotated[bool, Field(strict=True)] = Field(
        default=True, description="`false`: go on from the session or state without moving it."
    )


AnswerSession = Annotated[SessionId | None, Field(description="The request's, if it had one.")]
AnswerState = Annotated[
    str | None, Field(description="Where this ended, if the request brought a `state` and was to move it.")
]

"""The JSON of requests and answers about the classes of sequences."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from service.http.schemas import (
    Answer,
    AnswerSession,
    AnswerState,
    Body,
    ModelId,
    ModelName,
    Problem,
    StatefulBody,
    check_unicode,
)
from service.series import FIRST_SERIES, Series

Text = Annotated[str, AfterValidator(check_unicode)]
TopK = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=1000)] | None,
    Field(description="How many of the most probable classes to answer. All if absent."),
]
PerStep = Annotated[
    bool, Field(strict=True, description="Also answer the probabilities after every step (value, character or word).")
]


class ClassifyBody(StatefulBody):
    """A series or a text to classify."""

    series: Series | None = Field(
        default=None,
        description="The values, oldest first, `null` where missing; or such a list for each feature, by name. With a "
        "session or state, only the new values; `[]` if there are none.",
        examples=[[0.1, 0.4, 0.9, 1.2, 0.8, None, 0.2]],
    )
    text: Text | None = Field(
        default=None,
        description="A text. With a session or state, only the new text; an empty one if there is none.",
        examples=["The house stood on a slight rise."],
    )
    top_k: TopK = None
    per_step: PerStep = False


class ClassifyAnswer(Answer):
    """The class of a sequence."""

    model: ModelId
    label: str = Field(description="The most probable class.")
    probabilities: dict[str, float] = Field(description="Of the classes, the most probable first.")
    per_step: dict[str, list[float]] | None = Field(
        description="For each class, its probability after every step of the request."
    )
    steps: int = Field(description="Values, characters or words of the sequence that were read so far.")
    session: AnswerSession
    state: AnswerState


class ClassifyBatchBody(Body):
    """Many requests. The other fields are defaults for items that leave them out."""

    requests: Annotated[list[Any], Field(min_length=1)] = Field(description="Each as in `POST /classify`.")
    model: ModelName = None
    top_k: TopK = None
    per_step: PerStep = False


class ClassifyBatchAnswer(Answer):
    """For each request, in order, its class or its problem."""

    results: list[ClassifyAnswer | Problem]


class FirstSequence(Body):
    """The first part of the sequence of a new session."""

    series: Series | None = FIRST_SERIES
    text: Text | None = Field(default=None, description="The first part of a text to classify.")

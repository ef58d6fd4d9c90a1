"""Calls about classes: from a validated body to a task of the engine, and from its result to the fields of the answer.
Knows nothing of HTTP: the routes and carry/ are the callers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.classify.manifest import ClassifyManifest
from service.classify.schemas import ClassifyBody
from service.classify.task import Classification, ClassifyRequest, classify, softmax
from service.engine.sequence import SequenceState, Task
from service.errors import InvalidRequestError, LimitExceededError
from service.kind import Model
from service.series import series_values
from service.settings import Settings

ClassifyModel = Model[ClassifyManifest]


@dataclass(frozen=True)
class PreparedClassification:
    """A valid `ClassifyBody`, with its model and the state that it starts from."""

    model: ClassifyModel
    start: SequenceState
    request: ClassifyRequest
    top_k: int

    @property
    def max_bytes(self) -> int:
        """The most memory that the request holds until it is answered."""
        return self.request.max_bytes(self.model.manifest) + self.model.graphs.state_bytes

    def task(self) -> Task[Classification]:
        """The task of `request.cost_steps` steps."""
        return classify(self.model.manifest, self.request, self.start)

    @property
    def answer_items(self) -> int:
        """Probabilities of the answer."""
        return self.top_k * (self.request.steps_read if self.request.per_step else 1)

    @property
    def path(self) -> str:
        """The field that makes the bytes many."""
        return "$.per_step" if self.request.per_step else sequence_path(self.model.manifest)

    def answer(self, result: Classification) -> dict[str, Any]:
        """A `ClassifyAnswer` without `session` and `state`."""
        manifest, shares = self.model.manifest, softmax(result.scores)
        best = np.argsort(-shares, kind="stable")[: self.top_k].tolist()
        per_step = None if result.per_step is None else softmax(result.per_step)
        return {
            "model": {"name": manifest.name, "version": manifest.version},
            "label": manifest.classes[best[0]],
            "probabilities": {manifest.classes[i]: float(shares[i]) for i in best},
            "per_step": None
            if per_step is None
            else {manifest.classes[i]: np.ascontiguousarray(per_step[:, i]) for i in best},
            "steps": result.after.position,
        }


def prepare_classification(
    body: ClassifyBody, model: ClassifyModel, start: SequenceState, returns_state: bool, settings: Settings
) -> PreparedClassification:
    """Validate a request, and turn its sequence into an array.

    Raises:
        InvalidRequestError, LimitExceededError: a field is not acceptable.
    """
    manifest = model.manifest
    sequence, text = read_sequence(body.series, body.text, start.position > 0, manifest, settings)
    steps = len(sequence)
    if manifest.directions == 2:
        _check_whole(manifest, steps, body.per_step)
    top_k = min(body.top_k or len(manifest.classes), len(manifest.classes))
    if body.per_step and steps * top_k > settings.max_answer_items:
        raise LimitExceededError(
            f"at most {settings.max_answer_items} probabilities in an answer, and these are {steps * top_k}: lower "
            "`top_k`, or send the sequence in pieces",
            "$.per_step",
        )
    return PreparedClassification(model, start, ClassifyRequest(sequence, text, body.per_step, returns_state), top_k)


def check_sequential(manifest: ClassifyManifest, body: ClassifyBody) -> None:
    """Refuse a session or a state of a model that reads whole sequences only.

    Raises:
        InvalidRequestError: the request has one.
    """
    path = next((f"$.{name}" for name in ("session_id", "state") if getattr(body, name) is not None), None)
    if manifest.directions == 2 and path is not None:
        raise InvalidRequestError(f"{manifest.name} reads whole sequences, both ways: it has no sessions", path)


def read_sequence(
    series: Any, text: str | None, resumed: bool, manifest: ClassifyManifest, settings: Settings
) -> tuple[NDArray[Any], str]:
    """What the model reads: a series (T, F) and no text; or the tokens of a text (T,), and the text in composed form.

    Raises:
        InvalidRequestError, LimitExceededError: the sequence is of the other form, or not acceptable.
    """
    path = sequence_path(manifest)
    form, others = ("texts", series) if manifest.reads_text else ("series", text)
    if others is not None:
        other = "$.series" if manifest.reads_text else "$.text"
        raise InvalidRequestError(f"{manifest.name} classifies {form}: send `{path[2:]}`", other)
    if series is not None:
        return series_values(series, resumed, manifest, settings), ""
    if text is None:
        raise InvalidRequestError(f"send the sequence as `{path[2:]}`", path)
    if len(text) > settings.max_text_length:
        raise LimitExceededError(f"at most {settings.max_text_length} characters are read at once", path)
    tokenized = manifest.tokenizer.tokenize(text, path)
    if not len(tokenized.ids) and not resumed:
        raise InvalidRequestError("must have at least one character", path)
    return tokenized.ids, tokenized.nfc


def sequence_path(manifest: ClassifyManifest) -> str:
    """The field of a request that holds the sequence."""
    return "$.text" if manifest.reads_text else "$.series"


def _check_whole(manifest: ClassifyManifest, steps: int, per_step: bool) -> None:
    limit = manifest.graph.max_steps
    if steps > limit:
        raise LimitExceededError(
            f"{manifest.name} reads a sequence whole, of at most {limit} steps", sequence_path(manifest)
        )
    if per_step:
        raise InvalidRequestError(
            f"{manifest.name} reads whole sequences, both ways: it knows no class before the end", "$.per_step"
        )

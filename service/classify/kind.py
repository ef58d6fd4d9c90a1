"""Classifiers, as a kind of model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from service.classify.manifest import ClassifyManifest
from service.classify.prepare import read_sequence, sequence_path
from service.classify.schemas import FirstSequence
from service.classify.task import SCORES, ClassifyRequest, classify
from service.engine.runner import Array, Runner, check_outputs
from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.kind import FirstInput, Model, ModelCard, OpenGraphs, SessionAccuracy, StateSpec
from service.manifest import Graphs, State
from service.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter

MAX_POSITION = 2**53
"""No sequence is longer: the bound of the state's count of steps."""


class ClassifyKind:
    """Classifiers of series and of texts. Cutting a sequence that may be cut does not change a bit."""

    name = "classify"
    manifest = ClassifyManifest
    split_invariant = True
    first_input: type[BaseModel] = FirstSequence
    inputs = ("series", "text")
    calls: Mapping[str, tuple[str, ...]] = {"/classify": (), "/classify/batch": ()}

    def default_model(self, settings: Settings) -> str:
        """None is more usual than another: a request names its model, unless only one is loaded."""
        return ""

    def state_spec(self, manifest: ClassifyManifest, graphs: Graphs) -> StateSpec:
        """The graph's own state, and the scores after the last step."""
        scores = State(name=SCORES, output="", dtype="float32", shape=(len(manifest.classes),))
        return StateSpec((*graphs.state, scores), (0, MAX_POSITION))

    def open(self, folder: Path, manifest: ClassifyManifest, graphs: Graphs, threads: int) -> OpenGraphs:
        """As `Kind.open`."""
        return OpenGraphs(Runner(folder, graphs.graph, threads))

    def smoke_test(self, manifest: ClassifyManifest, graphs: Graphs, opened: OpenGraphs) -> None:
        """Classify two steps; the scores must be finite and of the right shape."""
        inputs: dict[str, Array] = {
            tensor.name: np.zeros((1, *(2 if size == "T" else int(size) for size in tensor.shape)), dtype=tensor.dtype)
            for tensor in graphs.graph.inputs
            if tensor.name not in ("lengths", "per_step")
        }
        expected: dict[str, tuple[int, ...]] = {"logits": (1, len(manifest.classes))}
        if manifest.directions == 1:
            expected["logits_all"] = (1, 2, len(manifest.classes))
        runner = opened.runner
        outputs, _ = runner.prefill(inputs, np.array([2]), runner.initial_states(1), list(expected))
        check_outputs(graphs.graph.file, dict(zip(expected, outputs, strict=True)), expected)

    def prepare_first_input(self, body: Any, model: Model[ClassifyManifest], settings: Settings) -> FirstInput:
        """Prepare to read the first part of a sequence."""
        manifest = model.manifest
        request = ClassifyRequest(*read_sequence(body.series, body.text, False, manifest, settings))
        size, path = request.max_bytes(manifest), sequence_path(manifest)
        return FirstInput(_state_after(manifest, request), request.cost_steps, size, path)

    def accuracy(self, manifest: ClassifyManifest, state: SequenceState) -> SessionAccuracy | None:
        """None: classes do not become true later."""
        return None

    def listed(self, models: Sequence[Model[ClassifyManifest]], settings: Settings) -> list[ModelCard]:
        """No entries: OpenAI's API has no classifiers."""
        return []

    def routers(self) -> "Sequence[APIRouter]":
        """As `Kind.routers`."""
        from service.classify import routes

        return [routes.router]


CLASSIFY = ClassifyKind()


def _state_after(manifest: ClassifyManifest, request: ClassifyRequest) -> Task[SequenceState]:
    result = yield from classify(manifest, request, EMPTY_STATE)
    return result.after

"""The protocol of a kind of model: what the registry, the engine, the sessions and HTTP need of each kind.

A kind is one object, in a folder of its own (`service/forecast`, `service/text`), and one line in `service/kinds.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from service.card import Picture
from service.engine.decode import DecodeGraph
from service.engine.engine import Engine
from service.engine.runner import Runner
from service.engine.sequence import SequenceState, Task
from service.manifest import Graphs, M, Precision, State
from service.sessions.state import StateCodec
from service.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter


@dataclass(frozen=True)
class StateSpec:
    """A sequence's state: its tensors, the minimum and the maximum of its integers, and tensors that have been `added`:
    states of earlier releases lack them."""

    tensors: tuple[State, ...]
    integers: tuple[int, int]
    added: tuple[State, ...] = ()


@dataclass(frozen=True)
class OpenGraphs:
    """A model's open graphs: the graph that reads, and the graph that decodes, if the kind has one."""

    runner: Runner
    decode_graph: DecodeGraph | None = None


@dataclass(frozen=True)
class FirstInput:
    """The first input of a new session, prepared: the task that reads it, its steps, and the bytes that it may hold.
    `path`: the field that makes the bytes many."""

    task: Task[SequenceState]
    steps: int
    bytes: int
    path: str


class ModelCard(BaseModel):
    """A model, as clients of OpenAI's API list it."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When it was trained, in seconds since 1970.")
    owned_by: str = "carry"
    root: str = Field(description="`name@version`")
    max_model_len: int = Field(
        description="Maximum characters in one request. Those that a session has read do not count."
    )


class SessionAccuracy(BaseModel):
    """How well the one-step forecasts of a session met the values that came next. Older values count less: half after
    100 values."""

    model_config = ConfigDict(frozen=True)

    values: int = Field(description="Values scored since the session began.")
    mase: float | None = Field(
        description="Mean absolute scaled error: of the median, divided by the mean absolute change from one value to "
        "the next. Below 1: better than to repeat the last value. `null` if the series has not changed for very long."
    )
    scaled_quantile_loss: float | None = Field(
        description="Twice the pinball loss, mean over the model's quantiles, divided likewise."
    )
    coverage: dict[str, float] = Field(description="The share of values inside each central interval, by its level.")


class Kind(Protocol[M]):
    """A kind of model. `split_invariant`: whether a sequence may be cut anywhere without changing a bit. `first_input`:
    the fields of a first input in `POST /sessions`; `inputs`: those that hold an input, of which a body has one. The
    others are its options. `calls`: the paths of its predictions, each with the fields that only a body of this path
    has."""

    @property
    def name(self) -> str: ...
    @property
    def manifest(self) -> type[M]: ...
    @property
    def split_invariant(self) -> bool: ...
    @property
    def first_input(self) -> type[BaseModel]: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def calls(self) -> Mapping[str, tuple[str, ...]]: ...

    def default_model(self, settings: Settings) -> str:
        """The name of the model for requests that name none."""

    def state_spec(self, manifest: M, graphs: Graphs) -> StateSpec:
        """The tensors and bounds of a sequence's state."""

    def open(self, folder: Path, manifest: M, graphs: Graphs, threads: int) -> OpenGraphs:
        """Open the graphs.

        Raises:
            GraphMismatchError: a file is not the graph that the manifest describes, or lacks what the kind needs.
        """

    def smoke_test(self, manifest: M, graphs: Graphs, opened: OpenGraphs) -> None:
        """Run a few real steps.

        Raises:
            GraphMismatchError: the outputs are wrong.
            ModelFailedError: a step fails.
        """

    def prepare_first_input(self, body: Any, model: "Model[M]", settings: Settings) -> FirstInput:
        """Prepare the first input of a session. `body` has the fields of `first_input`.

        Raises:
            CarryError: the input is invalid.
        """

    def accuracy(self, manifest: M, state: SequenceState) -> SessionAccuracy | None:
        """How well the forecasts of a sequence met the values that came next; None if none has met one, and for kinds
        that do not forecast."""

    def listed(self, models: "Sequence[Model[M]]", settings: Settings) -> list[ModelCard]:
        """The kind's entries in the `data` of `GET /models`, which clients of OpenAI's API read."""

    def routers(self) -> "Sequence[APIRouter]":
        """The kind's routes. This imports them: not every user of a kind serves HTTP."""


@dataclass(frozen=True)
class Model(Generic[M]):
    """A loaded model."""

    kind: Kind[M]
    manifest: M
    precision: Precision
    engine: Engine
    pictures: tuple[Picture, ...] = ()

    @cached_property
    def codec(self) -> StateCodec:
        """Encodes and decodes the states of its sequences."""
        return codec_of(self.kind, self.manifest, self.graphs)

    @cached_property
    def graphs(self) -> Graphs:
        """The graphs in use."""
        return self.manifest.graphs(self.precision)

    @cached_property
    def label(self) -> str:
        """name@version."""
        return self.manifest.label


def codec_of(kind: Kind[M], manifest: M, graphs: Graphs) -> StateCodec:
    """Encodes and decodes the states that these graphs make."""
    spec = kind.state_spec(manifest, graphs)
    return StateCodec(manifest.name, manifest.version, graphs.graph.sha256, spec.tensors, spec.integers, spec.added)

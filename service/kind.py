"""What a kind of model is, to all that serve every kind alike: the registry, the engine, the sessions, HTTP.

A kind is one object in a folder of its own (`service/forecast`, `service/text`), listed in `service/kinds.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol

from pydantic import BaseModel

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
    """What a sequence's state holds: its tensors, and the least and the largest that its integers can be."""

    tensors: tuple[State, ...]
    integers: tuple[int, int]


@dataclass(frozen=True)
class OpenGraphs:
    """A model's open graphs: the one that reads, and the one that decodes if the kind has one."""

    runner: Runner
    decoding: DecodeGraph | None = None


@dataclass(frozen=True)
class FirstInput:
    """The first input of a new session, prepared: a task that reads it, its steps, and the bytes that it may hold on
    behalf of the field at `path`."""

    task: Task[SequenceState]
    steps: int
    bytes: int
    path: str


class Kind(Protocol[M]):
    """A kind of model. `split_invariant`: whether a sequence may be cut anywhere without changing a bit. `first_input`:
    the fields of `POST /sessions` that bring a first input; the first of them says whether there is one."""

    @property
    def name(self) -> str: ...
    @property
    def manifest(self) -> type[M]: ...
    @property
    def split_invariant(self) -> bool: ...
    @property
    def first_input(self) -> type[BaseModel]: ...

    def default_model(self, settings: Settings) -> str:
        """The name of the model that answers where a request names none."""

    def state_spec(self, manifest: M, graphs: Graphs) -> StateSpec:
        """What the state of a sequence holds."""

    def open(self, folder: Path, manifest: M, graphs: Graphs, threads: int) -> OpenGraphs:
        """Open the graphs.

        Raises:
            GraphMismatchError: a file is not the graph that the manifest describes, or lacks what the kind needs.
        """

    def smoke_test(self, manifest: M, graphs: Graphs, opened: OpenGraphs) -> None:
        """Run a few real steps.

        Raises:
            GraphMismatchError: they give what they should not.
            ModelFailedError: they fail.
        """

    async def prepare_first_input(self, body: Any, model: "Model[M]", settings: Settings) -> FirstInput:
        """Prepare the first input of a session. `body` has the fields of `first_input`.

        Raises:
            CarryError: it cannot be read.
        """

    def listed(self, models: "Sequence[Model[M]]", settings: Settings) -> list[BaseModel]:
        """The kind's entries in the `data` of `GET /models`, where clients of OpenAI's API look for models."""

    def routers(self) -> "Sequence[APIRouter]":
        """The kind's routes; they are imported when they are asked for, since not all who use a kind serve HTTP."""


@dataclass(frozen=True)
class Model(Generic[M]):
    """A model that answers."""

    kind: Kind[M]
    manifest: M
    precision: Precision
    engine: Engine

    @cached_property
    def codec(self) -> StateCodec:
        """Writes and reads the states of its sequences."""
        return codec_of(self.kind, self.manifest, self.graphs)

    @cached_property
    def graphs(self) -> Graphs:
        """Those that are served."""
        return self.manifest.graphs(self.precision)

    @property
    def label(self) -> str:
        """name@version."""
        return self.manifest.label


def codec_of(kind: Kind[M], manifest: M, graphs: Graphs) -> StateCodec:
    """Writes and reads the states of a model's sequences, as these graphs make them."""
    spec = kind.state_spec(manifest, graphs)
    return StateCodec(manifest.name, manifest.version, graphs.graph.sha256, spec.tensors, spec.integers)

"""What a request asks of the engine: a task, which yields reads and decodes and is sent their results."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, States

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Read:
    """Read inputs (R, T, ...) into R sequences that stand at `states` (None: fresh ones). The result is a `Result`."""

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    states: States | None = None


@dataclass(frozen=True)
class Result:
    """The outputs asked for, by name (of every step, or after the last), and the states after it."""

    outputs: Mapping[str, Array]
    states: States


@dataclass(frozen=True)
class Decode:
    """Let rows choose their next inputs themselves, from the last output (R, ...) on, until all have ended.

    There is no result: what was chosen stands in the rows.
    """

    rows: Sequence[Any]
    output: Array
    states: States


Task = Generator[Read | Decode, Any, Answer]
"""Runs on the engine's thread between two steps of the graph, so it must only do what cannot be done elsewhere."""


@dataclass(frozen=True)
class Choice:
    """What a decoder chose: the next inputs, each (B, 1, ...), and which rows go on."""

    inputs: Mapping[str, Array]
    going: NDArray[np.bool_]


class Decoder(Protocol):
    """Chooses the next inputs of a batch of rows from what the graph gave, all rows at once."""

    output: str
    """The output it chooses from."""

    def join(self, rows: Sequence[Any]) -> None:
        """Add rows at the end of the batch."""

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drop the other rows."""

    def choose(self, output: Array) -> Choice:
        """Choose for every row of the batch; rows that end note why."""


def repeat(states: Mapping[str, Array], rows: int) -> States:
    """One sequence's state (1, ...) as `rows` equal ones (rows, ...)."""
    return {name: np.repeat(array, rows, axis=0) for name, array in states.items()}


@dataclass
class Batch:
    """Rows that decode together, in contiguous tensors."""

    output: Array | None = None
    states: States = field(default_factory=dict)

    def join(self, output: Array, states: States) -> None:
        """Add rows at the end."""
        if self.output is None or not len(self.output):
            self.output, self.states = output, states
        else:
            self.output = np.concatenate([self.output, output])
            self.states = {name: np.concatenate([array, states[name]]) for name, array in self.states.items()}

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drop the other rows."""
        assert self.output is not None
        self.output = self.output[kept]
        self.states = {name: array[kept] for name, array in self.states.items()}

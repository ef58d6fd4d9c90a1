"""What a request asks of the engine: a task, which yields reads and decodes and is sent their results."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, States

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Prefill:
    """Read inputs (R, T, ...) into R sequences that stand at `states`; states that are not given are fresh ones.
    `timeless`: inputs (R, ...) that have no axis T, the same however the others are cut. The result is a `Result`."""

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    states: Mapping[str, Array] = field(default_factory=dict)
    static_inputs: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class PrefillResult:
    """The outputs asked for, by name (of every step, or after the last), and the states after it."""

    outputs: Mapping[str, Array]
    states: Mapping[str, Array]


@dataclass(frozen=True)
class SequenceState:
    """Where one sequence stands: how many values or characters it has read, and all that goes on from there, (1, ...)
    by name; nothing for a sequence that has read nothing. `text_end`: the end of a text that was read, as far as what
    follows could change how it is read."""

    position: int
    states: Mapping[str, Array]
    text_end: str = ""


EMPTY_STATE = SequenceState(0, {})


@dataclass(frozen=True)
class Decode:
    """Let rows go on by themselves from `states` (R, ...), choosing their own input, until all have ended. States that
    are not given are fresh ones.

    There is no result: what was chosen stands in the rows.
    """

    rows: Sequence[Any]
    states: States


Task = Generator[Prefill | Decode, Any, Answer]
"""Runs on the engine's thread between two steps of the graph, so it must only do what cannot be done elsewhere."""


class Decoder(Protocol):
    """What the graph that decodes is fed with, and what its outputs mean for the rows of a batch."""

    @property
    def outputs(self) -> Sequence[str]:
        """The outputs that it is told of each call."""

    def inputs(self, rows: Sequence[Any]) -> Mapping[str, Array]:
        """The graph's inputs for the next call, besides the state. Changes nothing in the rows. While the batch stays
        the same, `rows` is the same list."""

    def take(
        self, rows: Sequence[Any], found: Sequence[Array], states: States
    ) -> tuple[int, NDArray[np.bool_], dict[int, Exception]]:
        """Note the outputs, and where they stand now, in the rows: how many steps it were, which rows go on, and what
        went wrong with some of them."""


def repeat(states: Mapping[str, Array], rows: int) -> States:
    """One sequence's state (1, ...) as `rows` equal ones (rows, ...)."""
    return {name: np.repeat(array, rows, axis=0) for name, array in states.items()}

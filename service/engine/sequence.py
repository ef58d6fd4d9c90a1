"""What a request asks of the engine: a task, a generator that yields prefills and decodes and is sent their results."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, States

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Prefill:
    """Run R sequences over `inputs` (R, T, ...) from `states` (R, ...); missing states are initial ones.
    `static_inputs` (R, ...) have no axis T: each call takes them whole. `whole`: the graph also reads from the end of
    the inputs, so that one call must take them all. The result is a `PrefillResult`."""

    inputs: Mapping[str, Array]
    output_names: tuple[str, ...]
    states: Mapping[str, Array] = field(default_factory=dict)
    static_inputs: Mapping[str, Array] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True)
class PrefillResult:
    """The outputs by name, of every step or of the last, and the states after the last."""

    outputs: Mapping[str, Array]
    states: Mapping[str, Array]


@dataclass(frozen=True)
class SequenceState:
    """The state of one sequence: how many values or tokens it has read, and its tensors (1, ...) by name, none for an
    empty sequence. `text_end`: the end of the text that it has read, as far as later text could change its tokens."""

    position: int
    states: Mapping[str, Array]
    text_end: str = ""


EMPTY_STATE = SequenceState(0, {})


@dataclass(frozen=True)
class Decode:
    """Let R rows generate from `states` (R, ...) until all have ended; missing states are initial ones. There is no
    result: the decoder writes into the rows."""

    rows: Sequence[Any]
    states: States


Task = Generator[Prefill | Decode, Any, Answer]
"""Runs on the engine's thread, between two steps of the graph: it must be quick."""


class Decoder(Protocol):
    """Makes the decode graph's inputs from a batch's rows, and writes its outputs into them."""

    @property
    def output_names(self) -> Sequence[str]:
        """The outputs that `advance` takes."""

    def inputs(self, rows: Sequence[Any]) -> Mapping[str, Array]:
        """The graph's inputs for the next call, without the states. Changes no row. `rows` is the same list while the
        batch is the same."""

    def advance(
        self, rows: Sequence[Any], outputs: Sequence[Array], states: States
    ) -> tuple[int, NDArray[np.bool_], dict[int, Exception]]:
        """Write the outputs and the states after them into the rows. Returns the number of steps, which rows continue,
        and the errors by row."""


def repeat_states(states: Mapping[str, Array], rows: int) -> States:
    """One sequence's states (1, ...) as `rows` equal ones (rows, ...)."""
    return {name: np.repeat(array, rows, axis=0) for name, array in states.items()}

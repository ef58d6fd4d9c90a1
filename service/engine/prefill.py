"""What is to be read, and what of it is in the next call of the graph."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from service.engine.request import Request, whole
from service.engine.runner import Array, Runner, States
from service.engine.sequence import Prefill, PrefillResult
from service.engine.fair_queue import FairQueue
from service.manifest import PER_STEP_OUTPUTS

CHUNK = 512
"""Most steps of input read in one call of the graph: more gains nothing, and would keep the others waiting."""
LEAST_CHUNK = 8
EVERY_STEP_CHUNK = 64
"""Most steps in one call whose outputs are those of every step, where these cost more than the steps themselves."""
MAX_PREFILL_ROWS = 16
"""Rows read in one call: more of them fall out of the processor's cache."""
PREFILL_SECONDS = 0.02
"""How long one call may read while nobody decodes; while somebody does, as long as a decoding step takes."""
LOOKED_AT = 256
"""Of those that wait, so many are looked at for one call."""


class Reading:
    """A read under way."""

    def __init__(self, request: Request, read: Prefill) -> None:
        self.request = request
        self.inputs = read.inputs
        self.outputs = read.outputs
        self.static_inputs = read.static_inputs
        self.states: Mapping[str, Array] = read.states
        """Those that are not fresh."""
        self.rows: int
        self.length: int
        self.rows, self.length = next(iter(read.inputs.values())).shape[:2]
        self.at = 0
        self.last: dict[str, Array] = {}
        self.pieces: dict[str, list[Array]] = {name: [] for name in read.outputs if name in PER_STEP_OUTPUTS}

    @property
    def ahead(self) -> int:
        """Steps that are yet to be read."""
        return self.length - self.at

    def advance(self, length: int, found: Mapping[str, Array], states: States) -> None:
        """Note what so many more steps gave."""
        for name, array in found.items():
            if name in self.pieces:
                self.pieces[name].append(array[:, :length])
            else:
                self.last[name] = array
        self.states = states
        self.at += length

    def result(self) -> PrefillResult:
        """What was read, at its end."""
        pieces = {
            name: found[0] if len(found) == 1 else np.concatenate(found, axis=1) for name, found in self.pieces.items()
        }
        return PrefillResult(self.last | pieces, self.states)


class ReadQueue:
    """Those who wait to be read, in turn by group, and how long it takes.

    `any_split`: the graph gives the same bits however its input is cut; otherwise input is cut every `chunk` steps from
    its own start, whoever else is there.
    """

    def __init__(self, runner: Runner, split_invariant: bool, chunk: int) -> None:
        self._runner = runner
        self._any_split = split_invariant
        self._chunk = chunk
        self._waiting: FairQueue[Reading] = FairQueue()
        self._trials: deque[Reading] = deque()
        """Those that were in a call that failed: each is tried alone, to find whose fault it is."""
        self._pace: dict[int, float] = {}
        """Seconds a step of reading takes, by the logarithm of the rows."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._trials)

    def add(self, reading: Reading) -> None:
        """Let it be read when it is its turn."""
        self._waiting.add(reading.request.group, reading)

    def next(self, seconds: float) -> tuple[list[Reading], int]:
        """Those to read next, and how many steps, which should take about so many seconds. The first of them is the
        first of the group whose turn it is; the others want the same outputs and as many steps, to a factor of two, so
        that little is padded. They stay in the queue until they are `done`."""
        if self._trials:
            first = self._trials[0]
            return [first], min(self._most_steps(first, first.rows, seconds), first.ahead)
        head = [*islice(self._waiting, MAX_PREFILL_ROWS)]
        first = head[0]
        rows = max(first.rows, min(MAX_PREFILL_ROWS, sum(reading.rows for reading in head)))
        steps = min(self._most_steps(first, rows, seconds), first.ahead)
        group: list[Reading] = []
        taken = 0
        for reading in islice(self._waiting, LOOKED_AT):
            ahead = reading.ahead if self._any_split else min(reading.ahead, self._chunk_of(reading))
            fits = taken + reading.rows <= rows and reading.outputs == first.outputs
            if fits and 2 * ahead >= steps and (self._any_split or ahead <= steps):
                group.append(reading)
                taken += reading.rows
                if taken == rows:
                    break
        return group, steps

    def read(self, group: Sequence[Reading], lengths: Sequence[int], steps: int) -> tuple[list[Array], States]:
        """One call of the graph for all of the group: the outputs and the states after it. Changes nothing."""
        inputs = {name: _padded(group, name, lengths, steps) for name in group[0].inputs}
        inputs |= {name: np.concatenate([r.static_inputs[name] for r in group]) for name in group[0].static_inputs}
        rows = [reading.rows for reading in group]
        return self._runner.read(inputs, np.repeat(lengths, rows), self._gathered(group, sum(rows)), group[0].outputs)

    def took(self, rows: int, pace: float) -> None:
        """Note how many seconds a step of so many rows took."""
        size = rows.bit_length()
        self._pace[size] = 0.7 * self._pace.get(size, pace) + 0.3 * pace

    def done(self, group: Sequence[Reading]) -> None:
        """Their call is over: those that are not at their end go to the end of their group's queue."""
        for reading in group:
            own = reading.request.group
            if self._trials and reading is self._trials[0]:
                self._trials.popleft()
            else:
                self._waiting.remove(own, reading)
            if reading.ahead:
                self._waiting.add(own, reading)
        self._waiting.end_turn(group[0].request.group)

    def try_alone(self, group: Sequence[Reading]) -> None:
        """Let each be tried by itself, before anything else is read.

        Raises:
            TornError: as it says.
        """
        with whole([reading.request for reading in group]):
            for reading in group:
                self._waiting.remove(reading.request.group, reading)
            self._trials.extend(group)

    def drop_gone(self) -> None:
        """Drop the reads of requests that have ended."""
        self._waiting.keep(lambda reading: not reading.request.gone)
        self._trials = deque(reading for reading in self._trials if not reading.request.gone)

    def _gathered(self, group: Sequence[Reading], rows: int) -> States:
        """The states of the group in contiguous tensors."""
        states, first = self._runner.fresh(rows), 0
        for reading in group:
            for name, array in reading.states.items():
                states[name][first : first + reading.rows] = array
            first += reading.rows
        return states

    def _chunk_of(self, reading: Reading) -> int:
        return min(self._chunk, EVERY_STEP_CHUNK) if reading.pieces else self._chunk

    def _most_steps(self, reading: Reading, rows: int, seconds: float) -> int:
        if not self._any_split:
            return self._chunk_of(reading)
        return min(self._chunk, max(LEAST_CHUNK, int(seconds / self._expected_pace(rows))))

    def _expected_pace(self, rows: int) -> float:
        """Seconds a step of so many rows takes: as last time, else at most in proportion to a smaller batch."""
        size = rows.bit_length()
        smaller = [known for known in self._pace if known <= size]
        if smaller:
            return self._pace[max(smaller)] * float(2 ** (size - max(smaller)))
        return max(self._pace.values(), default=PREFILL_SECONDS / LEAST_CHUNK)


def _padded(group: Sequence[Reading], name: str, lengths: Sequence[int], steps: int) -> Array:
    """The next piece of one input of all of the group: (B, steps, ...), zero past each one's end."""
    pieces = [r.inputs[name][:, r.at : r.at + length] for r, length in zip(group, lengths, strict=True)]
    if len(pieces) == 1 and lengths[0] == steps:
        return pieces[0]
    padded = np.zeros((sum(map(len, pieces)), steps, *pieces[0].shape[2:]), dtype=pieces[0].dtype)
    first = 0
    for piece in pieces:
        padded[first : first + len(piece), : piece.shape[1]] = piece
        first += len(piece)
    return padded

"""The prefills that wait or are under way, and which of them the next call of the graph runs, and how far."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from service.engine.fair_queue import OwnerQueues
from service.engine.request import Request, atomic
from service.engine.runner import Array, Runner, States
from service.engine.sequence import Prefill, PrefillResult
from service.manifest import PER_STEP_OUTPUTS

CHUNK = 512
"""Most steps of one call: more gains nothing, and delays the other requests."""
MIN_CHUNK = 8
PER_STEP_CHUNK = 64
"""Most steps of one call that returns outputs of every step, where these cost more than the steps themselves."""
MAX_PREFILL_ROWS = 16
"""Rows of one call: more of them do not fit in the processor's cache."""
PREFILL_SECONDS = 0.02
"""How long one call may take while no rows decode; while some do, it may take as long as a decode call."""
MAX_CANDIDATES = 256
"""How many waiting prefills are considered for one call."""
SHARED_STEPS = 800
"""Rows times steps of one call, if it has several rows, while several owners use the engine: so another owner's request
waits for a quarter of a usual call. Smaller batches take up to a third longer for each row."""
SHARED_SECONDS = PREFILL_SECONDS / 4
"""How long one call may take while several owners use the engine."""


class PrefillState:
    """A prefill under way: R sequences of `length` steps, of which `position` are done."""

    def __init__(self, request: Request, prefill: Prefill) -> None:
        self.request = request
        self.inputs = prefill.inputs
        self.output_names = prefill.output_names
        self.static_inputs = prefill.static_inputs
        self.whole = prefill.whole
        self.states: Mapping[str, Array] = prefill.states
        self.rows: int
        self.length: int
        self.rows, self.length = next(iter(prefill.inputs.values())).shape[:2]
        self.position = 0
        self._last_outputs: dict[str, Array] = {}
        self._chunks: dict[str, list[Array]] = {name: [] for name in prefill.output_names if name in PER_STEP_OUTPUTS}
        """The outputs of every step, by name, one array for each call."""
        self.per_step = bool(self._chunks)
        """Whether it returns outputs of every step."""

    @property
    def remaining(self) -> int:
        """Steps to do."""
        return self.length - self.position

    def advance(self, steps: int, outputs: Mapping[str, Array], states: States) -> None:
        """Take the outputs and states of a call that did so many steps of it."""
        for name, array in outputs.items():
            if name in self._chunks:
                self._chunks[name].append(array[:, :steps])
            else:
                self._last_outputs[name] = array
        self.states = states
        self.position += steps

    def result(self) -> PrefillResult:
        """Its result, when no steps remain."""
        per_step_outputs = {
            name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
            for name, arrays in self._chunks.items()
        }
        return PrefillResult(self._last_outputs | per_step_outputs, self.states)


class PrefillQueue:
    """The prefills by group, and how long their steps take.

    `split_invariant`: the graph gives the same bits however its input is cut. Otherwise each input is cut every `chunk`
    steps from its own start, whatever else runs.
    """

    def __init__(self, runner: Runner, split_invariant: bool, chunk: int) -> None:
        self._runner = runner
        self._split_invariant = split_invariant
        self._chunk = chunk
        self._waiting: OwnerQueues[PrefillState] = OwnerQueues()
        self._isolated: deque[PrefillState] = deque()
        """Those of a failed call: each runs alone, to find which of them is at fault."""
        self._seconds_per_step: dict[int, float] = {}
        """By the logarithm of the rows."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._isolated)

    def add(self, prefill: PrefillState) -> None:
        """Queue a prefill."""
        self._waiting.append(prefill.request.owner, prefill.request.group, prefill)

    def next_batch(self, seconds: float, shared: bool = False) -> tuple[list[PrefillState], int]:
        """The prefills of the next call, and its steps, which should take about so many seconds. They stay in the queue
        until `complete`. `shared`: several owners use the engine.

        The first is the first of the next group of the next owner; the others return the same outputs and take as many
        steps, to a factor of two, so that there is little padding. Those of other owners must be due, and get no more
        steps than the first owner: the call should not take much longer because of them.
        """
        if self._isolated:
            first = self._isolated[0]
            return [first], min(self._max_steps(first, first.rows, seconds), first.remaining)
        head = [*islice(self._waiting, MAX_PREFILL_ROWS)]
        first = head[0]
        if shared:
            seconds = min(seconds, SHARED_SECONDS)
        max_rows = max(first.rows, min(MAX_PREFILL_ROWS, _fair_rows(head)))
        steps = min(self._max_steps(first, max_rows, seconds), first.remaining)
        if shared:
            max_rows = max(first.rows, min(max_rows, SHARED_STEPS // steps))
        batch: list[PrefillState] = []
        rows = 0
        owner_steps: Counter[str] = Counter()
        for prefill in islice(self._waiting, MAX_CANDIDATES):
            remaining, divisible = prefill.remaining, self._split_invariant and not prefill.whole
            if not (self._split_invariant or prefill.whole):
                remaining = min(remaining, self._chunk_of(prefill))
            fits = rows + prefill.rows <= max_rows and prefill.output_names == first.output_names
            owner = prefill.request.owner
            owner_after = owner_steps[owner] + min(steps, prefill.remaining) * prefill.rows
            if owner != first.request.owner:
                fits &= owner_after <= owner_steps[first.request.owner]
                fits &= self._waiting.is_due(owner, first.request.owner, steps)
            if fits and 2 * remaining >= steps and (divisible or remaining <= steps):
                batch.append(prefill)
                rows += prefill.rows
                owner_steps[owner] = owner_after
                if rows == max_rows:
                    break
        return batch, steps

    def run(self, batch: Sequence[PrefillState], lengths: Sequence[int], steps: int) -> tuple[list[Array], States]:
        """Call the graph for a batch: the outputs and the states after it. Changes nothing."""
        first = batch[0]
        inputs = {name: _pad(batch, name, lengths, steps) for name in first.inputs}
        inputs |= {name: np.concatenate([p.static_inputs[name] for p in batch]) for name in first.static_inputs}
        rows = [prefill.rows for prefill in batch]
        states = self._stack_states(batch, sum(rows))
        return self._runner.prefill(inputs, np.repeat(lengths, rows), states, first.output_names)

    def record(self, rows: int, seconds_per_step: float) -> None:
        """Record how long a step of so many rows took."""
        size = rows.bit_length()
        before = self._seconds_per_step.get(size, seconds_per_step)
        self._seconds_per_step[size] = 0.7 * before + 0.3 * seconds_per_step

    def complete(self, batch: Sequence[PrefillState], lengths: Sequence[int]) -> None:
        """Remove a batch of which `lengths` steps were run; prefills with steps that remain go to the end of their
        group's queue."""
        steps: Counter[str] = Counter()
        for prefill, length in zip(batch, lengths, strict=True):
            steps[prefill.request.owner] += length * prefill.rows
        self._waiting.charge(steps)
        for prefill in batch:
            owner, group = prefill.request.owner, prefill.request.group
            if self._isolated and prefill is self._isolated[0]:
                self._isolated.popleft()
            else:
                self._waiting.remove(owner, group, prefill)
            if prefill.remaining:
                self._waiting.append(owner, group, prefill)
        first_groups = {prefill.request.owner: prefill.request.group for prefill in reversed(batch)}
        for owner, group in first_groups.items():
            self._waiting.rotate(owner, group)

    def isolate(self, batch: Sequence[PrefillState]) -> None:
        """Run each prefill of a failed batch alone, before any other.

        Raises:
            PartialUpdateError: the update broke off.
        """
        with atomic([prefill.request for prefill in batch]):
            for prefill in batch:
                self._waiting.remove(prefill.request.owner, prefill.request.group, prefill)
            self._isolated.extend(batch)

    def drop_finished(self) -> None:
        """Drop the prefills of finished requests."""
        self._waiting.filter(lambda prefill: not prefill.request.finished)
        self._isolated = deque(prefill for prefill in self._isolated if not prefill.request.finished)

    def _stack_states(self, batch: Sequence[PrefillState], rows: int) -> States:
        """The states of a batch in contiguous tensors."""
        states, start = self._runner.initial_states(rows), 0
        for prefill in batch:
            for name, array in prefill.states.items():
                states[name][start : start + prefill.rows] = array
            start += prefill.rows
        return states

    def _chunk_of(self, prefill: PrefillState) -> int:
        return min(self._chunk, PER_STEP_CHUNK) if prefill.per_step else self._chunk

    def _max_steps(self, prefill: PrefillState, rows: int, seconds: float) -> int:
        if prefill.whole:
            return prefill.length
        if not self._split_invariant:
            return self._chunk_of(prefill)
        return min(self._chunk, max(MIN_CHUNK, int(seconds / self._expected_seconds_per_step(rows))))

    def _expected_seconds_per_step(self, rows: int) -> float:
        """As last time with so many rows; else, at most, in proportion to a smaller batch."""
        size = rows.bit_length()
        smaller = max((known for known in self._seconds_per_step if known <= size), default=None)
        if smaller is not None:
            return self._seconds_per_step[smaller] * float(2 ** (size - smaller))
        return max(self._seconds_per_step.values(), default=PREFILL_SECONDS / MIN_CHUNK)


def _fair_rows(head: Sequence[PrefillState]) -> int:
    """The rows of these prefills, if no owner has more of them than the first one's owner."""
    rows: Counter[str] = Counter()
    for prefill in head:
        rows[prefill.request.owner] += prefill.rows
    return sum(min(count, rows[head[0].request.owner]) for count in rows.values())


def _pad(batch: Sequence[PrefillState], name: str, lengths: Sequence[int], steps: int) -> Array:
    """The next chunk of one input of a batch: (B, steps, ...), zero past each prefill's length."""
    chunks = [p.inputs[name][:, p.position : p.position + length] for p, length in zip(batch, lengths, strict=True)]
    if len(chunks) == 1 and lengths[0] == steps:
        return chunks[0]
    padded = np.zeros((sum(map(len, chunks)), steps, *chunks[0].shape[2:]), dtype=chunks[0].dtype)
    start = 0
    for chunk in chunks:
        padded[start : start + len(chunk), : chunk.shape[1]] = chunk
        start += len(chunk)
    return padded

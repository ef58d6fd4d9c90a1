"""The decode batch: which rows the next call of the decode graph runs, and the states of the rows that wait.

A call takes a bounded number of rows. If more rows want to decode, each owner has an equal share, of which each of its
groups of requests has an equal share, and others use what one does not. A row that makes room keeps its state, which is
small, and continues later, with the same bits.
"""

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.fair_queue import FairQueue, OwnerQueues
from service.engine.request import Request, atomic
from service.engine.runner import Array, Runner, States
from service.engine.sequence import Decode, Decoder

MAX_ROWS = 128
"""Rows of one call: more of them cost as much each, and delay the rows that join."""
SHARED_ROWS = 8
"""Rows of one call while several owners use the engine, or one for each owner: more of them gain a fifth, and delay the
other owners' rows."""
SLICE_STEPS = 64
"""If there are more groups than rows, a row makes room for a waiting group after so many steps."""


@dataclass(frozen=True)
class DecodeGraph:
    """The graph that takes several steps in one call, and the decoder that makes its inputs and takes its outputs."""

    runner: Runner
    decoder: Decoder


@dataclass(slots=True, eq=False)
class _Row:
    """A decoding row. `states` (1, ...): while it waits; missing ones are initial ones. `steps`: since it joined."""

    request: Request
    decoder_row: Any
    states: Mapping[str, Array]
    steps: int = 0


@dataclass
class Outcome:
    """What a call did: for each row its request and steps; for each row that ended or failed its request."""

    steps: list[tuple[Request, int]] = field(default_factory=list)
    ended: list[Request] = field(default_factory=list)
    failed: list[tuple[Request, Exception]] = field(default_factory=list)


class DecodeBatch:
    """The rows that wait and those that run. Each update is computed first and then applied at once, so that a failure
    leaves nothing half done."""

    def __init__(self, decode_graph: DecodeGraph) -> None:
        self._runner, self._decoder = decode_graph.runner, decode_graph.decoder
        self._waiting: OwnerQueues[_Row] = OwnerQueues()
        self._isolated: deque[list[_Row]] = deque()
        """The rows of a failed call, by request: each request runs alone, to find which of them is at fault."""
        self._running: list[_Row] = []
        self._decoder_rows: list[Any] = []
        """The decoder's rows of those running."""
        self._states: States = {}
        """The states of those running, in contiguous tensors."""
        self._joining: list[_Row] = []
        """Set while rows join, and after that if they could not."""

    def __bool__(self) -> bool:
        return bool(self._running or self._waiting or self._isolated)

    @property
    def requests(self) -> list[Request]:
        """The requests of the running rows; after a failed `run`, those of which one is at fault."""
        return _requests_of(self._joining or self._running)

    def add(self, request: Request, decode: Decode) -> None:
        """Queue a request's rows."""
        rows = [
            _Row(request, row, {name: array[i : i + 1] for name, array in decode.states.items()})
            for i, row in enumerate(decode.rows)
        ]
        for row in rows:
            self._waiting.append(request.owner, request.group, row)

    def run(self, shared: bool = False) -> tuple[Sequence[Array], States]:
        """Let waiting rows join, and call the graph: its outputs and the states after it. Until `advance` takes these,
        the call can be repeated. `shared`: several owners use the engine.

        Raises:
            PartialUpdateError: the update of the rows broke off.
            Exception: one of the `requests` is at fault, or the model failed.
        """
        if self._isolated:
            self._run_next_isolated()
        elif self._waiting:
            self._join(shared)
        return self._runner.run(self._decoder.inputs(self._decoder_rows), self._states, self._decoder.output_names)

    def advance(self, outputs: Sequence[Array], states: States) -> Outcome:
        """Give the running rows the outputs and states of a call, and drop those that ended."""
        steps, continues, errors = self._decoder.advance(self._decoder_rows, outputs, states)
        outcome = Outcome([(row.request, steps) for row in self._running])
        for row in self._running:
            row.steps += steps
        outcome.failed = [(self._running[i].request, error) for i, error in errors.items()]
        if continues.all():
            self._states = states
        else:
            outcome.ended = [row.request for row, stays in zip(self._running, continues, strict=True) if not stays]
            staying = [row for row, stays in zip(self._running, continues, strict=True) if stays]
            self._set_running(staying, _select(states, continues))
        return outcome

    def drop_finished(self) -> None:
        """Drop the rows of finished requests."""
        self._waiting.filter(lambda row: not row.request.finished)
        self._isolated = deque(rows for rows in self._isolated if not rows[0].request.finished)
        self._joining = []
        stays = np.array([not row.request.finished for row in self._running], dtype=bool)
        if not stays.all():
            staying = [row for row in self._running if not row.request.finished]
            self._set_running(staying, _select(self._states, stays))

    def clear(self) -> None:
        """Drop the running rows."""
        self._set_running([], {})

    def isolate(self) -> None:
        """Run each of the `requests` of a failed call alone, before any other.

        Raises:
            PartialUpdateError: the update broke off.
        """
        joining, rows = bool(self._joining), self._joining or self._running
        states = [row.states for row in rows] if joining else self._copy_states(range(len(rows)))
        rows_by_request: dict[Request, list[_Row]] = {}
        for row in rows:
            rows_by_request.setdefault(row.request, []).append(row)
        with atomic(_requests_of(rows)):
            for row, row_states in zip(rows, states, strict=True):
                row.states = row_states
                if joining:
                    self._waiting.remove(row.request.owner, row.request.group, row)
            if not joining:
                self.clear()
            self._joining = []
            self._isolated.extend(rows_by_request.values())

    def _run_next_isolated(self) -> None:
        """Replace the running rows by those of the next isolated request."""
        self._joining = rows = self._isolated[0]
        states, running_states = self._append_states({}, rows), self._copy_states(range(len(self._running)))
        with atomic(_requests_of([*rows, *self._running])):
            for row, row_states in zip(reversed(self._running), reversed(running_states), strict=True):
                row.states = row_states
                self._waiting.append_left(row.request.owner, row.request.group, row)
            self._isolated.popleft()
            self._complete_join(rows, rows, states)

    def _join(self, shared: bool) -> None:
        """Let waiting rows join, and running ones make room, as `plan_batch` says."""
        running = [(row.request.owner, row.request.group, row.steps) for row in self._running]
        leaving, joining = plan_batch(running, self._waiting, shared)
        if not joining:
            return
        self._joining = rows = [
            row for owner, group, count in joining for row in self._waiting[owner].peek(group, count)
        ]
        stays = np.array([i not in leaving for i in range(len(self._running))], dtype=bool)
        states = self._append_states(_select(self._states, stays) if leaving else self._states, rows)
        leaving_states = self._copy_states(leaving)
        staying = [row for row, row_stays in zip(self._running, stays, strict=True) if row_stays]
        with atomic(_requests_of([*rows, *(self._running[i] for i in leaving)])):
            for owner, group, count in joining:
                self._waiting.drop_first(owner, group, count)
            for i, row_states in zip(leaving, leaving_states, strict=True):
                row = self._running[i]
                row.states = row_states
                self._waiting.append_left(row.request.owner, row.request.group, row)
            self._complete_join(rows, [*staying, *rows], states)

    def _append_states(self, states: States, rows: Sequence[_Row]) -> States:
        """The states, and behind them those of the rows, in contiguous tensors."""
        initial = self._runner.initial_states(1)
        for row in rows:
            if row.states.keys() - initial.keys():
                raise ValueError(f"the graph has no states {sorted(row.states.keys() - initial.keys())}")
        return {
            name: np.concatenate(
                [*([states[name]] if states else []), *(row.states.get(name, array) for row in rows)],
                dtype=array.dtype,
                casting="no",
            )
            for name, array in initial.items()
        }

    def _complete_join(self, rows: Sequence[_Row], running: list[_Row], states: States) -> None:
        self._set_running(running, states)
        self._joining = []
        for row in rows:
            row.states, row.steps = {}, 0

    def _copy_states(self, indices: Sequence[int]) -> list[States]:
        """The states of some running rows: copies, since a view would keep the states of all in memory."""
        return [{name: array[i : i + 1].copy() for name, array in self._states.items()} for i in indices]

    def _set_running(self, running: list[_Row], states: States) -> None:
        decoder_rows = [row.decoder_row for row in running]
        self._running, self._decoder_rows, self._states = running, decoder_rows, states


def plan_batch(
    running: Sequence[tuple[str, Hashable, int]], waiting: OwnerQueues[Any], shared: bool = False
) -> tuple[list[int], list[tuple[str, Hashable, int]]]:
    """Which running rows make room, as indices into `running` (each row's owner and group, and its steps since it
    joined), and how many rows of each owner's waiting groups join.

    The owners share the rows of a call, and the groups of an owner share the owner's rows, both as `share_rows` says.
    `shared`: several owners use the engine.
    """
    indices: dict[str, list[int]] = {owner: [] for owner, _ in waiting.group_sizes()}
    for i, (owner, _, _) in enumerate(running):
        indices.setdefault(owner, []).append(i)
    max_rows = min(MAX_ROWS, max(SHARED_ROWS, len(indices))) if shared or len(indices) > 1 else MAX_ROWS
    leaving, joining = share_rows([(owner, steps) for owner, _, steps in running], waiting, max_rows)
    leaving_counts = Counter(running[i][0] for i in leaving)
    leaving_rows: list[int] = []
    joining_rows: list[tuple[str, Hashable, int]] = []
    for owner, own in indices.items():
        rows = len(own) - leaving_counts[owner] + joining.get(owner, 0)
        queue: FairQueue[Any] = waiting[owner] if owner in waiting else FairQueue()
        if not leaving_counts[owner] and joining.get(owner, 0) == len(queue):
            rows = max_rows  # all of its rows fit
        if rows:
            leaving, joining_groups = share_rows([running[i][1:] for i in own], queue, rows)
            leaving_rows += [own[i] for i in leaving]
            joining_rows += [(owner, group, count) for group, count in joining_groups.items()]
        else:
            leaving_rows += own
    return leaving_rows, joining_rows


class Waiting(Protocol):
    """Waiting rows by group, where a group is whatever has a share."""

    def group_sizes(self) -> Iterator[tuple[Any, int]]:
        """Each group that has rows, and how many; the next group first."""

    def num_groups(self) -> int:
        """The number of groups."""

    def __contains__(self, group: Any) -> bool: ...


def share_rows(
    running: Sequence[tuple[Hashable, int]], waiting: Waiting, max_rows: int
) -> tuple[list[int], dict[Any, int]]:
    """Which running rows make room, as indices into `running` (each row's group, and its steps since it joined), and
    how many rows of each waiting group join, so that at most `max_rows` run.

    Each group has an equal share of the rows, and other groups use what one group does not. If there are more groups
    than rows, each group has one row at most, and makes room after SLICE_STEPS.
    """
    counts = Counter(group for group, _ in running)
    groups = waiting.num_groups() + sum(group not in waiting for group in counts)
    share, free = max(1, max_rows // groups), max_rows - len(running)
    joining: dict[Any, int] = {}
    wanted = 0
    for group, count in waiting.group_sizes():
        due = min(count, share - counts[group], max_rows - wanted)
        if due > 0:
            joining[group] = due
            wanted += due
        if wanted == max_rows:
            break
    leaving: list[int] = []
    for i in reversed(range(len(running))):
        if len(leaving) < wanted - free and counts[running[i][0]] > share:
            counts[running[i][0]] -= 1
            leaving.append(i)
    if groups > max_rows:
        over_share = set(leaving)
        for i, (_, steps) in enumerate(running):
            if len(leaving) < wanted - free and steps >= SLICE_STEPS and i not in over_share:
                leaving.append(i)
    if len(running) - len(leaving) > max_rows:  # an owner's part may become smaller
        staying = sorted({*range(len(running))} - {*leaving}, key=lambda i: running[i][1])
        leaving += staying[max_rows:]
    free += len(leaving)
    for group, count in [*joining.items()]:
        joining[group] = min(count, free)
        free -= joining[group]
    while free:
        more = [(group, count - joining.get(group, 0)) for group, count in waiting.group_sizes()]
        more = [(group, count) for group, count in more if count]
        if not more:
            break
        for group, count in more:
            added = min(count, max(1, free // len(more)), free)
            joining[group] = joining.get(group, 0) + added
            free -= added
    return leaving, {group: count for group, count in joining.items() if count}


def _select(states: States, rows: NDArray[np.bool_]) -> States:
    return {name: array[rows] for name, array in states.items()}


def _requests_of(rows: Sequence[_Row]) -> list[Request]:
    """Each request once."""
    return [*dict.fromkeys(row.request for row in rows)]

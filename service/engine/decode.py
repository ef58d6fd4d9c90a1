"""The rows that decode: which of them are in the next call of the graph, and where the others stand meanwhile.

A call takes a bounded number of rows. Where more want to be in it, each group of requests has an equal share, and what
a group does not use goes to the others. A row that has to make room keeps its state, which is small, and goes on later:
nothing in its answer shows it.
"""

from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.request import Request, whole
from service.engine.runner import Array, Runner, States
from service.engine.sequence import Decode, Decoder
from service.engine.fair_queue import FairQueue

MAX_ROWS = 128
"""Rows in one call: more of them cost as much each, and keep whoever joins waiting."""
SLICE_STEPS = 64
"""Steps after which a row makes room for a group that has none in the call, where there are more groups than rows."""


@dataclass(frozen=True)
class DecodeGraph:
    """The graph that takes several steps at once, and who knows what they mean."""

    runner: Runner
    decoder: Decoder


@dataclass(slots=True, eq=False)
class _Row:
    """`states` (1, ...): where it stands while it is not in the batch; those not given are fresh ones. `ran`: steps
    since it joined."""

    request: Request
    row: Any
    states: Mapping[str, Array]
    ran: int = 0


@dataclass
class Outcome:
    """What a call has done: steps of each row, by its request, the requests of rows that ended, and those of rows that
    failed."""

    steps: list[tuple[Request, int]] = field(default_factory=list)
    ended: list[Request] = field(default_factory=list)
    failed: list[tuple[Request, Exception]] = field(default_factory=list)


class DecodeBatch:
    """Each change is worked out first and then made at once, so that whatever fails, nothing is left half done."""

    def __init__(self, decoding: DecodeGraph) -> None:
        self._runner, self._decoder = decoding.runner, decoding.decoder
        self._waiting: FairQueue[_Row] = FairQueue()
        self._trials: deque[list[_Row]] = deque()
        """Rows of one request each, which were in a call that failed: it is tried alone, to find whose fault it is."""
        self._running: list[_Row] = []
        self._rows: list[Any] = []
        """Theirs, as the decoder knows them."""
        self._states: States = {}
        """Theirs, in contiguous tensors."""
        self._joining: list[_Row] = []
        """Those that are about to join."""

    def __bool__(self) -> bool:
        return bool(self._running or self._waiting or self._trials)

    @property
    def requests(self) -> list[Request]:
        """Those that the next call is about, or the last attempt at it was: if it failed, it was about one of them."""
        return _requests_of(self._joining or self._running)

    def add(self, request: Request, wish: Decode) -> None:
        """Let rows join when it is their turn."""
        rows = [
            _Row(request, row, {name: array[i : i + 1] for name, array in wish.states.items()})
            for i, row in enumerate(wish.rows)
        ]
        for row in rows:
            self._waiting.add(request.group, row)

    def run(self) -> tuple[Sequence[Array], States]:
        """Settle who is in the next call, and make it: its outputs and the states after it. Until `advance` is told of
        these, the call may be made again.

        Raises:
            TornError: as it says.
            Exception: one of the `requests` is wrong, or the model failed.
        """
        if self._trials:
            self._try_next()
        elif self._waiting:
            self._fill()
        return self._runner.run(self._decoder.inputs(self._rows), self._states, self._decoder.outputs)

    def advance(self, found: Sequence[Array], states: States) -> Outcome:
        """Let the rows have what the call gave."""
        steps, going, errors = self._decoder.take(self._rows, found, states)
        outcome = Outcome([(row.request, steps) for row in self._running])
        for row in self._running:
            row.ran += steps
        outcome.failed = [(self._running[i].request, error) for i, error in errors.items()]
        if going.all():
            self._states = states
        else:
            outcome.ended = [row.request for row, goes in zip(self._running, going, strict=True) if not goes]
            staying = [row for row, goes in zip(self._running, going, strict=True) if goes]
            self._set(staying, _some(states, going))
        return outcome

    def drop_gone(self) -> None:
        """Drop the rows of requests that have ended."""
        self._waiting.keep(lambda row: not row.request.gone)
        self._trials = deque(rows for rows in self._trials if not rows[0].request.gone)
        self._joining = []
        stays = np.array([not row.request.gone for row in self._running], dtype=bool)
        if not stays.all():
            self._set([row for row in self._running if not row.request.gone], _some(self._states, stays))

    def clear(self) -> None:
        """Drop the rows in the batch."""
        self._set([], {})

    def try_alone(self) -> None:
        """Let each of the `requests` be tried by itself, before anything else is done.

        Raises:
            TornError: as it says.
        """
        joining, rows = bool(self._joining), self._joining or self._running
        states = [row.states for row in rows] if joining else self._standing(range(len(rows)))
        own: dict[Request, list[_Row]] = {}
        for row in rows:
            own.setdefault(row.request, []).append(row)
        with whole(_requests_of(rows)):
            for row, stands in zip(rows, states, strict=True):
                row.states = stands
                if joining:
                    self._waiting.remove(row.request.group, row)
            if not joining:
                self.clear()
            self._joining = []
            self._trials.extend(own.values())

    def _try_next(self) -> None:
        """Let the batch be the rows of one request that is to be tried."""
        self._joining = rows = self._trials[0]
        states, standing = self._joined({}, rows), self._standing(range(len(self._running)))
        with whole(_requests_of([*rows, *self._running])):
            for row, stands in zip(reversed(self._running), reversed(standing), strict=True):
                row.states = stands
                self._waiting.put_back(row.request.group, row)
            self._trials.popleft()
            self._joined_now(rows, rows, states)

    def _fill(self) -> None:
        """Let those join whose turn it is."""
        leaving, joining = plan([(row.request.group, row.ran) for row in self._running], self._waiting)
        if not joining:
            return
        self._joining = rows = [row for group, n in joining.items() for row in self._waiting.first_of(group, n)]
        going = np.array([i not in leaving for i in range(len(self._running))], dtype=bool)
        states = self._joined(_some(self._states, going) if leaving else self._states, rows)
        standing = self._standing(leaving)
        staying = [row for row, goes in zip(self._running, going, strict=True) if goes]
        with whole(_requests_of([*rows, *(self._running[i] for i in leaving)])):
            for group, count in joining.items():
                self._waiting.drop_first(group, count)
            for i, stands in zip(leaving, standing, strict=True):
                self._running[i].states = stands
                self._waiting.put_back(self._running[i].request.group, self._running[i])
            self._joined_now(rows, [*staying, *rows], states)

    def _joined(self, states: States, rows: Sequence[_Row]) -> States:
        """States in contiguous tensors, and behind them those of some rows."""
        fresh = self._runner.fresh(1)
        for row in rows:
            if row.states.keys() - fresh.keys():
                raise ValueError(f"no states of this graph: {sorted(row.states.keys() - fresh.keys())}")
        return {
            name: np.concatenate(
                [*([states[name]] if states else []), *(row.states.get(name, array) for row in rows)],
                dtype=array.dtype,
                casting="no",
            )
            for name, array in fresh.items()
        }

    def _joined_now(self, rows: Sequence[_Row], running: list[_Row], states: States) -> None:
        self._set(running, states)
        self._joining = []
        for row in rows:
            row.states, row.ran = {}, 0

    def _standing(self, indices: Sequence[int]) -> list[States]:
        """Where some rows in the batch stand; not views, which would hold the states of all."""
        return [{name: array[i : i + 1].copy() for name, array in self._states.items()} for i in indices]

    def _set(self, running: list[_Row], states: States) -> None:
        rows = [row.row for row in running]
        self._running, self._rows, self._states = running, rows, states


def plan(running: Sequence[tuple[Hashable, int]], waiting: FairQueue[Any]) -> tuple[list[int], dict[Hashable, int]]:
    """Who makes room, by place among those `running` (the group and the steps since it joined, of each), and how many
    of each waiting group join.

    Each group has an equal share of the rows, and what one does not use goes to the others. Where there are more groups
    than rows, each has one row at most, and makes room after SLICE_STEPS.
    """
    counts = Counter(group for group, _ in running)
    groups = waiting.count() + sum(group not in waiting for group in counts)
    share, free = max(1, MAX_ROWS // groups), MAX_ROWS - len(running)
    joining: dict[Hashable, int] = {}
    wanted = 0
    for group, count in waiting.groups():
        due = min(count, share - counts[group], MAX_ROWS - wanted)
        if due > 0:
            joining[group] = due
            wanted += due
        if wanted == MAX_ROWS:
            break
    leaving: list[int] = []
    for i in reversed(range(len(running))):
        if len(leaving) < wanted - free and counts[running[i][0]] > share:
            counts[running[i][0]] -= 1
            leaving.append(i)
    if groups > MAX_ROWS:
        stay = set(leaving)
        for i, (_, ran) in enumerate(running):
            if len(leaving) < wanted - free and ran >= SLICE_STEPS and i not in stay:
                leaving.append(i)
    left = free + len(leaving)
    for group, count in [*joining.items()]:
        joining[group] = min(count, left)
        left -= joining[group]
    while left:
        more = [(group, count - joining.get(group, 0)) for group, count in waiting.groups()]
        more = [(group, count) for group, count in more if count]
        if not more:
            break
        for group, count in more:
            added = min(count, max(1, left // len(more)), left)
            joining[group] = joining.get(group, 0) + added
            left -= added
    return leaving, {group: count for group, count in joining.items() if count}


def _some(states: States, kept: NDArray[np.bool_]) -> States:
    return {name: array[kept] for name, array in states.items()}


def _requests_of(rows: Sequence[_Row]) -> list[Request]:
    """Each once."""
    return [*dict.fromkeys(row.request for row in rows)]

"""What was read of a file, what was not, and why: as an object, and as lines for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_ITEMS = 8
"""Columns, or series, of which a line speaks; it counts the others."""


@dataclass(frozen=True)
class Failure:
    """A series that cannot be used, and why."""

    id: str
    reason: str


@dataclass
class Report:
    """Of one file.

    layout: how its series stand in it. rows: of its table. series: that can be used. times: where they are from, and
    how they were read; first and last: of all series. freqs: the number of series at each frequency. ids: the columns
    that name the series. used: the columns of values. ignored: the columns that are not used, and why. missing: what
    stands for a missing value, by column, and how often; an empty cell is "". gaps: by series, the times without a row.
    duplicates: rows left out since they repeat another. future: rows after the last value of the target. failures: the
    series that cannot be used. notes: sentences about all else.
    """

    path: str
    layout: str = ""
    rows: int = 0
    series: int = 0
    times: str = ""
    first: str = ""
    last: str = ""
    freqs: dict[str, int] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    used: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: dict[str, dict[str, int]] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    future: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, *sentences: str) -> None:
        """Add sentences that are not there yet."""
        for sentence in sentences:
            if sentence not in self.notes:
                self.notes.append(sentence)

    def miss(self, column: str, words: Mapping[str, int]) -> None:
        """Count what stands for missing values in a column."""
        counts = self.missing.setdefault(column, {})
        for word, count in words.items():
            counts[word] = counts.get(word, 0) + count
        if not counts:
            del self.missing[column]

    def lines(self) -> list[str]:
        """For a person: one line for the file, then one for each thing to know."""
        span = f", {self.first} to {self.last}" if self.first else ""
        freqs = sorted(self.freqs, key=lambda freq: -self.freqs[freq])
        often = f", {_listed(freqs)}" if freqs else ""
        rows = f"{self.rows} rows, " if self.rows else ""
        lines = [f"{self.path}: {rows}{_count(self.series, 'series', 'series')}{often}{span}"]
        if self.layout:
            lines.append(f"layout: {self.layout}")
        if self.times:
            lines.append(f"times: {self.times}")
        if self.used and len(self.used) > 1:
            lines.append(f"values: {_listed(list(map(_quoted, self.used)))}")
        if self.ignored:
            reasons: dict[str, list[str]] = {}
            for name, why in self.ignored.items():
                reasons.setdefault(why, []).append(_quoted(name))
            lines += [f"not used: {_listed(names)} ({why})" for why, names in reasons.items()]
        for column, words in list(self.missing.items())[:MAX_ITEMS]:
            texts = [f"{count} empty" if not word else f"{count} x {word!r}" for word, count in words.items()]
            lines.append(f"missing in {_quoted(column)}: {_listed(texts)}")
        if len(self.missing) > MAX_ITEMS:
            lines.append(f"missing in {len(self.missing) - MAX_ITEMS} more columns")
        if self.gaps:
            lines.append(f"gaps: {self._gaps()}")
        if self.duplicates:
            lines.append(
                f"{_count(self.duplicates, 'row repeats', 'rows repeat')} another and {_is(self.duplicates)} left out"
            )
        if self.future:
            lines.append(f"{_count(self.future, 'row', 'rows')} after the last value of the target: the future")
        lines += self.notes
        return [lines[0], *(f"  {line}" for line in lines[1:])]

    def _gaps(self) -> str:
        counts = set(self.gaps.values())
        worst = max(self.gaps, key=lambda id: self.gaps[id])
        if len(self.gaps) == self.series == 1:
            of = ""
        elif len(counts) == 1:
            of = f" in each of {len(self.gaps)} series" if len(self.gaps) > 1 else f" in {worst}"
        else:
            of = f" in {len(self.gaps)} series (most in {worst}: {self.gaps[worst]})"
        count = counts.pop() if len(counts) == 1 else sum(self.gaps.values())
        return f"{_count(count, 'time', 'times')} without a row{of}: missing values"

    def failure_lines(self) -> list[str]:
        """The series that cannot be used, a line each; of many, the first few."""
        lines = [f"{failure.id}: {failure.reason}" for failure in self.failures[:MAX_ITEMS]]
        more = len(self.failures) - MAX_ITEMS
        return lines if more <= 0 else [*lines, f"... and {more} more series"]


def _quoted(name: str) -> str:
    return f"`{name}`"


def _listed(items: Sequence[str]) -> str:
    more = len(items) - MAX_ITEMS
    return ", ".join(items) if more <= 0 else f"{', '.join(items[:MAX_ITEMS])} and {more} more"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"

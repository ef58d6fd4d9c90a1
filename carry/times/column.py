"""One column of text or numbers, read one way: chooses among the ways to read it, names the cells that do not fit.
Knows nothing of files."""

import re
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.times.calendars import SECOND, Ints
from carry.times.frequencies import IrregularTimesError, regular_grid
from carry.times.numbers import NAT, number_readings
from carry.times.readings import Bools, Order, Reading, are_numbers, text_readings
from carry.times.text import NO_OFFSET, Parts, cut, is_plain, plain, zone_name
from carry.times.zones import find_zone

MISSING = {"", "nan", "nat", "na", "n/a", "null", "none", "-", "<na>"}
"""Texts of empty cells, in lower case."""
TOTALS = set(
    "total totals sum sums summe gesamt gesamtsumme insgesamt grand subtotal totaal totale totaux somme suma average "  # noqa: SIM905
    "avg mean median mittelwert durchschnitt minimum maximum min max count source quelle note notes".split()
)
"""First words of lines at the end of a table that are no rows of it."""
MIN_SHARE = 0.5
"""Share of a column's texts that are dates, at least, for the column to be meant as times."""
MIN_SHARE_NUMBERS = 0.8
"""The same of numbers, which may be the names of something: of counted steps it is all of them."""
SAMPLE = 1000
"""Cells that tell whether a column holds dates, and times that tell whether it is regular."""
MAX_BAD = 5
"""Cells that are no dates which are named."""


@dataclass(frozen=True)
class BadCell:
    """A cell that is no date like the others of its column. row: from 0, of the column; text: as it stands."""

    row: int
    text: str


@dataclass(frozen=True)
class ParsedDates:
    """A column read as times.

    times (N,): a DatetimeIndex (in the zone that the file names, if it names one; NaT where the cell is empty or is a
        line of totals); of years alone and of counters (1, 2, 3, ...) an Index of numbers (NaN where a cell is empty),
        which come back as they are: the answer's times are 2010, 2011, ...
    form: what was read, for the report: "YYYY-MM-DD", "DD/MM/YYYY", "years and quarters", "Excel's serial numbers", ...
    order: the order of day and month that was taken; None where the form has no such question.
    ambiguous: the other order fits as well; `notes` says which was taken and how to say otherwise.
    freq: the frequency that the form itself tells (2015-Q1: "QS-JAN", 2024-W05: "W-MON", 2010M10: "MS", years: "YS");
        give it to `regular_grid` as `panel_freq`.
    numbers: the cells are mere numbers: so may be the values of a series. Take such a column as times only if its name
        says so (`is_time_name`), or nothing else can be the times.
    totals: rows (from 0) at the end that are lines of totals, not times: leave them out.
    notes: sentences for the report.
    """

    times: "pd.Index[Any]"
    form: str
    order: Order | None = None
    ambiguous: bool = False
    freq: str | None = None
    numbers: bool = False
    totals: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotDates:
    """A column that is not read as times, and why (a clause for a message: "'2024-13-01' in row 12 after the header is
    no date").

    bad: the cells that are no dates, the first few, where most of the cells are dates: then the file is to be refused,
    since the column is meant to be times. Empty where the column is something else.
    """

    reason: str
    bad: tuple[BadCell, ...] = ()


class Column:
    """The different cells of a column, `cells` (M,), and which of them each row has, `codes` (N,), -1 for none."""

    def __init__(self, codes: NDArray[np.intp], cells: NDArray[np.object_], order: Order | None) -> None:
        self._codes, self._texts, self._order = codes, cells, order
        self._zones: set[str | None] = set()

    def parse(self) -> ParsedDates | NotDates:
        """Read it one way."""
        sample = self._bytes(self._texts[:SAMPLE])
        empty = _missing(sample)
        if not len(sample) or (empty.all() and len(sample) == len(self._texts)):
            return NotDates("all of its cells are empty")
        if cut(sample[~empty]).understood.sum() < MIN_SHARE * (~empty).sum():
            return NotDates("its cells are no dates")
        cells = self._bytes(self._texts)
        self._missing = _missing(cells)
        parts = cut(cells)
        totals = self._totals(parts.understood)
        ignored = self._missing.copy()
        ignored[self._codes[totals]] = True
        present = np.flatnonzero(~ignored)
        best, others = self._choose(parts, present)
        if best is None:
            return NotDates("its cells are no dates")
        return self._answer(best, others, parts, present, totals)

    def _bytes(self, texts: NDArray[np.object_]) -> NDArray[np.bytes_]:
        """The cells in ASCII; their zones, if they name any in brackets, go to `_zones`."""
        try:
            cells = np.array(texts, dtype=np.bytes_)
        except UnicodeEncodeError:
            cells = None
        if cells is None or not is_plain(cells):
            self._zones = {zone_name(text) for text in texts}
            cells = np.array([plain(text) for text in texts], dtype=np.bytes_)
        return cells

    def _choose(self, parts: Parts, present: NDArray[np.intp]) -> tuple[Reading | None, list[Reading]]:
        """The reading that fits most cells; of several, the one that gives the most regular times. And the others that
        fit as many."""
        readings = [
            reading
            for reading in (
                number_readings(parts, self._order) if are_numbers(parts) else text_readings(parts, self._order)
            )
            if len(present) and reading.valid[present].mean() >= _min_share(reading)
        ]
        if not readings:
            return None, []
        counts = [int(reading.valid[present].sum()) for reading in readings]
        fitting = [reading for reading, count in zip(readings, counts, strict=True) if count == max(counts)]
        if len(fitting) > 1:
            scores = [self._score(reading) for reading in fitting]
            best = max(range(len(fitting)), key=lambda i: (scores[i], -i))
            if fitting[best].strict and scores[best][0] < 2:
                return None, []
        elif fitting[0].strict and self._score(fitting[0])[0] < 2:
            return None, []
        else:
            best = 0
        return fitting[best], fitting[:best] + fitting[best + 1 :]

    def _score(self, reading: Reading) -> tuple[int, float]:
        """How regular the times of a reading are (0 not, 1 to 3), and the share of rows that go one way in time."""
        times = np.unique(reading.times[reading.valid])[:SAMPLE]
        rows = self._codes[self._codes >= 0]
        steps = np.diff(reading.times[rows][reading.valid[rows]])
        ordered = max(float((steps >= 0).mean()), float((steps <= 0).mean())) if len(steps) else 1.0
        return _regularity(times, reading), round(ordered, 2)

    def _answer(
        self, best: Reading, others: list[Reading], parts: Parts, present: NDArray[np.intp], totals: list[int]
    ) -> ParsedDates | NotDates:
        offsets, mixed = self._offsets(parts, best)
        bad = ~best.valid & ~self._missing | mixed
        rows = np.flatnonzero((self._codes >= 0) & bad[self._codes])
        rows = rows[~np.isin(rows, totals)]
        if len(rows):
            cells = tuple(BadCell(int(row), self._texts[self._codes[row]]) for row in rows[:MAX_BAD].tolist())
            more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
            return NotDates(
                f"{cells[0].text!r} in row {cells[0].row + 1} after the header is no date like the others "
                f"({best.form}){more}",
                cells,
            )
        notes = [best.note] if best.note else []
        ambiguous = best.order is not None and any(other.order not in (None, best.order) for other in others)
        if ambiguous:
            notes.append(self._ambiguity(best, present))
        notes += [
            f"row {row + 1} after the header ({self._text_of(row)!r}) is no date: it is left out" for row in totals
        ]
        if best.plain:
            values = best.times.astype(np.float64)
            values[~best.valid] = np.nan
            times: pd.Index[Any] = _as_integers(np.where(self._codes >= 0, values[self._codes], np.nan))
        else:
            wall = np.where(best.valid, best.times, NAT).astype(np.int64)
            times, zone_notes = self._zoned(wall, offsets)
            notes += zone_notes
        return ParsedDates(
            times, best.form, best.order, ambiguous, best.freq, best.numbers, tuple(totals), tuple(notes)
        )

    def _text_of(self, row: int) -> str:
        return str(self._texts[self._codes[row]])

    def _totals(self, understood: Bools) -> list[int]:
        """The rows at the end of the column that begin as lines of totals do."""
        totals: list[int] = []
        filled = self._codes >= 0
        filled[filled] = ~self._missing[self._codes[filled]]
        for row in np.flatnonzero(filled)[::-1].tolist():
            words = [] if understood[self._codes[row]] else re.findall(r"[a-z]+", self._text_of(row).lower())
            if not words or words[0] not in TOTALS:
                break
            totals.insert(0, row)
        return totals

    def _ambiguity(self, best: Reading, present: NDArray[np.intp]) -> str:
        first = int(present[0])
        stamp = pd.Timestamp(int(best.times[first]), unit="us")
        taken, other = ("day", "month") if best.order == "dayfirst" else ("month", "day")
        return (
            f"dates are read {taken} first ({best.form}: {self._texts[first]!r} is {stamp.date()}); {other} first fits "
            f"too: --dates {other}first reads them so"
        )

    def _offsets(self, parts: Parts, best: Reading) -> tuple[Ints | None, Bools]:
        """The offset of each different cell, and which cells name one where most do not, or none where most do."""
        zoned = parts.offset != NO_OFFSET
        usable = best.valid & ~self._missing
        if not (zoned & usable).any():
            return None, np.zeros(len(zoned), dtype=bool)
        aware = 2 * int((zoned & usable).sum()) >= int(usable.sum())
        return (parts.offset if aware else None), usable & (zoned != aware)

    def _zoned(self, wall: Ints, offsets: Ints | None) -> tuple[pd.DatetimeIndex, list[str]]:
        named = {zone for zone in self._zones if zone}
        zone: tzinfo | None = None
        notes: list[str] = []
        if len(named) == 1:
            with_zone = ZoneInfo(named.pop())
            if offsets is None:
                local = as_index(wall).tz_localize(with_zone, ambiguous="NaT", nonexistent="shift_forward")
                return self._of_rows(local), notes
            zone = with_zone
        if offsets is None:
            return self._of_rows(as_index(wall)), notes
        known = wall != NAT
        utc = np.where(known, wall - offsets * SECOND, NAT)
        if zone is None:
            zone, note = find_zone(as_index(utc[known]), offsets[known])
            notes += [note] if note else []
        return self._of_rows(as_index(utc).tz_localize("UTC").tz_convert(zone)), notes

    def _of_rows(self, times: pd.DatetimeIndex) -> pd.DatetimeIndex:
        if (self._codes >= 0).all():
            return times[self._codes]
        return pd.DatetimeIndex(times.append(pd.DatetimeIndex([pd.NaT], dtype=times.dtype))[self._codes])


def _missing(cells: NDArray[np.bytes_]) -> Bools:
    """Which cells are empty, or say that they are."""
    missing = np.zeros(len(cells), dtype=bool)
    short = np.flatnonzero(np.char.str_len(cells) <= 6)
    missing[short] = [cell.strip().lower().decode() in MISSING for cell in cells[short].tolist()]
    return missing


def _min_share(reading: Reading) -> float:
    if reading.strict or (reading.plain and reading.freq is None):
        return 1.0
    return MIN_SHARE_NUMBERS if reading.numbers else MIN_SHARE


def as_index(ints: Ints) -> pd.DatetimeIndex:
    """Microseconds since 1970 as times, `NAT` as none."""
    return pd.DatetimeIndex(ints.view("datetime64[us]"))


def _as_integers(numbers: NDArray[np.float64]) -> "pd.Index[Any]":
    """Numbers as integers, if they are whole and none is missing."""
    if np.isfinite(numbers).all() and (numbers % 1 == 0).all():
        return pd.Index(numbers.astype(np.int64))
    return pd.Index(numbers)


def _regularity(times: NDArray[Any], reading: Reading) -> int:
    """0: the times follow no frequency; 1: one that nobody writes so (years, of dates that name their month); 2: one,
    with gaps; 3: one, without gaps."""
    if len(times) < 2:
        return 0 if reading.strict else 2
    try:
        grid = regular_grid(pd.Index(times) if reading.plain else as_index(times.astype(np.int64)))
    except IrregularTimesError:
        return 0
    freq = grid.freq or ""
    odd = not reading.plain and (freq.startswith(("WOM", "LWOM")) or freq.lstrip("0123456789") in ("M", "Q", "Y"))
    odd = odd or (freq.startswith(("YS", "YE", "BY", "RE")) and reading.freq == "MS")
    if odd or grid.snapped:
        return 1
    return 2 + (len(grid.times) == len(times))

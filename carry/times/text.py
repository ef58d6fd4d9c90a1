"""Cuts the text of dates into numbers, names of months, clocks and offsets, a whole column at once. Does not know which
number is the day: `carry/times/dates.py` decides that for the column.

Cells of one shape ("99/99/9999 99:99") have their numbers at the same places, and a column has few shapes: each is cut
up once, by columns of bytes, whatever the number of cells.
"""

import re
import unicodedata
import zoneinfo
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Some = slice | NDArray[np.intp]
"""Which cells: all of them, or some."""

NO_CLOCK = -1
NO_OFFSET = -(10**6)
MAX_SHAPES = 2000
"""Columns of text that is no dates have more."""
MAX_WIDTH = 64
"""Longer cells are no dates."""

_MONTH_NAMES = (
    "jan january januar janvier janv enero ene gennaio gen janeiro januari janner",
    "feb february februar fevrier fevr fev febrero febbraio fevereiro februari",
    "mar march maerz marz mrz mars marzo marco maart mrt",
    "apr april avril avr abril abr aprile",
    "may mai mayo maggio mag maio mei maj",
    "jun june juni juin junio giugno giu junho",
    "jul july juli juillet juill juil julio luglio lug julho",
    "aug august aout aou agosto ago augustus augusti",
    "sep sept september septembre septiembre settembre set setembro",
    "oct october okt oktober octobre octubre ottobre ott outubro out",
    "nov november novembre noviembre novembro",
    "dec december dez dezember decembre diciembre dic dicembre dezembro",
)
_SKIPPED = (
    "mon monday tue tues tuesday wed wednesday thu thur thurs thursday fri friday sat saturday sun sunday "
    "montag dienstag mittwoch donnerstag freitag samstag sonntag mo di mi do fr sa so "
    "lundi mardi mercredi jeudi vendredi samedi dimanche lunes martes miercoles jueves viernes sabado domingo "
    "st nd rd th of de del den der le the at um uhr on fy year yr jahr cal"
)
_OFFSETS = {
    **dict.fromkeys(("z", "utc", "gmt", "wet"), 0),
    **{
        "cet": 1,
        "cest": 2,
        "met": 1,
        "mez": 1,
        "mesz": 2,
        "west": 1,
        "bst": 1,
        "eet": 2,
        "eest": 3,
        "msk": 3,
        "jst": 9,
    },
    **{"jst": 9, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7, "aest": 10},
    "aedt": 11,
}
"""Hours ahead of UTC."""
_PERIODS = {
    **dict.fromkeys(("q", "qtr", "quarter", "quartal", "trim", "trimestre"), "q"),
    **dict.fromkeys(("m", "month", "monat"), "m"),
    **dict.fromkeys(("w", "wk", "week", "kw", "cw", "semana", "semaine", "woche"), "w"),
    **dict.fromkeys(("s", "hy", "half"), "h"),
}
_WORDS: dict[str, tuple[str, int]] = {
    **{name: ("month", i + 1) for i, names in enumerate(_MONTH_NAMES) for name in names.split()},
    **dict.fromkeys(_SKIPPED.split(), ("skip", 0)),
    **{name: ("offset", 3600 * hours) for name, hours in _OFFSETS.items()},
    **{name: ("period", ord(letter)) for name, letter in _PERIODS.items()},
    "am": ("half", 0),
    "pm": ("half", 12),
    "t": ("t", 0),
    "h": ("h", 0),
}
_ROLES = ("skip", "month", "offset", "period", "half", "t", "h", "unknown")
_SEPARATORS = "-/. ,_'"
_LETTER, _DIGIT = ord("a"), ord("9")
_CLASSES = np.arange(256, dtype=np.uint8)
_CLASSES[ord("0") : ord("9") + 1] = _DIGIT
_CLASSES[ord("a") : ord("z") + 1] = _LETTER
_CLASSES[ord("A") : ord("Z") + 1] = _LETTER
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += 32


_NAMED_ZONE = re.compile(r"(?:\[|\s)([A-Z][A-Za-z_]+/[A-Za-z_+\-0-9/]+)\]?\s*$")
_RANGE = re.compile(r"^(\d{4}-\d\d-\d\d)\s*(?:/|-|to)\s*\d{4}-\d\d-\d\d$")
"""A week as pandas writes it, from its first day to its last."""
_EAST_ASIAN = str.maketrans(
    {
        **dict.fromkeys("\u5e74\u6708\ub144\uc6d4\u2212\u2013\u2010\u2011", "-"),
        **dict.fromkeys("\u65e5\uc77c", " "),
        **dict.fromkeys("\u6642\u65f6\u5206", ":"),
        "\u79d2": "",
    }
)
"""The marks of years, months, days, hours and minutes; and the dashes that are no hyphens."""


def zone_name(text: str) -> str | None:
    """Europe/Berlin of "2024-01-31T12:00+01:00[Europe/Berlin]" or "2024-01-31 12:00 Europe/Berlin", if it is a zone."""
    match = _NAMED_ZONE.search(text)
    return match[1] if match and match[1] in zoneinfo.available_timezones() else None


def plain(text: str) -> str:
    """The text of a date in ASCII: without accents, the marks of East Asian dates, names of zones in brackets."""
    text = _NAMED_ZONE.sub("", re.sub(r"\([^)]*\)\s*$", "", text))
    text = re.sub(r"\b([ap])\.\s?m\.", r"\1m", text, flags=re.IGNORECASE)
    text = unicodedata.normalize("NFC", text).translate(_EAST_ASIAN).rstrip("- ")
    text = "".join(str(unicodedata.decimal(mark)) if mark.isdecimal() else mark for mark in text)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().strip()
    return _RANGE.sub(r"\1", text)


def is_plain(cells: NDArray[np.bytes_]) -> bool:
    """Whether ASCII cells need no `plain`, by their first and last."""
    ends = [cells[0], cells[-1]] if len(cells) else []
    return not any(
        re.search(rb"^\d{4}-\d\d-\d\d\s*(/|-|to)\s*\d{4}-|[(\[]|[A-Za-z]/[A-Z]|[Mm]\.\s*$", cell) for cell in ends
    )


@dataclass(frozen=True)
class Parts:
    """What cells (N,) are made of.

    understood (N,): whether the cell could be cut up at all; else the rest says nothing about it.
    numbers, widths (N, 3): the numbers of the date as they stand, and their digits; width 0: there is none.
    month (N,): of a name, 1 to 12, or 0. month_at: how many numbers stand before it.
    period (N,): the letter q, m, w or h (half-year) as a byte, or 0. period_at: which number belongs to it.
    separator (N,): between the first two numbers, as a byte; 0 where there is none.
    clock (N,): microseconds after midnight, or `NO_CLOCK`.
    offset (N,): seconds ahead of UTC, or `NO_OFFSET`.
    """

    understood: NDArray[np.bool_]
    numbers: Ints
    widths: Ints
    month: Ints
    month_at: Ints
    period: Ints
    period_at: Ints
    separator: Ints
    clock: Ints
    offset: Ints


def cut(cells: NDArray[np.bytes_]) -> Parts:
    """Cut cells (N,) of ASCII into their parts."""
    count = len(cells)
    parts = Parts(
        np.zeros(count, dtype=bool),
        np.zeros((count, 3), dtype=np.int64, order="F"),
        np.zeros((count, 3), dtype=np.int64, order="F"),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
        np.full(count, NO_CLOCK, dtype=np.int64),
        np.full(count, NO_OFFSET, dtype=np.int64),
    )
    if not count or cells.dtype.itemsize > MAX_WIDTH:
        return parts
    columns = np.ascontiguousarray(cells.view(np.uint8).reshape(count, -1).T)
    shapes = _CLASSES[columns]
    firsts, inverse = _distinct(shapes)
    if len(firsts) > MAX_SHAPES:
        return parts
    for i, first in enumerate(firsts.tolist()):
        shape = shapes[:, first].tobytes().rstrip(b"\0").decode("latin-1")
        rows = slice(None) if len(firsts) == 1 else np.flatnonzero(inverse == i)
        _cut_shape(shape, columns[:, rows], rows, parts)
    return parts


def _distinct(columns: Bytes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first cell of each kind, and the kind of each cell (N,), of texts as columns of bytes (width, N)."""
    varying = columns[[bool((column != column[0]).any()) for column in columns]]
    if not len(varying):
        return np.zeros(1, dtype=np.intp), np.zeros(columns.shape[1], dtype=np.intp)
    hashes = varying[0].astype(np.uint64)
    for column in varying[1:]:
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
        hashes += column
    # A column mostly has a few kinds, which its first cells show; to look for these is faster than to sort.
    kinds, firsts = np.unique(hashes[:1000], return_index=True)
    if len(kinds) <= MAX_LOOKED_FOR:
        inverse = np.full(len(hashes), -1, dtype=np.intp)
        for i, kind in enumerate(kinds):
            inverse[hashes == kind] = i
        if (inverse >= 0).all():
            return firsts, inverse
    _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return firsts, inverse


MAX_LOOKED_FOR = 64
"""Kinds of text that are looked for one by one."""


@dataclass
class _Token:
    """A number, a word or a separator of a shape. values (n,): of a number, its value; of a word, its meaning."""

    kind: str
    start: int
    end: int
    values: Ints | None = None

    @property
    def width(self) -> int:
        return self.end - self.start


def _cut_shape(shape: str, columns: Bytes, rows: Some, parts: Parts) -> None:
    tokens = [
        _Token("n" if text[0] == "9" else "w" if text[0] == "a" else text, match.start(), match.end())
        for match in re.finditer(r"9+|a+|[^9a]", shape)
        for text in [match[0]]
    ]
    if any(token.kind not in ("n", "w", ":", "+", *_SEPARATORS) or token.width > 19 for token in tokens):
        return
    words = [token for token in tokens if token.kind == "w"]
    roles = np.zeros((columns.shape[1], len(words)), dtype=np.int64)
    for i, word in enumerate(words):
        roles[:, i], word.values = _meanings(_LOWER[columns[word.start : word.end]])
    if not words:
        _cut_rows(tokens, [], columns, rows, slice(None), parts)
        return
    firsts, inverse = _distinct(roles.T.astype(np.uint8))
    for i, first in enumerate(firsts.tolist()):
        names = [_ROLES[role] for role in roles[first].tolist()]
        if "unknown" not in names:
            some = slice(None) if len(firsts) == 1 else np.flatnonzero(inverse == i)
            _cut_rows(tokens, names, columns, rows, some, parts)


def _meanings(letters: Bytes) -> tuple[Ints, Ints]:
    """The role (an index into `_ROLES`) and the value of a word in each cell, of its columns (width, n)."""
    firsts, inverse = _distinct(letters)
    known = [_WORDS.get(letters[:, first].tobytes().decode(), ("unknown", 0)) for first in firsts]
    roles = np.array([_ROLES.index(role) for role, _ in known], dtype=np.int64)
    values = np.array([value for _, value in known], dtype=np.int64)
    return roles[inverse], values[inverse]


def _cut_rows(
    tokens: list[_Token],
    roles: list[str],
    columns: Bytes,
    rows: Some,
    some: Some,
    parts: Parts,
) -> None:
    """Write the parts of those of a shape's rows whose words have these roles."""
    reader = _Reader(tokens, roles, columns[:, some], some)
    if not reader.read():
        return
    index = some if isinstance(rows, slice) else rows[some]
    parts.understood[index] = True
    for i, (value, width) in enumerate(reader.numbers):
        parts.numbers[index, i], parts.widths[index, i] = value, width
    for name in ("month", "month_at", "period", "period_at", "separator", "clock", "offset"):
        value = getattr(reader, name)
        if value is not None:
            getattr(parts, name)[index] = value


class _Reader:
    """Reads the tokens of a shape from left to right. After `read`, its attributes are those of `Parts`."""

    def __init__(self, tokens: list[_Token], roles: list[str], columns: Bytes, some: Some) -> None:
        names = iter(roles)
        self._tokens = [next(names) if token.kind == "w" else token.kind for token in tokens]
        self._all, self._columns, self._some = tokens, columns, some
        self.numbers: list[tuple[Ints, int]] = []
        self.month: Ints | None = None
        self.month_at = 0
        self.period: Ints | int | None = None
        self.period_at = 0
        self.separator: int | None = None
        self.clock: Ints | None = None
        self.offset: Ints | None = None
        self._half: Ints | None = None
        self._hour_last = False
        self._before: list[str] = []  # what stands before each of the numbers

    def read(self) -> bool:
        """Whether these are the tokens of a date."""
        i, names = 0, self._tokens
        before = ""  # what stands between the last number and this token
        while i < len(names):
            name = names[i]
            if name == "n" and self.clock is None and self._starts_clock(i):
                i = self._read_clock(i)
                before = " "
                continue
            if name == "+" or (name == "-" and self.clock is not None and names[i - 1] in ("n", "offset")):
                i = self._read_offset(i)
                if not i:
                    return False
                continue
            if name == "n":
                if self.numbers and not before:
                    before = "?"
                if len(self.numbers) == 1:
                    self.separator = ord(before.strip()[:1] or before[:1])
                self._before.append(before)
                self.numbers.append((self._number(i), self._all[i].width))
                before = ""
            elif name in _SEPARATORS:
                if (i == 0 and name != " ") or (i == len(names) - 1 and name not in " .'"):
                    return False
                before += name
            elif not self._read_word(name, i):
                return False
            else:
                before += "~"
            i += 1
        return self._finish()

    def _number(self, i: int) -> Ints:
        token = self._all[i]
        value = np.zeros(self._columns.shape[1], dtype=np.int64)
        for column in self._columns[token.start : token.end]:
            value *= 10
            value += column - ord("0")
        return value

    def _value(self, i: int) -> Ints:
        values = self._all[i].values
        assert values is not None
        return values[self._some]

    def _is(self, i: int, *names: str) -> bool:
        return i < len(self._tokens) and self._tokens[i] in names

    def _starts_clock(self, i: int) -> bool:
        return self._is(i + 1, ":") and self._is(i + 2, "n") and self._all[i].width <= 2

    def _read_clock(self, i: int) -> int:
        """Read hours, minutes, seconds and their fraction; returns the next token."""
        clock = 3600 * self._number(i) + 60 * self._number(i + 2)
        wrong = (self._number(i) > 24) | (self._number(i + 2) > 59)
        i += 3
        fraction = np.zeros_like(clock)
        if self._is(i, ":") and self._is(i + 1, "n"):
            clock += self._number(i + 1)
            wrong |= self._number(i + 1) > 60
            i += 2
            if self._is(i, ".", ",") and self._is(i + 1, "n"):
                fraction = self._fraction(i + 1)
                i += 2
        self.clock = np.where(wrong, NO_CLOCK - 1, clock * 1_000_000 + fraction)
        return i

    def _fraction(self, i: int) -> Ints:
        width = self._all[i].width
        return _micros(self._number(i), width)

    def _read_offset(self, i: int) -> int:
        """Read +01:00, +0100 or +1; returns the next token, 0 if it is no offset."""
        if not self._is(i + 1, "n"):
            return 0
        sign = -1 if self._tokens[i] == "-" else 1
        number, width = self._number(i + 1), self._all[i + 1].width
        i += 2
        if width == 4:
            seconds = 3600 * (number // 100) + 60 * (number % 100)
        elif width <= 2:
            seconds = 3600 * number
            if self._is(i, ":") and self._is(i + 1, "n"):
                seconds = seconds + 60 * self._number(i + 1)
                i += 2
        else:
            return 0
        self.offset = (self.offset if self.offset is not None else 0) + sign * seconds
        return i

    def _read_word(self, name: str, i: int) -> bool:
        if name == "month":
            if self.month is not None:
                return False
            self.month, self.month_at = self._value(i), len(self.numbers)
        elif name == "offset":
            if self.offset is not None or not self.numbers:
                return False
            self.offset = self._value(i)
        elif name == "half":
            if self._half is not None:
                return False
            self._half = self._value(i)
            self._hour_last = self.clock is None
        elif name in ("period", "h") or (name == "t" and len(self.numbers) < 2 and self._small_after(i)):
            if name == "h" and len(self.numbers) >= 3:
                return True  # 18h30: the numbers after the date are its clock
            if self.period is not None:
                return False
            self.period = {"h": ord("h"), "t": ord("q")}.get(name) or self._value(i)
            # 1Q2015: the number before it, if it stands at once before and has one digit; else the one after it.
            before = i > 0 and self._tokens[i - 1] == "n" and self._all[i - 1].width == 1
            self.period_at = len(self.numbers) - before
        elif name == "t":
            return bool(self.numbers)
        return True

    def _small_after(self, i: int) -> bool:
        """Whether one digit stands after the T of a trimester, or before it and a year after it."""
        if self._all[i - 1].width == 1 and self._tokens[i - 1] == "n" and i > 0:
            return self._is(i + 1, "n") and self._all[i + 1].width == 4
        return self._is(i + 1, "n") and self._all[i + 1].width == 1 and not self._is(i + 2, ":")

    def _finish(self) -> bool:
        """Take the numbers after those of the date as its clock."""
        date = 2 if self.month is not None else 3
        first = self.numbers[0][1] if self.numbers else 0
        if self.period is not None:
            date = 3
        elif first in (6, 8) and len(self.numbers) == 2 and self.month is None:
            date = 1
        elif self._hour_last:
            date = min(date, len(self.numbers) - 1)
        rest = self.numbers[date:]
        if len(rest) and date == 3 and first != 4 and self._before[3] == self._before[1]:
            return False  # 10.0.0.1
        self.numbers = self.numbers[:date]
        if rest and (self.clock is not None or len(rest) > 4 or not self._clock_of(rest)):
            return False
        if self._half is not None:
            if self.clock is None:
                return False
            hour = self.clock // 3_600_000_000
            late = self.clock % 43_200_000_000 + 3_600_000_000 * self._half
            self.clock = np.where((hour >= 1) & (hour <= 12), late, np.where(hour < 24, self.clock, NO_CLOCK - 1))
        return bool(self.numbers)

    def _clock_of(self, rest: list[tuple[Ints, int]]) -> bool:
        (hour, width), *smaller = rest
        if not smaller and width in (4, 6):
            divisor = 10 ** (width - 2)
            digits = [(hour // 10**place % 100, 2) for place in range(width - 4, -1, -2)]
            hour, smaller = hour // divisor, digits
        elif width > 2:
            return False
        units = [value for value, _ in smaller[:2]]
        clock = 3600 * hour + sum((unit * size for unit, size in zip(units, (60, 1), strict=False)), np.int64(0))
        wrong = (hour > 24) | np.any([unit > 60 for unit in units], axis=0) if units else hour > 24
        micros = np.zeros_like(hour)
        if len(smaller) == 3:
            micros = _micros(*smaller[2])
        self.clock = np.where(wrong, NO_CLOCK - 1, clock * 1_000_000 + micros)
        return True


def _micros(digits: Ints, width: int) -> Ints:
    """The microseconds of the digits after the point of a second."""
    micros: Ints = digits * 10 ** (6 - width) if width <= 6 else digits // 10 ** (width - 6)
    return micros

"""The ways to read the text of dates: which of its numbers are years, months, days, quarters, weeks. Knows nothing of
columns: which way a column is read, `carry/times/column.py` decides.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carry.times.calendars import DAY, Ints, month_start
from carry.times.text import NO_CLOCK, Parts

Order = Literal["dayfirst", "monthfirst"]
Bools = NDArray[np.bool_]
Days = Callable[[Parts, Bools], tuple[Ints, Bools]]
"""Of the cells of a mask: the days since 1970, and which are valid."""

FIRST_YEAR = 1500
"""Of numbers that may be dates without separators."""
MAX_OPTIONS = 32
"""Combinations of options that are tried for an order of day and month."""
NO_YEAR = "the dates have no year: it is counted from 1"
LAST_TWO_DIGIT_YEAR = 49
"""Two digits up to this are a year of 2000 to 2049, if the column does not show otherwise."""


@dataclass(frozen=True)
class Reading:
    """One way to read the different cells (M,) of a column.

    times (M,): microseconds since 1970 by the clock on the wall, or years and counted steps as they are if `plain`.
    valid (M,): which cells can be read so. strict: as of an `Option`. The rest is for `ParsedDates`.
    """

    form: str
    times: Ints | NDArray[np.float64]
    valid: Bools
    order: Order | None = None
    freq: str | None = None
    numbers: bool = False
    plain: bool = False
    strict: bool = False
    note: str = ""


@dataclass(frozen=True)
class Option:
    """How to read the cells of one layout. family: a column is of one (dates with the year in front, names of months,
    ...). strict: it counts only if it fits all cells and gives regular times."""

    form: str
    family: str
    days: Days
    order: Order | None = None
    freq: str | None = None
    strict: bool = False
    note: str = ""


def text_readings(parts: Parts, order: Order | None) -> Iterable[Reading]:
    """The ways to read cells of text, the likeliest first."""
    layouts, inverse = _layouts(parts)
    options: list[list[Option | None]] = []
    family = ""  # that of the most frequent layout
    for i in range(len(layouts)):
        cells = (inverse == i) & parts.understood
        known = _options(parts, int(np.argmax(cells))) if cells.any() else []
        family = family or (known[0].family if known else "")
        known = [option for option in known if option.family == family]
        heeded = [option for option in known if option.order == order] if order else []
        options.append([*(heeded or known)] or [None])
    for combination in _combinations(options):
        chosen = [option for option in combination if option is not None]
        days = np.zeros(len(parts.clock), dtype=np.int64)
        valid = np.zeros(len(parts.clock), dtype=bool)
        for i, option in enumerate(combination):
            if option is not None:
                cells = parts.understood & (inverse == i) if len(layouts) > 1 else parts.understood
                days[cells], valid[cells] = option.days(parts, cells)
        times = days * DAY + np.maximum(parts.clock, 0)
        valid &= parts.clock >= NO_CLOCK
        main, with_clock = chosen[0], bool((parts.clock[valid] >= 0).any())
        taken = next((option.order for option in chosen if option.order), None)
        yield Reading(
            main.form + " with times of day" * with_clock,
            times,
            valid,
            taken,
            None if with_clock else main.freq,
            strict=any(option.strict for option in chosen),
            note=main.note,
        )


def _combinations(options: list[list[Option | None]]) -> Iterator[tuple[Option | None, ...]]:
    """An option of each layout, all with one order of day and month."""
    orders = dict.fromkeys(option.order for layout in options for option in layout if option is not None)
    for order in sorted(orders, key=lambda order: order is None):  # in the order of the options, None at last
        fitting = [[option for option in layout if not option or option.order in (order, None)] for layout in options]
        for combination in itertools.islice(itertools.product(*(layout or [None] for layout in fitting)), MAX_OPTIONS):
            if any(option is not None and option.order == order for option in combination):
                yield combination


def are_numbers(parts: Parts) -> bool:
    """Whether most cells are mere numbers: 20240131, 1949.083."""
    known = parts.understood
    fraction = (parts.widths[:, 1] > 0) & (parts.widths[:, 2] == 0) & (parts.separator == ord("."))
    mere = ((parts.widths[:, 1] == 0) | fraction) & (parts.month == 0) & (parts.period == 0) & (parts.clock == NO_CLOCK)
    return bool(2 * (mere & known).sum() > known.sum())


def _layouts(parts: Parts) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The different layouts of cells, the most frequent first, and the layout of each cell."""
    classes = np.clip(parts.widths, 0, 5)
    classes[(classes == 1)] = 2
    key = parts.separator * 8 + (parts.month > 0) * 4 + np.minimum(parts.month_at, 3)
    key = (key * 256 + parts.period) * 4 + parts.period_at
    key = key * 216 + classes[:, 0] * 36 + classes[:, 1] * 6 + classes[:, 2]
    key[~parts.understood] = -1
    if (key == key[0]).all():
        return key[:1], np.zeros(len(key), dtype=np.intp)
    layouts, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    ranks = np.argsort(-counts, kind="stable")
    places = np.empty_like(ranks)
    places[ranks] = np.arange(len(ranks))
    return layouts[ranks], places[inverse]


def _options(parts: Parts, cell: int) -> list[Option]:
    """How the cells of the layout of this one may be read, the likeliest first."""
    widths = [int(width) for width in parts.widths[cell] if width]
    separator = chr(int(parts.separator[cell]) or ord(" "))
    if parts.period[cell]:
        return _period_options(chr(int(parts.period[cell])), int(parts.period_at[cell]), widths)
    if parts.month[cell]:
        return _name_options(int(parts.month_at[cell]), widths)
    short = [width <= 2 for width in widths]
    if len(widths) == 3:
        if separator == "," or not short[1]:
            return []
        s = separator if separator in "-/. " else "-"
        dmy, mdy = f"DD{s}MM{s}YY", f"MM{s}DD{s}YY"
        if widths[0] == 4 and short[2]:
            return [Option(f"YYYY{s}MM{s}DD", "year first", _dated(0, 1, 2))]
        if widths[2] == 4 and short[0]:
            return [
                Option(f"{dmy}YY", "year last", _dated(2, 1, 0), order="dayfirst"),
                Option(f"{mdy}YY", "year last", _dated(2, 0, 1), order="monthfirst"),
            ]
        if all(short):
            return [
                Option(dmy, "year last", _dated(2, 1, 0), order="dayfirst"),
                Option(mdy, "year last", _dated(2, 0, 1), order="monthfirst"),
                Option(f"YY{s}MM{s}DD", "year last", _dated(0, 1, 2)),
            ]
    elif len(widths) == 2 and separator in "-/ _.":
        return _pair_options(widths, short, separator)
    elif len(widths) == 1:
        return digit_options(widths[0])
    return []


def _pair_options(widths: list[int], short: list[bool], s: str) -> list[Option]:
    if widths[0] == 4 and widths[1] == 3:
        return [Option("years and days of the year", "pair", _ordinal(0, 1))]
    if widths[0] == 4 and (short[1] or widths[1] == 4):
        return [
            *([Option(f"YYYY{s}MM", "pair", _dated(0, 1, None), freq="MS")] if short[1] else []),
            *([Option("years and quarters", "pair", _quarter(0, 1), freq="QS-JAN")] if widths[1] == 1 else []),
            *([Option("years and ISO weeks", "pair", _week(0, 1), freq="W-MON")] if short[1] else []),
            Option(f"years such as 2015{s}16", "pair", _span, freq="YS"),
        ]
    if widths[1] == 4 and short[0]:
        return [
            Option(f"MM{s}YYYY", "pair", _dated(1, 0, None), freq="MS"),
            *([Option("quarters and years", "pair", _quarter(1, 0), freq="QS-JAN")] if widths[0] == 1 else []),
            Option("ISO weeks and years", "pair", _week(1, 0), freq="W-MON"),
        ]
    if all(short) and s in "-/":
        return [
            Option(f"years and months (YY{s}MM)", "pair", _dated(0, 1, None), freq="MS", strict=True),
            Option(f"months and years (MM{s}YY)", "pair", _dated(1, 0, None), freq="MS", strict=True),
            Option(f"DD{s}MM without a year", "pair", _dated(None, 1, 0), order="dayfirst", strict=True, note=NO_YEAR),
            Option(
                f"MM{s}DD without a year", "pair", _dated(None, 0, 1), order="monthfirst", strict=True, note=NO_YEAR
            ),
        ]
    return []


def _name_options(at: int, widths: list[int]) -> list[Option]:
    if len(widths) == 1:
        if widths[0] == 4:
            return [Option("names of months and years", "month name", _dated(0, "name", None), freq="MS")]
        if widths[0] <= 2:
            return [
                Option("names of months and years", "month name", _dated(0, "name", None), freq="MS"),
                Option("names of months and days, without a year", "month name", _dated(None, "name", 0), note=NO_YEAR),
            ]
    if len(widths) == 2:
        year_first = Option("years, names of months, days", "name", _dated(0, "name", 1))
        day_first = Option("days, names of months, years", "name", _dated(1, "name", 0))
        if widths[0] == 4 and widths[1] <= 2:
            return [year_first]
        if widths[0] <= 2 and widths[1] in (2, 4):
            return [day_first, year_first] if widths[1] == 2 and at == 1 else [day_first]
    return []


def _period_options(letter: str, at: int, widths: list[int]) -> list[Option]:
    if letter == "w" and len(widths) == 3 and at == 1 and widths[2] == 1:
        return [Option("ISO weeks and weekdays", f"period {letter}", _week(0, 1, 2))]
    if len(widths) != 2 or at > 1 or widths[at] > 2 or widths[1 - at] not in (2, 4):
        return []
    year = 1 - at
    match letter:
        case "q":
            return [Option("years and quarters", f"period {letter}", _quarter(year, at), freq="QS-JAN")]
        case "m":
            return [Option("years and months", f"period {letter}", _dated(year, at, None), freq="MS")]
        case "w":
            return [Option("years and ISO weeks", f"period {letter}", _week(year, at), freq="W-MON")]
        case _:
            return [Option("years and half-years", f"period {letter}", _quarter(year, at, of_year=2), freq="6MS")]


def digit_options(width: int) -> list[Option]:
    """How dates without separators may be read, of one number of `width` digits."""

    def dated(sizes: tuple[int, ...], year: int, month: int, day: int | None) -> Days:
        def read(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
            number = parts.numbers[cells, 0]
            places: list[Ints] = []
            for size in reversed(sizes):
                places.insert(0, number % 10**size)
                number = number // 10**size
            years = places[year] if sizes[year] == 4 else full_years(places[year])
            days, valid = days_of(years, places[month], np.ones_like(years) if day is None else places[day])
            return days, valid & (years >= FIRST_YEAR)

        return read

    def short_years(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
        years, months = np.divmod(parts.numbers[cells, 0], 100)
        return days_of(full_years(years), months, np.ones_like(years))

    def weeks(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
        years, numbers = np.divmod(parts.numbers[cells, 0], 100)
        days, valid = iso_days(years, numbers, np.ones_like(years))
        return days, valid & (years >= FIRST_YEAR) & (years < 2200)

    forms: dict[int, list[Option]] = {
        4: [Option("YYMM", "digits", short_years, freq="MS", strict=True)],
        8: [
            Option("YYYYMMDD", "digits", dated((4, 2, 2), 0, 1, 2)),
            Option("DDMMYYYY", "digits", dated((2, 2, 4), 2, 1, 0), order="dayfirst"),
            Option("MMDDYYYY", "digits", dated((2, 2, 4), 2, 0, 1), order="monthfirst"),
        ],
        6: [
            Option("YYYYMM", "digits", dated((4, 2), 0, 1, None), freq="MS"),
            Option("YYYYWW", "digits", weeks, freq="W-MON"),
            Option("YYMMDD", "digits", dated((2, 2, 2), 0, 1, 2), strict=True),
            Option("DDMMYY", "digits", dated((2, 2, 2), 2, 1, 0), order="dayfirst", strict=True),
            Option("MMDDYY", "digits", dated((2, 2, 2), 2, 0, 1), order="monthfirst", strict=True),
            Option("MMYYYY", "digits", dated((2, 4), 1, 0, None), freq="MS", strict=True),
        ],
    }
    return forms.get(width, [])


def _dated(year: int | None, month: int | str, day: int | None) -> Days:
    """Years, months and days from these numbers of the cells. No year: year 1, or 4 if there is a 29 February. No day:
    the first."""

    def read(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
        months = parts.month[cells] if isinstance(month, str) else parts.numbers[cells, month]
        days = np.ones_like(months) if day is None else parts.numbers[cells, day]
        if year is None:
            years = np.full_like(months, 4 if ((months == 2) & (days == 29)).any() else 1)
        else:
            years = parts.numbers[cells, year]
            widths = parts.widths[cells, year]
            if (widths <= 2).any() and not (day is None and (widths == 1).any() and isinstance(month, int)):
                years = np.where(widths <= 2, full_years(years), years)
        return days_of(years, months, days)

    return read


def full_years(years: Ints) -> Ints:
    """Years of two digits with their century: the column goes on from 99 to 00, or is of one century."""
    short = np.unique(years[years < 100])
    if not len(short):
        return years
    gaps = np.diff(np.concatenate([short, [short[0] + 100]]))
    first = short[(int(gaps.argmax()) + 1) % len(short)]  # the first year after the longest stretch without any
    if first <= short[-1] and first == short[0]:
        return years + (2000 if short[-1] <= LAST_TWO_DIGIT_YEAR else 1900)
    return years + np.where(years >= first, 1900, 2000)


def days_of(years: Ints, months: Ints, days: Ints) -> tuple[Ints, Bools]:
    """The days since 1970 of dates, and which of them there are."""
    valid = (years >= 1) & (years <= 9999) & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    since = np.where(valid, years * 12 + months, 1970 * 12 + 1) - (1970 * 12 + 1)
    if not len(since):
        return since, valid
    first = int(since.min())
    starts = month_start(np.arange(first, int(since.max()) + 2))  # of a few months: a column's dates are close
    places = since - first
    valid &= days <= np.diff(starts)[places]
    result: Ints = starts[places] + np.where(valid, days - 1, 0)
    return result, valid


def _quarter(year: int, part: int, of_year: int = 4) -> Days:
    def read(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
        years, number = parts.numbers[cells, year], parts.numbers[cells, part]
        years = np.where(parts.widths[cells, year] <= 2, full_years(years), years)
        days, valid = days_of(years, (number - 1) * (12 // of_year) + 1, np.ones_like(years))
        return days, valid & (number >= 1) & (number <= of_year)

    return read


def _week(year: int, part: int, day: int | None = None) -> Days:
    def read(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
        years, weeks = parts.numbers[cells, year], parts.numbers[cells, part]
        years = np.where(parts.widths[cells, year] <= 2, full_years(years), years)
        weekdays = np.ones_like(years) if day is None else parts.numbers[cells, day]
        return iso_days(years, weeks, weekdays)

    return read


def iso_days(years: Ints, weeks: Ints, weekdays: Ints) -> tuple[Ints, Bools]:
    """The days of ISO weeks: the first week of a year has its 4 January."""
    fourth, valid = days_of(years, np.ones_like(years), np.full_like(years, 4))
    next_fourth, _ = days_of(years + 1, np.ones_like(years), np.full_like(years, 4))
    monday = fourth - (fourth + 3) % 7
    length = (next_fourth - (next_fourth + 3) % 7 - monday) // 7
    valid &= (weeks >= 1) & (weeks <= length) & (weekdays >= 1) & (weekdays <= 7)
    return monday + 7 * (weeks - 1) + weekdays - 1, valid


def _ordinal(year: int, part: int) -> Days:
    def read(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
        return year_days(parts.numbers[cells, year], parts.numbers[cells, part])

    return read


def year_days(years: Ints, numbers: Ints) -> tuple[Ints, Bools]:
    first, valid = days_of(years, np.ones_like(years), np.ones_like(years))
    leap = (years % 4 == 0) & ((years % 100 != 0) | (years % 400 == 0))
    return first + numbers - 1, valid & (numbers >= 1) & (numbers <= 365 + leap)


def _span(parts: Parts, cells: Bools) -> tuple[Ints, Bools]:
    """Years such as 2015/16 or 2015-2016: from one to the next."""
    years, ends = parts.numbers[cells, 0], parts.numbers[cells, 1]
    days, valid = days_of(years, np.ones_like(years), np.ones_like(years))
    return days, valid & (np.where(ends > 99, ends, ends + 100 * ((years + 1) // 100)) == years + 1)

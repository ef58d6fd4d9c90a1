"""The ways to read mere numbers as times: 20240131, 2015, 1949.083, Excel's serial numbers, seconds since 1970. Knows
nothing of columns."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carry.times.calendars import DAY, SECOND, Ints, month_start
from carry.times.readings import FIRST_YEAR, Bools, Order, Reading, days_of, digit_options, year_days
from carry.times.text import NO_CLOCK, Parts

NAT = np.iinfo(np.int64).min


def number_readings(parts: Parts, order: Order | None) -> Iterable[Reading]:
    """The ways to read mere numbers. All but the counters have to fit every cell that is a number."""
    valid = parts.understood & (parts.month == 0) & (parts.period == 0) & (parts.clock == NO_CLOCK)
    valid &= (parts.widths[:, 1] == 0) | ((parts.separator == ord(".")) & (parts.widths[:, 2] == 0))
    whole, digits = parts.numbers[:, 0], parts.widths[:, 1]
    values = np.where(valid, whole + parts.numbers[:, 1] / 10.0**digits, np.nan)
    cells = values[valid]
    integers = bool((cells % 1 == 0).all())
    widths = np.unique(parts.widths[valid, 0])
    last = float(cells.max())

    def read(form: str, times: Any, ok: Bools | None = None, **more: Any) -> Reading:
        full = np.full(len(values), NAT) if not more.get("plain") else np.full(len(values), np.nan)
        full[valid] = times
        fitting = valid.copy()
        if ok is not None:
            fitting[valid] &= ok
        return Reading(form, full, fitting, numbers=True, **more)

    years_alone = integers and cells.min() >= FIRST_YEAR and last < 2500
    if years_alone:
        yield read("years", cells, plain=True, freq="YS")
    if integers and len(widths) <= 2:
        yield from _digit_readings(parts, valid, int(parts.widths[valid, 0].max()), order)
    if years_alone:
        return
    if cells.min() >= FIRST_YEAR and last < 2500:
        yield from _decimal_years(values, valid, digits, whole, parts.numbers[:, 1], read)
        return
    if (
        integers
        and ((cells // 1000 >= FIRST_YEAR) & (cells // 1000 < 2200) & (cells % 1000 <= 366)).all()
        and last >= 1.5e6
    ):
        days, ok = year_days(cells.astype(np.int64) // 1000, cells.astype(np.int64) % 1000)
        if ok.all():
            yield read("years and days of the year (YYYYDDD)", days * DAY)
            return
    years, quarters = np.divmod(whole[valid], 10)
    if integers and ((years >= 1900) & (years < 2100) & (quarters >= 1) & (quarters <= 4)).all():
        days, _ = days_of(years, 3 * quarters - 2, np.ones_like(years))
        yield read("years and quarters (YYYYQ)", days * DAY, freq="QS-JAN", strict=True)
    if cells.min() >= 20_000 and last < 80_000:
        seconds = np.round((cells - 25_569) * 86_400).astype(np.int64)
        note = "numbers are read as Excel's serial numbers of days (45292 is 2024-01-01)"
        yield read("Excel's serial numbers", seconds * SECOND, note=note)
        return
    for name, scale in (("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)):
        if 1e8 * scale <= cells.min() and last < 5e9 * scale:
            if not integers:
                scaled = np.round(cells * 1000).astype(np.int64) * 1000 // scale
            elif scale <= SECOND:
                scaled = whole[valid] * (SECOND // scale)
            else:
                scaled = whole[valid] // (scale // SECOND)
            yield read(f"{name} since 1970", scaled, note=f"numbers are read as {name} since 1970, in UTC")
            return
    yield read("counted steps" if integers else "numbers", cells, plain=True)


def _digit_readings(parts: Parts, valid: Bools, width: int, order: Order | None) -> Iterable[Reading]:
    """Dates without separators, of one number of digits: 20240131, 202401, 2024013112."""
    clock_digits = {10: 2, 12: 4, 14: 6}.get(width, 0)
    dated = parts
    clock: Any = 0
    if clock_digits:
        number = parts.numbers[:, 0]
        rest = number % 10**clock_digits * 10 ** (6 - clock_digits)
        hours, minutes, seconds = rest // 10**4, rest // 100 % 100, rest % 100
        clock = (3600 * hours + 60 * minutes + seconds) * SECOND
        valid_clock = (hours <= 24) & (minutes < 60) & (seconds < 61)
        dated = replace(parts, numbers=parts.numbers // 10**clock_digits)
        width = 8
    known = digit_options(width)[: 1 if clock_digits else None]
    heeded = [option for option in known if option.order == order] if order else []
    for option in heeded or known:
        form = option.form
        days, ok = np.zeros(len(valid), dtype=np.int64), np.zeros(len(valid), dtype=bool)
        days[valid], ok[valid] = option.days(dated, valid)
        ok &= parts.widths[:, 0] == width + clock_digits
        if clock_digits:
            ok &= valid_clock
            ok &= (days >= -62_100) & (days < 84_000)  # 1800 to 2199: else they are seconds since 1970
            form += "HHMMSS"[:clock_digits]
        fits = float(ok[valid].mean())
        if fits == 1 or (fits >= 0.9 and not option.strict and not clock_digits):
            yield Reading(form, days * DAY + clock, ok, option.order, option.freq, True, strict=option.strict)
            if fits == 1 and option.order is None and not option.strict:
                return


def _decimal_years(
    values: NDArray[np.float64], valid: Bools, digits: Ints, years: Ints, fractions: Ints, read: Callable[..., Reading]
) -> Iterable[Reading]:
    """Years with a fraction: months (1949.083), weeks, days; or the month after the point (2015.01, ..., 2015.12)."""
    cells, year = values[valid], years[valid]
    width, after = digits[valid], fractions[valid]
    if after.min() >= 1 and after.max() == 12 and ((width == 1) == (after < 10)).all():
        note = "numbers are read as years and months (2015.1 is January 2015, 2015.10 October)"
        yield read("YYYY.M", month_start((year - 1970) * 12 + after - 1) * DAY, freq="MS", note=note)
        return
    error = 0.6 * 10.0 ** -float(digits[valid].max())
    months = np.round(cells * 12).astype(np.int64)
    if (np.abs(cells * 12 - months) <= 12 * error + 1e-6).all() and 12 * error < 0.25:
        note = "numbers are read as years with a fraction (1949.25 is April 1949)"
        yield read("decimal years", month_start(months - 1970 * 12) * DAY, freq="MS", note=note)
        return
    after = np.round((cells - year) * 100).astype(np.int64)
    if digits[valid].max() <= 2 and (after >= 1).all() and (after <= 12).all():
        note = "numbers are read as years and months (2015.01 is January 2015)"
        yield read("YYYY.MM", month_start((year - 1970) * 12 + after - 1) * DAY, freq="MS", note=note)
        return
    # The middles of months: the day is not said, the month is.
    middle = np.floor(cells * 12).astype(np.int64)
    if len(cells) > 2 and (np.abs(cells * 12 - middle - 0.5) <= 12 * error + 0.05).all():
        note = "numbers are read as years with a fraction, at the middles of months"
        yield read("decimal years", month_start(middle - 1970 * 12) * DAY, freq="MS", note=note)
        return
    weeks = np.round(cells * 52).astype(np.int64)
    first, _ = days_of(year, np.ones_like(year), np.ones_like(year))
    if (np.abs(cells * 52 - weeks) <= 52 * error + 1e-6).all() and 52 * error < 0.25:
        start = int(first.min()) + 7 * int(weeks.min() - 52 * year.min())
        note = "numbers are read as years with 52 weeks"
        yield read("decimal years", (start + 7 * (weeks - weeks.min())) * DAY, note=note)
        return
    length, _ = days_of(year + 1, np.ones_like(year), np.ones_like(year))
    exact = first + (cells - year) * (length - first)
    near = np.abs(exact - np.round(exact)) <= 366 * error + 0.01
    times = np.round(exact) * DAY if near.all() else np.round(exact * 86_400) * SECOND
    yield read("decimal years", times.astype(np.int64), note="numbers are read as years with a fraction")

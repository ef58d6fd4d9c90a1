"""Finds the rule that times follow: exactly, or straying from their places a little. Knows nothing of files.

No grid is built here: a rule tells by arithmetic how long it would be.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from carry.times.calendars import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    SEVERAL_A_MONTH,
    WEEK,
    WEEKDAYS,
    Fiscal,
    Frequency,
    Ints,
    Months,
    Rule,
    Ticks,
    Weekdays,
    bind,
    days_in_month,
    month_of,
    read_frequency,
    time_of_day,
    usual_phase,
    weekday,
)
from carry.times.clocks import Clock

MAX_SPREAD = 2
"""Places of a grid per value, at most, if most values have gaps between them."""
MAX_SPREAD_DENSE = 10
"""The same, if at least half of the values follow upon the one before: there are a few long gaps."""
MAX_SPREAD_KNOWN = (20, 1000)
"""The same, per value and besides, of a frequency that the caller or the file names."""
MIN_SNAPPED = 4
"""Fewer times are not moved to a grid: they would fit too many."""
MAX_STRAY, MAX_USUAL_STRAY = 0.45, 0.25
"""How far times may be from their places, in steps: all of them, and 95 % of them."""
MAX_STRAY_MONTHS = 4 * DAY
"""The same for steps of months."""
NICE_MONTHS = (1, 2, 3, 4, 6, 12)
NICE_STEPS = (
    *(count * SECOND for count in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)),
    *(count * MINUTE for count in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)),
    *(count * HOUR for count in (1, 2, 3, 4, 6, 8, 12)),
    *(DAY, WEEK, 2 * WEEK, 4 * WEEK),
)
"""Steps that two times alone may have, and that straying times are moved to."""


class IrregularTimesError(ValueError):
    """The times of a series follow no frequency, or not the one asked for; the message is a sentence about "its times"
    that says what stands in the way (a time far from the others, the steps that there are)."""


def follow_panel(clock: Clock, frequency: Frequency) -> tuple[Rule, Ints] | None:
    """The rule of the other series of a file, and the places of the times, if they follow it and no other one better.
    The days of a short series may be others than theirs: a week from Sunday among weeks from Monday."""
    exact: tuple[Rule, Ints] | None = None
    looked = False
    loose = replace(frequency, anchor=None, day="") if frequency.unit in ("W", "M", "Q", "Y") else read_frequency("D")
    for each in (frequency, loose)[: 2 if len(clock.wall) < 3 and (not frequency.step or frequency.unit == "W") else 1]:
        for rule in bound(clock, each):
            places = clock.places(rule)
            if places is None or not is_known_dense(places):
                continue
            if len(places) == grid_size(places):
                return rule, places
            if not looked:
                looked, exact = True, find_rule(clock)
            regular = exact is not None and len(exact[1]) == grid_size(exact[1])
            if not regular or len(places) < (6 if is_dense(places) else 4):
                return rule, places
    return exact


def grid_size(places: Ints) -> int:
    return int(places[-1] - places[0]) + 1


def is_dense(places: Ints) -> bool:
    """Whether the times follow a frequency that nobody named: its grid is not much longer than they are."""
    dense = len(places) > 2 and 2 * int((np.diff(places) == 1).sum()) >= len(places) - 1
    return grid_size(places) <= (MAX_SPREAD_DENSE if dense else MAX_SPREAD) * len(places) + 1


def is_known_dense(places: Ints) -> bool:
    per_value, besides = MAX_SPREAD_KNOWN
    return grid_size(places) <= per_value * len(places) + besides


def find_rule(clock: Clock) -> tuple[Rule, Ints] | None:
    """The rule that has all times, exactly, and their places: of several the coarsest, whose grid is the shortest."""
    best: tuple[Rule, Ints] | None = None
    for rule in _candidates(clock):
        places = clock.places(rule)
        if places is not None and is_dense(places) and (best is None or grid_size(places) < grid_size(best[1])):
            best = rule, places
            if grid_size(places) == len(places):
                break
    return best


def _candidates(clock: Clock) -> Iterator[Rule]:
    """The rules that the times may follow. Of those that fit alike, the first is meant."""
    count = len(clock.wall)
    if count < 2:
        return
    wall, at = clock.wall, time_of_day(clock.wall)
    days = wall // DAY
    if (np.diff(days) > 0).all():
        yield from _monthly(wall, at)
        step = int(np.gcd.reduce(np.diff(days))) * DAY
        if count > 2 or step in NICE_STEPS:
            yield Ticks(step, (int(days[0]) * DAY + at) % step, True)
        if (weekday(wall) < 5).all() and (step // DAY in (1, 3)):
            yield Weekdays(at)
    for times, by_wall in ((clock.passed, False), (wall, True))[: 1 if clock.index.tz is None else 2]:
        steps = np.diff(times)
        step = int(np.gcd.reduce(steps)) if (steps > 0).all() else 0
        if step > 0 and step % DAY and (count > 2 or step in NICE_STEPS):
            yield Ticks(step, int(times[0]) % step, by_wall)
    yield from _fiscal(wall, at)


def _monthly(wall: Ints, at: int) -> Iterator[Rule]:
    """Rules of times that are in different months, or on a few days of each."""
    months, dates = month_of(wall), days_in_month(wall)
    if (np.diff(months) > 0).all():
        count = int(np.gcd.reduce(np.diff(months)))
        if len(wall) == 2 and count not in NICE_MONTHS:
            return
        yield from (Months(count, int(months[0]), (day,), at) for day in _days(wall, dates, count))
    elif len(np.unique(dates)) <= 6:  # the last days of months are four
        for days in SEVERAL_A_MONTH.values():
            yield Months(1, int(months[0]), days, at)


def _days(wall: Ints, dates: Ints, count: int) -> Iterator[str]:
    """The days of every `count`th month that times may all be on, as `day_of_month` calls them. The day of February is
    cut from that of the others. Quarters and years on one weekday have weeks (`_fiscal`)."""
    yield from ("S", "E")
    if dates.max() > 1:
        yield str(int(dates.max()))
    yield from ("BS", "BE")
    if len(wall) > 2 and count < 3 and (weekday(wall) == weekday(wall)[0]).all():
        day = WEEKDAYS[int(weekday(wall)[0])]
        nth = (dates - 1) // 7 + 1
        if nth[0] < 5:
            yield f"WOM-{nth[0]}{day}"
        yield f"LWOM-{day}"
    if len(wall) > 2:
        yield "MID"


def _fiscal(wall: Ints, at: int) -> Iterator[Rule]:
    """Rules of years of 52 or 53 weeks, for times that are whole weeks apart, but not always as many."""
    steps = np.diff(wall)
    if len(wall) < 4 or (steps % WEEK).any():
        return
    weeks = int(np.median(steps // WEEK))
    patterns = {4: RETAIL, 5: RETAIL, 13: ("REQ",), 52: ("RE",)}.get(weeks, ())
    days = {starts: int(weekday(wall[:1] - DAY * starts)[0]) for starts in (False, True)}
    years = [(ending, month) for month in (0, 11, 8, 5, 2, 1, 3, 4, 6, 7, 9, 10) for ending in "NL"]
    rules = [
        Fiscal(pattern, starts, ending, month, day, at)
        for ending, month in years
        for starts, day in days.items()
        for pattern in patterns
    ]
    # Until a year of 53 weeks tells them apart, several fit: retail's own calendar first, years that end on Saturday.
    yield from sorted(
        rules, key=lambda rule: ((rule.ending, rule.month, rule.weekday) != ("N", 0, 5), rule.weekday != 5)
    )


RETAIL = ("454", "445", "544")
"""The weeks of the months of a quarter."""


def bound(clock: Clock, frequency: Frequency) -> Iterator[Rule]:
    """The rule of a named frequency, by the clock that it counts by; hours, if not by that, by the one on the wall."""
    by_wall = not frequency.step or frequency.step % DAY == 0
    rule = bind(frequency, clock.wall if by_wall else clock.passed)
    yield rule
    if isinstance(rule, Ticks) and not by_wall and clock.index.tz is not None:
        yield replace(rule, phase=usual_phase(clock.wall, rule.step), by_wall=True)


def follow(clock: Clock, frequency: Frequency) -> tuple[Rule, Ints]:
    """The rule of the frequency that the caller names, and the places of the times.

    Raises:
        IrregularTimesError: the times are not those of it.
    """
    rules = list(bound(clock, frequency))
    for rule in rules:
        places = clock.places(rule)
        if places is None:
            places = _strayed(rule, clock.of(rule))
        if places is None:
            continue
        if not is_known_dense(places):
            raise IrregularTimesError(
                f"its times, from {_text(clock, 0)} to {_text(clock, -1)}, are {grid_size(places):,} steps of "
                f"{frequency.name} for {len(places)} values" + _outlier(clock, frequency)
            )
        return rule, places
    rule, times = rules[0], clock.of(rules[0])
    places = rule.places(times)
    same = np.flatnonzero(np.diff(places) <= 0)
    if len(same):
        first = int(same[0])
        raise IrregularTimesError(
            f"its times {_text(clock, first)} and {_text(clock, first + 1)} are in one step of {frequency.name}"
        )
    wrong = int(np.argmax(np.abs(rule.times(places) - times)))
    raise IrregularTimesError(f"its times do not follow the frequency {frequency.name}: {_text(clock, wrong)} is none")


def find_near_rule(clock: Clock) -> tuple[Rule, Ints] | None:
    """The rule of times that stray from their places a little, and the places."""
    if len(clock.wall) < MIN_SNAPPED:
        return None
    best: tuple[float, Rule, Ints] | None = None
    for rule in _near_candidates(clock):
        times = clock.of(rule)
        places = _strayed(rule, times)
        if places is None or not is_dense(places):
            continue
        stray = np.abs(rule.times(places) - times)
        score = float((stray > 0).mean() + stray.mean() / DAY / 1000)
        if best is None or score < best[0]:
            best = score, rule, places
    return None if best is None else best[1:]


def _near_candidates(clock: Clock) -> Iterator[Rule]:
    wall, passed = clock.wall, clock.passed
    step = int(np.median(np.diff(passed)))
    if step > 25 * DAY:
        months = month_of(wall + 5 * DAY)  # the 29th may stand for the first
        count = max(int(np.gcd.reduce(np.diff(months))), 1)
        at, first = time_of_day(wall), int(month_of(wall[:1])[0])
        usual = str(int(np.median(days_in_month(wall))))
        weekdays = (weekday(wall) < 5).all()
        for day in (*(("BE", "BS") if weekdays else ()), "E", "S", usual, "MID"):
            yield Months(count, first, (day,), at)
        return
    for nice in NICE_STEPS:
        if 0.6 * nice < step < 1.6 * nice:
            by_wall = nice >= DAY
            yield Ticks(nice, usual_phase(wall if by_wall else passed, nice), by_wall)


def _strayed(rule: Rule, times: Ints) -> Ints | None:
    """The places (N,) nearest to the times, if none is far from its place and no two share one; else None."""
    places = rule.places(times)
    if len(times) < MIN_SNAPPED or (np.diff(places) <= 0).any():
        return None
    stray = np.abs(rule.times(places) - times)
    if isinstance(rule, Ticks):
        near = stray.max() <= MAX_STRAY * rule.step and np.quantile(stray, 0.95) <= MAX_USUAL_STRAY * rule.step
        near = near and (rule.step < DAY or 2 * (stray < DAY // 2).sum() >= len(times))
    else:
        near = isinstance(rule, Months) and len(rule.days) == 1 and stray.max() <= MAX_STRAY_MONTHS
    return places if near else None


def why_irregular(clock: Clock) -> str:
    outlier = _outlier(clock, None)
    if outlier:
        return f"its times do not follow a frequency{outlier}"
    steps, counts = np.unique(np.diff(clock.passed), return_counts=True)
    usual = ", ".join(
        f"{length_text(int(steps[i]))} ({counts[i]}x)" for i in np.argsort(-counts, kind="stable")[:3].tolist()
    )
    rest = len(steps) - 3
    more = f" and {rest} other{'s' * (rest > 1)}" if rest > 0 else ""
    return (
        f"its times do not follow a frequency: the steps between them are {usual}{more}; give theirs with --freq (such "
        "as MS, D or h), or --freq rank: each row is a step"
    )


def _outlier(clock: Clock, frequency: Frequency | None) -> str:
    """What to say of a first or last time without which the others are regular; "" if there is none."""
    for wrong, rest in ((-1, slice(None, -1)), (0, slice(1, None))):
        others = Clock(clock.index[rest])
        if len(others.wall) < 2:
            continue
        if frequency is None:
            exact = find_rule(others)
        else:
            rule = next(bound(others, frequency))
            places = others.places(rule)
            exact = (rule, places) if places is not None and is_known_dense(places) else None
        if exact is not None:
            return (
                f": {_text(clock, wrong)} is far from the others, which are {exact[0].name} from {_text(others, 0)} to "
                f"{_text(others, -1)}"
            )
    return ""


def _text(clock: Clock, i: int) -> str:
    stamp = clock.index[i]
    return str(stamp.date()) if stamp == stamp.normalize() else str(stamp)


def length_text(microseconds: int) -> str:
    """A length of time in words."""
    for name, length in (("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", SECOND)):
        if microseconds >= length:
            count = round(microseconds / length, 1)
            return f"{count:g} {name}{'s' * (count != 1)}"
    return f"{microseconds / SECOND:g} seconds"

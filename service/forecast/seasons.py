"""The usual seasons of series by their frequency: the one table of them. Imports nothing of ours.

`timestamps.seasons_of` looks up pandas' names in it for the service, `carry/files.py` for series in files.
"""

_DAY_SECONDS = 86_400
UNIT_SECONDS = {"W": 7 * _DAY_SECONDS, "D": _DAY_SECONDS, "H": 3600, "T": 60, "S": 1}
"""Units of a fixed length; T are minutes."""
CYCLES: dict[str, tuple[int, ...]] = {"Y": (1,), "Q": (4,), "M": (12,), "W": (52,), "D": (7,), "B": (5,)}
"""Values per season, with one value per unit. Units shorter than a day have the day and the week."""


def usual_seasons(unit: str, count: int = 1) -> tuple[int, ...] | None:
    """The usual seasons of series with a value every `count` units, in values, ascending: the week of daily series, the
    day and the week of hourly ones; (1,) is none. None where there is no rule: a season is no whole number of values.
    """
    cycles = CYCLES.get(unit)
    if cycles is None:
        cycles = (_DAY_SECONDS // UNIT_SECONDS[unit], 7 * _DAY_SECONDS // UNIT_SECONDS[unit])
    if unit != "Y" and any(cycle % count for cycle in cycles):
        return None
    return tuple(cycle // count for cycle in cycles if cycle // count > 1) or (1,)

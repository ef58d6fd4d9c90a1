"""Makes the samples of the page that are not measured: a web server's hourly requests and a shop's daily demand.

The same seed writes the same files (`python tests/page/samples.py`); a test compares them. The third, `co2.csv`, is
measured: monthly carbon dioxide over Mauna Loa, in the public domain, the file of `examples/`.
"""

from datetime import datetime, timedelta
from math import cos, exp, pi
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parents[2] / "service" / "page" / "samples"
SEED = 19
HOURS = 21 * 24
DAYS = 26 * 7


def poisson(random: Random, mean: float) -> int:
    """A count of that mean: how many steps of an exponential clock fit into it."""
    count, clock = 0, 0.0
    while True:
        clock += random.expovariate(1.0)
        if clock > mean:
            return count
        count += 1


def requests(random: Random) -> list[str]:
    """Requests an hour of three weeks: busy afternoons, quiet weekends; one outage of two hours, one rush of one."""
    rows, start, drift = ["time,requests"], datetime(2026, 3, 2), 0.0
    for hour in range(HOURS):
        time = start + timedelta(hours=hour)
        drift = 0.9 * drift + random.gauss(0, 0.04)
        day = 0.35 + 0.65 * (1 - cos(2 * pi * (time.hour - 4) / 24)) / 2 + 0.12 * cos(4 * pi * (time.hour - 11) / 24)
        week = 0.62 if time.weekday() >= 5 else 1.0
        mean = 900 * day * week * exp(drift)
        mean *= 0.05 if hour in (278, 279) else 1.9 if hour == 396 else 1.0
        rows.append(f"{time:%Y-%m-%d %H:%M},{poisson(random, mean)}")
    return rows


def demand(random: Random) -> list[str]:
    """Items sold a day of half a year: bread (weekends), coffee (grows; not counted on four days), umbrellas (rain)."""
    rows, start, rain = ["date,bread,coffee,umbrellas"], datetime(2026, 1, 5), 0.0
    by_weekday = (0.8, 0.75, 0.8, 0.9, 1.2, 1.7, 0.85)
    for day in range(DAYS):
        date = start + timedelta(days=day)
        bread = poisson(random, 48 * by_weekday[date.weekday()])
        coffee = poisson(random, (20 + 0.09 * day) * (1.35 if date.weekday() < 5 else 0.7))
        rain = 0.75 * rain + random.gauss(0, 0.9)
        umbrellas = poisson(random, 0.5 * exp(min(rain, 2.5)))
        rows.append(f"{date:%Y-%m-%d},{bread},{'' if 100 <= day < 104 else coffee},{umbrellas}")
    return rows


def made() -> dict[str, str]:
    """The files, by name."""
    return {
        f"{name}.csv": "\n".join(rows) + "\n"
        for name, rows in {"requests": requests(Random(SEED)), "demand": demand(Random(SEED))}.items()
    }


if __name__ == "__main__":
    for name, text in made().items():
        (FOLDER / name).write_text(text, encoding="utf-8")

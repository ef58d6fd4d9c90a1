"""Makes the data of the examples `server-metric` and `shop-demand`, which nobody measured.

The same seeds write the same files: `python examples/make_data.py`.
"""

import csv
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
Floats = NDArray[np.float64]

MONITORED_FROM, MONITORED_DAYS, PER_HOUR = datetime(2026, 3, 2), 10, 3
"""A Monday; a value every twenty minutes."""

DECIMALS = {"requests": 0, "latency": 1}


class Planted(NamedTuple):
    """An anomaly that is put into a metric. factor: of its values; None: they stop moving."""

    metric: str
    day: int
    hour: float
    values: int
    factor: float | None
    what: str


PLANTED = [
    Planted("requests", 3, 13 + 1 / 3, 1, 0.55, "a dip"),
    Planted("requests", 4, 3 + 1 / 3, 4, 1.6, "a crawler at night"),
    Planted("requests", 5, 10.0, 3, 0.05, "an outage"),
    Planted("requests", 6, 15.0, 6, 0.85, "a little less for two hours"),
    Planted("requests", 7, 12 + 1 / 3, 1, 1.5, "a spike"),
    Planted("requests", 7, 22.0, 1, 0.75, "the job that did not run"),
    Planted("requests", 8, 2 + 2 / 3, 2, 0.4, "too little at night"),
    Planted("requests", 8, 16.0, 6, None, "a counter that has stopped"),
    Planted("requests", 9, 4 + 1 / 3, 1, 1.6, "a spike at night"),
    Planted("requests", 9, 9.0, 4, 0.7, "a third of the servers is gone"),
    Planted("requests", 9, 19.0, 4, 1.35, "a rush in the evening"),
    Planted("latency", 2, 20 + 1 / 3, 1, 2.0, "a spike"),
    Planted("latency", 3, 11.0, 5, 1.35, "a step for more than an hour"),
    Planted("latency", 4, 5 + 1 / 3, 1, 1.4, "a spike at night"),
    Planted("latency", 6, 16 + 1 / 3, 1, 1.5, "a spike"),
    Planted("latency", 7, 13.0, 4, 0.6, "errors that answer fast"),
    Planted("latency", 8, 12 + 1 / 3, 1, 1.25, "a small spike"),
    Planted("latency", 8, 17.0, 2, 1.6, "a slow disk"),
    Planted("latency", 9, 3.0, 4, None, "a gauge that has stopped"),
    Planted("latency", 9, 15.0, 4, 1.4, "a step for an hour"),
]


def monitored() -> dict[str, Floats]:
    """What a server's monitoring would record: requests per second, with a job of twenty minutes every hour, and the
    latency in milliseconds; both with a day and a quieter weekend."""
    random = np.random.default_rng(19)
    steps = np.arange(MONITORED_DAYS * 24 * PER_HOUR)
    hours, weekday = steps % (24 * PER_HOUR) / PER_HOUR, steps // (24 * PER_HOUR) % 7
    daylight = np.clip(np.sin(np.pi * (hours - 6) / 17), 0, None)
    load = 0.35 + 0.65 * daylight**1.2 * np.where(weekday >= 5, 0.7, 1)
    requests = 900 * load * np.exp(wandering(random, len(steps), 0.95, 0.02)) * random.normal(1, 0.04, len(steps))
    requests += np.where(steps % PER_HOUR == 0, 130 * random.normal(1, 0.05, len(steps)), 0)
    latency = (38 + 30 * load**2) * np.exp(random.normal(0, 0.06, len(steps)))
    latency *= np.where(steps % PER_HOUR == 0, 1.35, 1)
    return {"requests": requests, "latency": latency}


def plant(metrics: dict[str, Floats]) -> None:
    """Put the anomalies into the metrics."""
    for planted in PLANTED:
        first = round((planted.day * 24 + planted.hour) * PER_HOUR)
        values = metrics[planted.metric][first : first + planted.values]
        values[:] = values[0] if planted.factor is None else values * planted.factor


def make_server_metric(folder: Path) -> None:
    """metrics.csv and planted.csv."""
    metrics = monitored()
    plant(metrics)
    times = [MONITORED_FROM + timedelta(hours=step / PER_HOUR) for step in range(MONITORED_DAYS * 24 * PER_HOUR)]
    rows = [
        (f"{time:%Y-%m-%dT%H:%M}", name, f"{values[step]:.{DECIMALS[name]}f}")
        for step, time in enumerate(times)
        for name, values in metrics.items()
    ]
    write(folder / "metrics.csv", ["time", "metric", "value"], rows)
    spans = []
    for planted in PLANTED:
        first = MONITORED_FROM + timedelta(days=planted.day, minutes=round(planted.hour * 60))
        last = first + timedelta(hours=(planted.values - 1) / PER_HOUR)
        spans.append((planted.metric, f"{first:%Y-%m-%dT%H:%M}", f"{last:%Y-%m-%dT%H:%M}", planted.what))
    write(folder / "planted.csv", ["metric", "first", "last", "what"], spans)


SOLD_FROM, SOLD_WEEKS = date(2024, 1, 1), 104
"""A Monday."""
CLOSED = {(1, 1), (5, 1), (12, 25), (12, 26)}
"""Month and day of the holidays; the shop is closed on Sundays, too."""
WEEKDAYS = np.array([0.85, 0.8, 0.9, 1.0, 1.3, 1.5, 0.0])


class Product(NamedTuple):
    """name; a_day: mean demand; yearly: how much more or less of it in summer; promoted: factor in a promotion."""

    name: str
    a_day: float
    yearly: float
    promoted: float


PRODUCTS = [
    Product("coffee beans", 14, 0.0, 1.9),
    Product("bread flour", 22, -0.1, 1.75),
    Product("olive oil", 6, 0.15, 1.7),
    Product("tea", 9, -0.25, 1.8),
    Product("pepper mill", 0.5, 0.1, 2.0),
]


def make_shop_demand(folder: Path) -> None:
    """sales.csv: a row for each product and open day."""
    random = np.random.default_rng(7)
    days = [SOLD_FROM + timedelta(days=day) for day in range(7 * SOLD_WEEKS)]
    closed = np.array([day.weekday() == 6 or (day.month, day.day) in CLOSED for day in days])
    weekday = WEEKDAYS[[day.weekday() for day in days]]
    rows = []
    for product in PRODUCTS:
        yearly = 1 + product.yearly * np.cos(2 * np.pi * (np.arange(len(days)) - 200) / 365)
        promotion = np.zeros(len(days), bool)
        for quarter in range(SOLD_WEEKS // 13):
            monday = 7 * int(random.integers(13 * quarter + 1, 13 * quarter + 12))
            promotion[monday : monday + 6] = True
        demand = product.a_day * yearly * weekday * np.exp(wandering(random, len(days), 0.98, 0.02))
        demand *= np.where(promotion, product.promoted, 1)
        # The variance of a negative binomial is mean + mean^2 / 8: customers come in waves.
        sold = random.negative_binomial(8, 8 / (8 + demand)) if product.a_day > 1 else random.poisson(demand)
        rows += [
            (day.isoformat(), product.name, int(count), int(promoted))
            for day, count, promoted, shut in zip(days, sold, promotion, closed, strict=True)
            if not shut
        ]
    write(folder / "sales.csv", ["date", "product", "sold", "promotion"], rows)


def wandering(random: np.random.Generator, count: int, memory: float, step: float) -> Floats:
    """A first-order autoregression (count,) from 0."""
    values = np.zeros(count)
    for i, change in enumerate(random.normal(0, step, count - 1), 1):
        values[i] = memory * values[i - 1] + change
    return values


def write(path: Path, names: list[str], rows: Iterable[tuple[object, ...]]) -> None:
    """A CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


if __name__ == "__main__":
    make_server_metric(FOLDER / "server-metric")
    make_shop_demand(FOLDER / "shop-demand")

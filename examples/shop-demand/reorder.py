"""From a shop's daily sales to what to order on Monday: a table, and a CSV file.

An order must cover the demand until the next one has come: the lead time and the week between two orders, rounded up to
whole weeks. What must be in stock is a quantile of the demand of all these days together. It is no sum of the days'
quantiles: one bad day is likely, only bad days are not. So the days are summed first, in periods as long as what is to
be covered, and the period after them is forecast: its quantile is the answer.

Whole weeks have the same weekdays. A period counts its mean demand an open day, for weeks with holidays, without what
promotions added; what is forecast is multiplied by the open days ahead, and by what their promotions will add.
"""

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from statistics import fmean
from typing import NamedTuple

import carry

BETWEEN_ORDERS = 7
"""Days."""


class Item(NamedTuple):
    """A line of stock.csv. level: the probability in percent that the stock is to suffice; pack: pieces that are sold
    together."""

    product: str
    on_hand: int
    on_order: int
    lead_days: int
    level: float
    pack: int

    @property
    def days(self) -> int:
        """What an order covers."""
        return 7 * math.ceil((self.lead_days + BETWEEN_ORDERS) / 7)

    def order(self, needed: float) -> int:
        """Pieces to order where so many are needed."""
        return max(0, math.ceil((needed - self.on_hand - self.on_order) / self.pack)) * self.pack


@dataclass
class Sales:
    """Of one product: how many were sold on each open day, and which days have a promotion, planned ones too. On a day
    that is not among those sold, the shop was closed."""

    sold: dict[date, float] = field(default_factory=dict)
    promoted: set[date] = field(default_factory=set)

    def before(self, day: date) -> "Sales":
        """What is known in the morning of a day. Promotions are known ahead."""
        return Sales({at: count for at, count in self.sold.items() if at < day}, self.promoted)

    def periods(self, monday: date, days: int) -> list[float | None]:
        """Usual sales an open day of consecutive periods of so many days, the last one up to the Monday; None where the
        shop was closed for a whole period."""
        uplift, first = self.uplift(), min(self.sold)
        periods: list[float | None] = []
        while (monday := monday - timedelta(days=days)) >= first:
            usual = [
                self.sold[day] / (uplift if day in self.promoted else 1)
                for day in days_from(monday, days)
                if day in self.sold
            ]
            periods.append(fmean(usual) if usual else None)
        return periods[::-1]

    def usual_days(self, open_days: Collection[date]) -> float:
        """How many usual open days these days are worth: more if some of them have a promotion."""
        weekdays, uplift = self.weekdays(), self.uplift()
        usual = sum(weekdays[day.weekday()] for day in open_days)
        expected = sum(weekdays[day.weekday()] * (uplift if day in self.promoted else 1) for day in open_days)
        return len(open_days) * expected / usual if usual else len(open_days)

    def uplift(self) -> float:
        """Sales in promotions, over usual sales on the same weekdays; at least 1."""
        weekdays, past = self.weekdays(), self.promoted & self.sold.keys()
        usual = sum(weekdays[day.weekday()] for day in past)
        return max(1.0, sum(self.sold[day] for day in past) / usual) if usual else 1.0

    def weekdays(self) -> Mapping[int, float]:
        """Mean sales of each weekday without promotions."""
        counts: defaultdict[int, list[float]] = defaultdict(list)
        for day in self.sold.keys() - self.promoted:
            counts[day.weekday()].append(self.sold[day])
        return defaultdict(float, {weekday: fmean(each) for weekday, each in counts.items()})


def needed(
    model: carry.LocalModel,
    sales: Sequence[Sales],
    mondays: Sequence[date],
    days: int,
    level: float,
    closed: Collection[date],
) -> list[float]:
    """For each product, the stock that suffices for so many days from its Monday on. level: the probability in %."""
    periods = [each.before(monday).periods(monday, days) for each, monday in zip(sales, mondays, strict=True)]
    forecasts = model.forecast(periods, 1, quantiles=[level / 100], non_negative=True)
    return [
        float(forecast.quantiles[level / 100][0])
        * each.before(monday).usual_days([day for day in days_from(monday, days) if is_open(day, closed)])
        for each, monday, forecast in zip(sales, mondays, forecasts, strict=True)
    ]


def days_from(first: date, count: int) -> list[date]:
    """Consecutive days."""
    return [first + timedelta(days=day) for day in range(count)]


def is_open(day: date, closed: Collection[date]) -> bool:
    """Whether the shop sells on a day: not on Sundays and holidays."""
    return day.weekday() != 6 and day not in closed


def read_sales(path: str) -> dict[str, Sales]:
    """sales.csv, by product: date, product, sold, promotion (1 or 0)."""
    products: defaultdict[str, Sales] = defaultdict(Sales)
    for row in rows(path):
        sales, day = products[row["product"]], date.fromisoformat(row["date"])
        sales.sold[day] = float(row["sold"])
        if row["promotion"] == "1":
            sales.promoted.add(day)
    return dict(products)


def read_plan(path: str, products: Mapping[str, Sales]) -> set[date]:
    """plan.csv: from first to last, a promotion of a product, or for all the shop is closed (no product). Adds the
    promotions to the products, and returns the closed days."""
    closed = set()
    for row in rows(path):
        first, last = date.fromisoformat(row["first"]), date.fromisoformat(row["last"])
        days = days_from(first, (last - first).days + 1)
        if row["product"]:
            products[row["product"]].promoted.update(days)
        else:
            closed.update(days)
    return closed


def rows(path: str) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return [*csv.DictReader(file)]


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="What to order on the Monday after the last sale.")
    parser.add_argument("--sales", default="sales.csv")
    parser.add_argument("--stock", default="stock.csv")
    parser.add_argument("--plan", default="plan.csv", help="promotions and holidays ahead")
    parser.add_argument("--out", default="orders.csv")
    options = parser.parse_args()
    products = read_sales(options.sales)
    closed = read_plan(options.plan, products)
    last = max(max(sales.sold) for sales in products.values())
    monday = last + timedelta(days=7 - last.weekday())
    print(f"Orders of Monday {monday}")
    names = ["product", "days", "level", "needed", "on_hand", "on_order", "order"]
    print("{:<14}{:>6}{:>7}{:>8}{:>9}{:>10}{:>7}".format(*names))
    with carry.load("forecast") as model, open(options.out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows(options.stock):
            name, *numbers = row.values()
            item = Item(name, *map(int, numbers))
            [need] = needed(model, [products[name]], [monday], item.days, item.level, closed)
            line = (name, item.days, item.level, math.ceil(need), item.on_hand, item.on_order, item.order(need))
            print("{:<14}{:>6}{:>7}{:>8}{:>9}{:>10}{:>7}".format(*line))
            writer.writerow(line)


if __name__ == "__main__":
    main()

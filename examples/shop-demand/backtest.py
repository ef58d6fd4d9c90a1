"""How often the stock that `reorder.py` asks for would have sufficed: on each Monday of the last year, with what was
known then. Beside it the textbook's formula (mean and standard deviation of the last 26 weeks, times z), and what the
sum of the days' quantiles would ask for.
"""

import math
from collections.abc import Sequence
from datetime import date, timedelta
from statistics import NormalDist, fmean, stdev

from reorder import Item, Sales, days_from, needed, read_sales, rows

import carry

MONDAYS = 52


def formula(sales: Sales, open_days: Sequence[date], level: float) -> float:
    """Mean demand of the days, and z standard deviations of a day times the root of their number."""
    uplift = sales.uplift()
    days = sorted(sales.sold)[-26 * 6 :]
    usual = [sales.sold[day] / (uplift if day in sales.promoted else 1) for day in days]
    count = sales.usual_days(open_days)
    return count * fmean(usual) + NormalDist().inv_cdf(level / 100) * stdev(usual) * math.sqrt(count)


def summed(model: carry.LocalModel, sales: Sequence[Sales], periods: Sequence[list[date]], level: float) -> list[float]:
    """The sums of the quantiles of the open days of each period, each forecast by itself."""
    series = []
    for each, period in zip(sales, periods, strict=True):
        first, uplift = min(each.sold), each.uplift()
        days = days_from(first, (period[0] - first).days)
        series.append(
            [each.sold[day] / (uplift if day in each.promoted else 1) if day in each.sold else None for day in days]
        )
    length = (periods[0][-1] - periods[0][0]).days + 1
    forecasts = model.forecast(series, length, quantiles=[level / 100], season_length=7, non_negative=True)
    sums = []
    for each, period, forecast in zip(sales, periods, forecasts, strict=True):
        uplift, quantiles = each.uplift(), forecast.quantiles[level / 100]
        sums.append(
            sum(float(quantiles[(day - period[0]).days]) * (uplift if day in each.promoted else 1) for day in period)
        )
    return sums


def main() -> None:
    """The program."""
    products = read_sales("sales.csv")
    closed = {
        day
        for day in days_from(min(products["tea"].sold), 7 * 104)
        if day.weekday() != 6 and not any(day in sales.sold for sales in products.values())
    }
    print(f"{'':<14}{'days':>6}{'level':>7}{'':>3}{'Carry':^15}{'formula':^15}{'sum of days':^15}")
    print(f"{'':<14}{'':>6}{'':>7}{'':>3}" + f"{'held':>7}{'stock':>8}" * 3)
    totals: list[list[tuple[bool, float]]] = [[], [], []]
    with carry.load("forecast") as model:
        for row in rows("stock.csv"):
            name, *numbers = row.values()
            item = Item(name, *map(int, numbers))
            sales = products[name]
            end = max(sales.sold) + timedelta(days=7 - max(sales.sold).weekday())
            mondays = [end - timedelta(days=item.days + 7 * week) for week in range(MONDAYS)]
            periods = [[day for day in days_from(monday, item.days) if day in sales.sold] for monday in mondays]
            known = [sales.before(monday) for monday in mondays]
            demands = [sum(sales.sold[day] for day in period) for period in periods]
            methods = [
                needed(model, [sales] * MONDAYS, mondays, item.days, item.level, closed),
                [formula(each, period, item.level) for each, period in zip(known, periods, strict=True)],
                summed(model, known, periods, item.level),
            ]
            line = f"{name:<14}{item.days:>6}{item.level:>6.0f}%{'':>3}"
            for total, stocks in zip(totals, methods, strict=True):
                held = [demand <= math.ceil(stock) for demand, stock in zip(demands, stocks, strict=True)]
                total += zip(held, [stock / fmean(demands) for stock in stocks], strict=True)
                line += f"{fmean(held):>7.0%}{fmean(stocks) / fmean(demands):>8.2f}"
            print(line)
    line = f"{'all':<14}{'':>16}"
    for total in totals:
        line += f"{fmean(held for held, _ in total):>7.0%}{fmean(stock for _, stock in total):>8.2f}"
    print(line)


if __name__ == "__main__":
    main()

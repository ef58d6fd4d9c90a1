"""examples/shop-demand: the README's commands, and the arithmetic of the orders."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import Service
from tests.examples.conftest import EXAMPLES, check_readme, program

reorder = program("shop-demand/reorder.py")
MONDAY = date(2024, 1, 1)
WEEK = [4.0, 4.0, 4.0, 6.0, 6.0, 12.0]
"""Sales from Monday to Saturday."""


def sales(weeks: int) -> Any:
    """The same week, so many times."""
    days = {MONDAY + timedelta(days=7 * week + day): sold for week in range(weeks) for day, sold in enumerate(WEEK)}
    return reorder.Sales(days)


def test_the_readme_prints_what_it_shows(served: Service, tmp_path: Path) -> None:
    check_readme("shop-demand", served, tmp_path)


def test_an_order_covers_its_lead_time_and_the_week_between_orders_in_whole_weeks() -> None:
    days = [reorder.Item("tea", 0, 0, lead, 95, 1).days for lead in (0, 1, 7, 8, 14)]
    assert days == [7, 14, 14, 21, 21]


@pytest.mark.parametrize(
    ("on_hand", "on_order", "order"), [(0, 0, 48), (10, 0, 36), (30, 2, 12), (40, 0, 0), (90, 0, 0)]
)
def test_an_order_is_what_is_lacking_in_whole_packs(on_hand: int, on_order: int, order: int) -> None:
    assert reorder.Item("tea", on_hand, on_order, 7, 95, 12).order(39.5) == order


def test_closed_days_and_promotions_do_not_change_the_usual_sales() -> None:
    plain, changed = sales(8), sales(8)
    for day in reorder.days_from(MONDAY + timedelta(weeks=5), 6):
        changed.sold[day] *= 2
        changed.promoted.add(day)
    assert changed.uplift() == 2
    assert changed.periods(MONDAY + timedelta(weeks=8), 14) == plain.periods(MONDAY + timedelta(weeks=8), 14) == [6] * 4
    del plain.sold[MONDAY + timedelta(weeks=6)]
    assert plain.periods(MONDAY + timedelta(weeks=8), 7) == [6] * 6 + [pytest.approx(32 / 5), 6]


def test_a_period_without_an_open_day_is_missing() -> None:
    shop = sales(4)
    for day in reorder.days_from(MONDAY + timedelta(weeks=2), 7):
        shop.sold.pop(day, None)
    assert shop.periods(MONDAY + timedelta(weeks=4), 7) == [6, 6, None, 6]


def test_a_planned_promotion_counts_its_days_for_more() -> None:
    shop = sales(8)
    for day in reorder.days_from(MONDAY + timedelta(weeks=5), 6):
        shop.sold[day] *= 2
        shop.promoted.add(day)
    ahead = reorder.days_from(MONDAY + timedelta(weeks=8), 6)
    assert shop.usual_days(ahead) == 6
    shop.promoted.update(ahead[:3])
    # Three days that sell 4 sell 8: 48 instead of 36, as eight days of 6 do.
    assert shop.usual_days(ahead) == pytest.approx(8)


def test_what_is_known_on_a_monday_ends_before_it() -> None:
    shop = sales(4)
    assert max(shop.before(MONDAY + timedelta(weeks=2)).sold) == MONDAY + timedelta(days=12)


def test_the_plan_has_promotions_of_products_and_days_on_which_the_shop_is_closed(tmp_path: Path) -> None:
    plan = tmp_path / "plan.csv"
    plan.write_text("product,first,last\ntea,2024-03-01,2024-03-02\n,2024-03-29,2024-04-01\n")
    products = {"tea": sales(1)}
    closed = reorder.read_plan(str(plan), products)
    assert products["tea"].promoted == {date(2024, 3, 1), date(2024, 3, 2)}
    assert sorted(closed) == reorder.days_from(date(2024, 3, 29), 4)
    week = reorder.days_from(date(2024, 3, 28), 7)
    assert [day for day in week if reorder.is_open(day, closed)] == [week[0], *week[5:]]


def test_the_committed_data_are_what_the_script_makes(tmp_path: Path) -> None:
    make_data = program("make_data.py")
    make_data.make_server_metric(tmp_path)
    make_data.make_shop_demand(tmp_path)
    for name, folder in [("metrics", "server-metric"), ("planted", "server-metric"), ("sales", "shop-demand")]:
        assert (tmp_path / f"{name}.csv").read_text() == (EXAMPLES / folder / f"{name}.csv").read_text()

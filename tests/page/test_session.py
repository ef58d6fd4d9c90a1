"""The tab "Live session" in a real browser: what it shows is what the service says over HTTP."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Locator, Page, Route, expect

import service
from tests.e2e.serving import PATIENCE, Service, post
from tests.page.conftest import KEY, Visit, open_tab

SAMPLE = Path(service.__file__).parent / "page/samples/requests.csv"
VALUES = [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118]
QUANTILES = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]


def send(panel: Locator, values: Sequence[float | None]) -> None:
    """Type values, and send them by the key Enter."""
    field = panel.get_by_label("Or type new values")
    field.fill(" ".join("null" if value is None else f"{value:g}" for value in values))
    field.press("Enter")


def session(panel: Locator, name: str = "Session") -> Locator:
    return panel.get_by_role("article", name=name, exact=True)


def expect_position(branch: Locator, position: int) -> None:
    """Wait until the session shows the forecast after so many values."""
    expect(branch.get_by_text(re.compile(rf"^Value {position} is "))).to_be_visible()


def go_back(branch: Locator, position: int) -> None:
    """Rewind to the oldest version that has read so many values."""
    branch.get_by_role("button", name=re.compile(rf"Version \d+, after {position} value")).first.click()


def curl_of(branch: Locator) -> str:
    """The command that sends the session its newest value again."""
    branch.locator("details").last.evaluate("details => (details.open = true)")
    return branch.get_by_label("curl", exact=True).inner_text()


def id_of(branch: Locator) -> str:
    """The session's id."""
    match = re.search(r'"session_id":"(\w{32})"', curl_of(branch))
    assert match is not None
    return match[1]


def read_forecast(url: str, id: str, **more: object) -> dict[str, Any]:
    """The forecast after the newest value of a session, which it does not change."""
    return post(
        f"{url}/forecast",
        {"session_id": id, "series": [], "commit": False, "horizon": 24, "quantiles": QUANTILES, **more},
    )


def get_session(url: str, id: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx2.get(f"{url}/sessions/{id}", timeout=PATIENCE).raise_for_status().json()
    return answer


def in_words(forecast: dict[str, Any], position: int, value: float) -> str:
    """The sentence of the page."""
    next_value = [forecast["quantiles"][level][0] for level in ("0.1", "0.5", "0.9")]
    low, middle, high = (f"{float(f'{quantile:.4g}'):g}" for quantile in next_value)
    return f"Value {position} is {value:g}. The next: {middle}, with 80 % probability {low} to {high}."


def expect_accuracy(branch: Locator, url: str) -> None:
    """The figures on accuracy are those of the service."""
    accuracy = get_session(url, id_of(branch))["accuracy"]
    definitions = branch.get_by_role("definition")
    expect(definitions).to_have_text([str(accuracy["values"]), f"{accuracy['mase']:.2f}"])
    for level, share in accuracy["coverage"].items():
        expect(branch).to_contain_text(f"The {level} % interval held {100 * share:.0f} %")


def test_typed_values_move_the_forecast_and_its_accuracy(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES[:1])
    expect_position(session(panel), 1)
    send(panel, VALUES[1:])
    expect_position(session(panel), len(VALUES))
    id = id_of(session(panel))
    answer = get_session(served.url, id)
    assert (answer["position"], answer["version"]) == (len(VALUES), 2)
    expect(session(panel)).to_contain_text(in_words(read_forecast(served.url, id), len(VALUES), VALUES[-1]))
    expect_accuracy(session(panel), served.url)
    expect(session(panel)).to_contain_text(f"{len(VALUES)} values seen")
    expect(session(panel).get_by_role("status").first).to_have_text(re.compile("Value 12 is 118"))


def test_a_missing_value_is_read_and_not_scored(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, [*VALUES[:4], None])
    expect(session(panel)).to_contain_text("Value 5 is unknown")
    expect_accuracy(session(panel), served.url)
    assert get_session(served.url, id_of(session(panel)))["position"] == 5


def test_what_is_no_number_is_said_in_words_and_nothing_is_sent(page: Page) -> None:
    panel = open_tab(page, "session")
    field = panel.get_by_label("Or type new values")
    field.fill("12 thirteen")
    field.press("Enter")
    expect(panel.get_by_role("alert")).to_contain_text("“thirteen” is no number")
    expect(field).to_have_value("12 thirteen")
    expect(session(panel)).to_have_count(0)


def test_a_replay_sends_the_sample_value_by_value_and_pauses(page: Page, served: Service) -> None:
    sample = [float(row["requests"]) for row in csv.DictReader(SAMPLE.read_text().splitlines())]
    panel = open_tab(page, "session")
    panel.get_by_label("Speed").select_option("As it answers")
    panel.get_by_role("button", name="Start the replay").click()
    expect(session(panel)).to_contain_text(re.compile(r"[4-9]\d values seen"))
    panel.get_by_role("button", name="Pause").click()
    expect(panel.get_by_role("button", name="Step")).to_be_enabled()
    id = id_of(session(panel))
    page.wait_for_load_state("networkidle")
    paused = get_session(served.url, id)
    assert paused["version"] == paused["position"] >= 40
    panel.get_by_role("button", name="Step").click()
    position = paused["position"] + 1
    expect(session(panel)).to_contain_text(f"{position} values seen")
    expect(panel.get_by_role("button", name="Go on")).to_be_visible()
    forecast = read_forecast(served.url, id)
    assert forecast["session"]["position"] == position
    expect(session(panel)).to_contain_text(in_words(forecast, position, sample[position - 1]))
    expect_accuracy(session(panel), served.url)
    versions = session(panel).get_by_role("group", name="Versions to go back to").get_by_role("button")
    kept = [each["position"] for each in reversed(get_session(served.url, id)["versions"])]
    expect(versions).to_have_text([str(each) for each in [*kept, position]])
    points = session(panel).locator("polyline").get_attribute("points")
    assert points is not None
    assert len(points.split()) == position


def test_a_csv_is_replayed_to_its_end(page: Page, served: Service, tmp_path: Path) -> None:
    file = tmp_path / "visits.csv"
    file.write_text("day,visits\n2026-01-01,5\n2026-01-02,\n2026-01-03,7")
    panel = open_tab(page, "session")
    panel.get_by_label("Import a session or a CSV").set_input_files(file)
    expect(panel.get_by_label("Series")).to_have_value("own")
    panel.get_by_label("Speed").select_option("As it answers")
    panel.get_by_role("button", name="Start the replay").click()
    expect_position(session(panel), 3)
    expect(panel.get_by_role("button", name="Start the replay")).to_be_visible()
    expect(session(panel)).to_contain_text("Value 3 is 7.")
    assert get_session(served.url, id_of(session(panel)))["position"] == 3


def test_a_rewind_shows_the_earlier_forecast_and_the_values_after_it(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    branch = session(panel)
    for i, value in enumerate(VALUES[:6]):
        send(panel, [value])
        expect_position(branch, i + 1)
    expect(branch.get_by_text("Before the rewind")).to_have_count(0)
    go_back(branch, 3)
    expect_position(branch, 3)
    id = id_of(session(panel))
    answer = get_session(served.url, id)
    assert (answer["version"], answer["position"]) == (7, 3)
    expect(branch).to_contain_text(in_words(read_forecast(served.url, id), 3, VALUES[2]))
    expect(branch).to_contain_text("version 7")
    expect(branch.get_by_text("Before the rewind")).to_be_visible()
    expect_accuracy(branch, served.url)
    send(panel, [500])
    expect(branch).to_contain_text("Value 4 is 500.")
    expect(branch.get_by_text("Before the rewind")).to_be_visible()
    go_back(branch, 6)
    expect_position(branch, 6)
    expect(branch).to_contain_text(in_words(read_forecast(served.url, id), 6, VALUES[5]))
    expect(branch.get_by_text("Before the rewind")).to_have_count(0)


def test_a_fork_goes_its_own_way(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    session(panel).get_by_role("button", name="What if").click()
    expect_position(session(panel, "What if"), len(VALUES))
    target = panel.get_by_label("Values go to")
    target.select_option("What if")
    send(panel, [250, 260, 270])
    expect_position(session(panel, "What if"), len(VALUES) + 3)
    copy = id_of(session(panel, "What if"))
    target.select_option("Session")
    send(panel, [120])
    expect_position(session(panel), len(VALUES) + 1)
    original = id_of(session(panel))
    assert get_session(served.url, original)["position"] == len(VALUES) + 1
    assert get_session(served.url, copy)["position"] == len(VALUES) + 3
    expect(session(panel)).to_contain_text(in_words(read_forecast(served.url, original), len(VALUES) + 1, 120))
    expect(session(panel, "What if")).to_contain_text(in_words(read_forecast(served.url, copy), len(VALUES) + 3, 270))
    target.select_option("Both")
    panel.get_by_label("The replay for “What if” is changed by").fill("50")
    panel.get_by_role("button", name="Step").click()
    expect(session(panel)).to_contain_text("Value 14 is 560.")
    expect(session(panel, "What if")).to_contain_text("Value 16 is 840.")


def test_an_exported_session_goes_on_exactly_where_it_was(page: Page, served: Service, tmp_path: Path) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    id = id_of(session(panel))
    before = read_forecast(served.url, id)
    with page.expect_download() as downloading:
        session(panel).get_by_role("button", name="Export").click()
    file = tmp_path / "session.json"
    downloading.value.save_as(file)
    session(panel).get_by_role("button", name="End").click()
    expect(session(panel)).to_have_count(0)
    assert httpx2.get(f"{served.url}/sessions/{id}", timeout=PATIENCE).status_code == 404
    panel.get_by_label("Import a session or a CSV").set_input_files(file)
    expect_position(session(panel), len(VALUES))
    expect(session(panel)).to_contain_text(in_words(before, len(VALUES), VALUES[-1]))
    expect_accuracy(session(panel), served.url)
    send(panel, [115])
    expect_position(session(panel), len(VALUES) + 1)
    after = read_forecast(served.url, id_of(session(panel)))
    state = json.loads(file.read_text())["state"]
    expected = post(f"{served.url}/forecast", {"state": state, "series": [115], "horizon": 24, "quantiles": QUANTILES})
    assert after["quantiles"] == expected["quantiles"]


def test_the_change_of_another_client_is_noticed(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    id = id_of(session(panel))
    post(f"{served.url}/forecast", {"session_id": id, "series": [90, 95]})
    send(panel, [100])
    expect(panel.get_by_role("alert")).to_contain_text("412 version_mismatch")
    expect(session(panel)).to_contain_text("Value 14 is unknown")
    assert get_session(served.url, id)["position"] == len(VALUES) + 2
    panel.get_by_role("button", name="Send").click()
    expect_position(session(panel), len(VALUES) + 3)
    expect(session(panel)).to_contain_text(in_words(read_forecast(served.url, id), len(VALUES) + 3, 100))
    expect(panel.get_by_role("alert")).to_have_count(0)


def test_a_value_whose_answer_was_lost_counts_once(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))

    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.fulfill(status=429, json={"status": 429, "code": "queue_full", "detail": "The service is busy."})

    page.route("**/forecast", lose_the_answer, times=1)
    send(panel, [117])
    expect(panel.get_by_role("alert")).to_contain_text("The service is busy.")
    expect(session(panel)).to_contain_text(f"{len(VALUES) + 1} values seen")  # as the service has it
    assert get_session(served.url, id_of(session(panel)))["version"] == 2


def test_a_version_that_is_no_longer_kept_is_refused_in_words(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    send(panel, [117])
    expect_position(session(panel), len(VALUES) + 1)
    id = id_of(session(panel))

    def move_on(route: Route) -> None:
        version = get_session(served.url, id)["version"]
        for _ in range(10):
            version = post(f"{served.url}/sessions/{id}/rewind", {"version": version})["version"]
        headers = route.request.headers
        route.continue_(headers={**headers, "if-match": f'"{version}"'})

    page.route("**/rewind", move_on)
    go_back(session(panel), len(VALUES))
    expect(panel.get_by_role("alert")).to_contain_text("409 version_not_kept")
    versions = session(panel).get_by_role("group", name="Versions to go back to").get_by_role("button")
    expect(versions).to_have_text([str(len(VALUES) + 1)] * 9)


def test_a_session_that_another_client_ended_makes_room(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    httpx2.delete(f"{served.url}/sessions/{id_of(session(panel))}", timeout=PATIENCE).raise_for_status()
    send(panel, [117])
    expect(panel.get_by_role("alert")).to_contain_text("404 session_not_found")
    session(panel).get_by_role("button", name="End").click()
    expect(session(panel)).to_have_count(0)
    send(panel, [117])
    expect_position(session(panel), 1)


def test_a_program_sends_the_session_its_next_value(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    id = id_of(session(panel))
    command = subprocess.run(["sh", "-c", f"{curl_of(session(panel))} --silent"], capture_output=True, check=True)
    assert json.loads(command.stdout)["session"] == {"id": id, "version": 2, "position": len(VALUES) + 1}
    code = session(panel).get_by_label("Python", exact=True).inner_text()
    script = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert script.returncode == 0, script.stderr
    assert get_session(served.url, id)["position"] == len(VALUES) + 2


def test_the_key_is_sent_and_not_shown(visit: Visit, served_with_key: Service) -> None:
    with visit(served_with_key.url) as page:
        page.add_init_script(f"sessionStorage.setItem('carry-api-key', '{KEY}')")
        panel = open_tab(page, "session")
        send(panel, VALUES)
        expect_position(session(panel), len(VALUES))
        curl_of(session(panel))
        for label in ("curl", "Python"):
            text = panel.get_by_label(label, exact=True).inner_text()
            assert "CARRY_API_KEY" in text
            assert KEY not in text


def test_two_sessions_fit_a_telephone(visit: Visit, served: Service) -> None:
    with visit(served.url, viewport={"width": 380, "height": 800}) as page:
        panel = open_tab(page, "session")
        send(panel, VALUES)
        session(panel).get_by_role("button", name="What if").click()
        expect_position(session(panel, "What if"), len(VALUES))
        curl_of(session(panel))
        assert page.evaluate("document.documentElement.scrollWidth") == 380

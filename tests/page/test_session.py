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
import pytest
from playwright.sync_api import Locator, Page, Route, expect

import service
from tests.e2e.serving import PATIENCE, Service, post
from tests.page.conftest import KEY, Visit, open_tab

SAMPLE = Path(service.__file__).parent / "page/samples/requests.csv"
VALUES = [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118]
QUANTILES = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]
INTERVALS = {50: ("0.25", "0.75"), 80: ("0.1", "0.9"), 95: ("0.025", "0.975")}


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


def last_curl(panel: Locator) -> str:
    return panel.get_by_label("curl", exact=True).inner_text()


def last_id(panel: Locator) -> str:
    """The session of the last call."""
    panel.locator("details").evaluate("details => (details.open = true)")
    found = re.search(r'sessions/(\w{32})|"session_id":"(\w{32})"', last_curl(panel))
    assert found is not None
    return found[1] or found[2]


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


def accuracy_of(url: str, values: Sequence[float]) -> list[str]:
    """The sentences on accuracy, from the forecasts of each next value that the service gives for the whole series."""
    body = {"series": values, "horizon": 1, "quantiles": QUANTILES, "include_history": True, "state": ""}
    ahead = post(f"{url}/forecast", body)["history"]["quantiles"]
    count = len(values) - 1
    lines = []
    for level, (low, high) in INTERVALS.items():
        held = sum(ahead[low][i] <= values[i] <= ahead[high][i] for i in range(1, len(values)))
        lines.append(f"{level} % interval held {int(100 * held / count + 0.5)} % of {count} values")
    error = sum(abs(values[i] - ahead["0.5"][i]) for i in range(1, len(values)))
    change = sum(abs(values[i] - values[i - 1]) for i in range(1, len(values)))
    return [*lines, f"Scaled error {error / change:.2f}"]


def test_typed_values_move_the_forecast_and_its_accuracy(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES[:1])
    expect_position(session(panel), 1)
    send(panel, VALUES[1:])
    expect_position(session(panel), len(VALUES))
    id = last_id(panel)
    answer = get_session(served.url, id)
    assert (answer["position"], answer["version"]) == (len(VALUES), 2)
    expect(session(panel)).to_contain_text(in_words(read_forecast(served.url, id), len(VALUES), VALUES[-1]))
    for sentence in accuracy_of(served.url, VALUES):
        expect(session(panel)).to_contain_text(sentence)
    expect(session(panel)).to_contain_text(f"{len(VALUES)} values seen")
    expect(session(panel).get_by_role("status")).to_have_text(re.compile("Session: Value 12 is 118"))


def test_a_missing_value_is_read_and_not_scored(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, [*VALUES[:4], None])
    expect(session(panel)).to_contain_text("Value 5 is unknown")
    expect(session(panel)).to_contain_text("of 3 values")
    assert get_session(served.url, last_id(panel))["position"] == 5


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
    with page.expect_response("**/sessions/*"):  # it looks at the session once the last call has ended
        panel.get_by_role("button", name="Pause").click()
    id = last_id(panel)
    paused = get_session(served.url, id)
    assert paused["version"] == paused["position"] >= 40
    panel.get_by_role("button", name="Step").click()
    position = paused["position"] + 1
    expect(session(panel)).to_contain_text(f"{position} values seen")
    expect(panel.get_by_role("button", name="Go on")).to_be_visible()
    forecast = read_forecast(served.url, id)
    assert forecast["session"]["position"] == position
    expect(session(panel)).to_contain_text(in_words(forecast, position, sample[position - 1]))
    for sentence in accuracy_of(served.url, sample[:position]):
        expect(session(panel)).to_contain_text(sentence)
    versions = session(panel).get_by_role("group", name="Versions to go back to").get_by_role("button")
    kept = [each["position"] for each in reversed(get_session(served.url, id)["versions"])]
    marks = [each for each in range(24, position, 24) if each not in kept]
    expect(versions).to_have_text([str(each) for each in [*marks, *kept, position]])
    points = session(panel).locator("polyline").get_attribute("points")
    assert points is not None
    assert len(points.split()) == position


def test_a_session_goes_back_further_than_the_service_keeps_versions(page: Page, served: Service) -> None:
    sample = [float(row["requests"]) for row in csv.DictReader(SAMPLE.read_text().splitlines())]
    panel = open_tab(page, "session")
    panel.get_by_label("Speed").select_option("As it answers")
    panel.get_by_role("button", name="Start the replay").click()
    session(panel).get_by_role("button", name="Kept state, after 24 values").click()
    expect_position(session(panel), 24)
    expect(panel.get_by_role("button", name="Go on")).to_be_visible()
    id = last_id(panel)
    assert get_session(served.url, id)["position"] == 24
    expect(session(panel)).to_contain_text(in_words(read_forecast(served.url, id), 24, sample[23]))
    expect(session(panel).get_by_text("True value")).to_be_visible()
    for sentence in accuracy_of(served.url, sample[:24]):
        expect(session(panel)).to_contain_text(sentence)


def test_own_values_are_replayed_to_their_end(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    panel.get_by_label("Series").select_option("My own values")
    panel.get_by_label("Values to replay").fill("day,visits\n2026-01-01,5\n2026-01-02,\n2026-01-03,7")
    panel.get_by_label("Values to replay").blur()
    panel.get_by_label("Speed").select_option("As it answers")
    panel.get_by_role("button", name="Start the replay").click()
    expect_position(session(panel), 3)
    expect(panel.get_by_role("button", name="Start the replay")).to_be_visible()
    expect(session(panel)).to_contain_text("Value 3 is 7.")
    assert get_session(served.url, last_id(panel))["position"] == 3


def test_a_rewind_shows_the_earlier_forecast_and_the_values_after_it(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    branch = session(panel)
    for i, value in enumerate(VALUES[:6]):
        send(panel, [value])
        expect_position(branch, i + 1)
    expect(branch.get_by_text("True value")).to_have_count(0)
    go_back(branch, 3)
    expect_position(branch, 3)
    id = last_id(panel)
    answer = get_session(served.url, id)
    assert (answer["version"], answer["position"]) == (7, 3)
    expect(branch).to_contain_text(in_words(read_forecast(served.url, id), 3, VALUES[2]))
    expect(branch).to_contain_text("version 7")
    expect(branch.get_by_text("True value")).to_be_visible()
    for sentence in accuracy_of(served.url, VALUES[:3]):
        expect(branch).to_contain_text(sentence)
    go_back(branch, 6)
    expect_position(branch, 6)
    expect(branch).to_contain_text(in_words(read_forecast(served.url, id), 6, VALUES[5]))
    expect(branch.get_by_text("True value")).to_have_count(0)


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
    copy = last_id(panel)
    target.select_option("Session")
    send(panel, [120])
    expect_position(session(panel), len(VALUES) + 1)
    original = last_id(panel)
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
    id = last_id(panel)
    before = read_forecast(served.url, id)
    with page.expect_download() as downloading:
        session(panel).get_by_role("button", name="Export").click()
    file = tmp_path / "session.json"
    downloading.value.save_as(file)
    session(panel).get_by_role("button", name="End").click()
    expect(session(panel)).to_have_count(0)
    assert httpx2.get(f"{served.url}/sessions/{id}", timeout=PATIENCE).status_code == 404
    panel.get_by_label("Import a session").set_input_files(file)
    expect_position(session(panel), len(VALUES))
    expect(session(panel)).to_contain_text(in_words(before, len(VALUES), VALUES[-1]))
    for sentence in accuracy_of(served.url, VALUES):
        expect(session(panel)).to_contain_text(sentence)
    send(panel, [115])
    expect_position(session(panel), len(VALUES) + 1)
    after = read_forecast(served.url, last_id(panel))
    state = json.loads(file.read_text())["state"]
    expected = post(f"{served.url}/forecast", {"state": state, "series": [115], "horizon": 24, "quantiles": QUANTILES})
    assert after["quantiles"] == expected["quantiles"]


def test_the_change_of_another_client_is_noticed(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    id = last_id(panel)
    post(f"{served.url}/forecast", {"session_id": id, "series": [90, 95]})
    send(panel, [100])
    expect(session(panel).get_by_role("alert")).to_contain_text("Another client changed this session")
    expect(session(panel)).to_contain_text("Value 14 is unknown")
    assert get_session(served.url, id)["position"] == len(VALUES) + 2
    panel.get_by_role("button", name="Send").click()
    expect_position(session(panel), len(VALUES) + 3)
    expect(session(panel)).to_contain_text(in_words(read_forecast(served.url, id), len(VALUES) + 3, 100))
    expect(session(panel).get_by_role("alert")).to_have_count(0)


def test_a_reload_of_the_page_goes_on_with_the_session(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES[:5])
    expect_position(session(panel), 5)
    send(panel, VALUES[5:])
    expect_position(session(panel), len(VALUES))
    id, words = last_id(panel), session(panel).get_by_text(re.compile("^Value ")).inner_text()
    page.reload()
    expect(session(panel)).to_contain_text(words)
    for sentence in accuracy_of(served.url, VALUES):
        expect(session(panel)).to_contain_text(sentence)
    go_back(session(panel), 5)
    expect_position(session(panel), 5)
    assert last_id(panel) == id
    assert get_session(served.url, id)["version"] == 3


def test_a_value_on_its_way_at_a_reload_counts_once(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    id = last_id(panel)

    def lose_the_answer(route: Route) -> None:
        route.fetch()
        page.evaluate("console.log('the service has it')")

    page.route("**/forecast", lose_the_answer, times=1)
    with page.expect_console_message(lambda message: message.text == "the service has it"):
        send(panel, [117])
    page.reload()
    expect_position(session(panel), len(VALUES) + 1)
    assert get_session(served.url, id)["version"] == 2


def test_a_call_that_is_sent_again_counts_once(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))

    def replace_the_answer(route: Route) -> None:
        route.fetch()
        route.fulfill(status=429, json={"status": 429, "code": "queue_full", "detail": "busy"})

    page.route("**/forecast", replace_the_answer, times=1)
    send(panel, [117])
    expect_position(session(panel), len(VALUES) + 1)
    assert get_session(served.url, last_id(panel))["version"] == 2


def test_a_call_without_an_answer_counts_once_when_the_person_sends_it_again(page: Page, served: Service) -> None:
    page.clock.install()
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))

    def replace_the_answer(route: Route) -> None:
        route.fetch()
        route.fulfill(status=429, json={"status": 429, "code": "queue_full", "detail": "The service is busy."})

    page.route("**/forecast", replace_the_answer)
    send(panel, [117])
    expect(session(panel).get_by_role("alert")).to_contain_text("sent again")
    while session(panel).get_by_text("The service is busy.").count() == 0:
        page.clock.fast_forward(5000)
    page.unroute("**/forecast")
    panel.get_by_role("button", name="Send").click()
    expect_position(session(panel), len(VALUES) + 1)
    expect(session(panel).get_by_role("alert")).to_have_count(0)
    assert get_session(served.url, last_id(panel))["version"] == 2


def test_a_version_that_is_no_longer_kept_is_refused_in_words(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    send(panel, [117])
    expect_position(session(panel), len(VALUES) + 1)
    id = last_id(panel)

    def move_on(route: Route) -> None:
        version = get_session(served.url, id)["version"]
        for _ in range(10):
            version = post(f"{served.url}/sessions/{id}/rewind", {"version": version})["version"]
        headers = route.request.headers
        route.continue_(headers={**headers, "if-match": f'"{version}"'})

    page.route("**/rewind", move_on)
    go_back(session(panel), len(VALUES))
    expect(session(panel).get_by_role("alert")).to_contain_text("version")
    versions = session(panel).get_by_role("group", name="Versions to go back to").get_by_role("button")
    expect(versions).to_have_text([str(len(VALUES) + 1)] * 9)


def test_a_session_that_is_gone_can_be_begun_again(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    id = last_id(panel)
    httpx2.delete(f"{served.url}/sessions/{id}", timeout=PATIENCE).raise_for_status()
    send(panel, [117])
    expect(session(panel).get_by_role("alert")).to_contain_text("does not know this session")
    session(panel).get_by_role("button", name="Begin again with 12 values").click()
    expect(session(panel).get_by_role("alert")).to_have_count(0)
    send(panel, [117])
    expect_position(session(panel), len(VALUES) + 1)
    renewed = last_id(panel)
    assert renewed != id
    assert get_session(served.url, renewed)["position"] == len(VALUES) + 1


def test_the_last_call_as_a_command_gets_the_same_answer(page: Page, served: Service) -> None:
    panel = open_tab(page, "session")
    send(panel, VALUES)
    expect_position(session(panel), len(VALUES))
    id = last_id(panel)
    command = subprocess.run(["sh", "-c", f"{last_curl(panel)} --silent"], capture_output=True, check=True)
    answer = json.loads(command.stdout)
    assert answer["session"] == {"id": id, "version": 1, "position": len(VALUES)}
    expect(session(panel)).to_contain_text(in_words(answer, len(VALUES), VALUES[-1]))
    assert get_session(served.url, id)["version"] == 1


@pytest.mark.parametrize("action", ["send", "rewind", "restore", "fork", "export", "end"])
def test_the_last_call_in_python_runs(page: Page, served: Service, action: str) -> None:
    panel = open_tab(page, "session")
    for i in range(13):
        send(panel, VALUES[:6])
        expect_position(session(panel), 6 * i + 6)
    branch = session(panel)
    buttons = {"fork": "What if", "export": "Export", "end": "End"}
    buttons |= {"rewind": "after 54 values", "restore": "after 24 values"}
    if action in buttons:
        branch.get_by_role("button", name=re.compile(buttons[action])).click()
    word = {"send": "observe", "end": "close"}.get(action, action)
    block = panel.get_by_label("Python", exact=True)
    expect(block).to_contain_text(f"session.{word}(")
    if action == "end":
        return
    script = subprocess.run(
        [sys.executable, "-c", block.inner_text()], capture_output=True, text=True, timeout=PATIENCE
    )
    assert script.returncode == 0, script.stderr


def test_the_key_is_sent_and_not_shown(visit: Visit, served_with_key: Service) -> None:
    with visit(served_with_key.url) as page:
        page.add_init_script(f"sessionStorage.setItem('carry-api-key', '{KEY}')")
        panel = open_tab(page, "session")
        send(panel, VALUES)
        expect_position(session(panel), len(VALUES))
        last_id(panel)
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
        last_id(panel)
        assert page.evaluate("document.documentElement.scrollWidth") == 380

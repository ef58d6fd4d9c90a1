"""The tab "Text" in a browser: all its figures are those of the API, and its texts those of POST /generate."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from tests.builders import WORDS, forecaster, word_model, write_model
from tests.e2e.serving import PATIENCE, Service
from tests.page.axe import severe_faults
from tests.page.conftest import KEY, Visit, open_tab

MODEL = "text@1"
UNICODE = (
    "Cafe\u0301 \U0001f600\U0001f469\u200d\U0001f4bb "
    "x\u0301 na\u00efve \u201cso\u201d\n\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd end"
)
"""Marks that compose and that do not, emoji of one and of three code points, typographic quotes, Hebrew."""
NAMES = {" ": "space", "\n": "line end"}


@pytest.fixture
def text(page: Page) -> Locator:
    """The tab, once it has read its sample."""
    panel = open_tab(page, "text")
    expect(bars(panel)).to_have_count(6)
    return panel


def branch(panel: Locator, number: int = 1) -> Locator:
    return panel.get_by_role("article").nth(number - 1)


def field(of: Locator) -> Locator:
    return of.get_by_role("textbox").first


def bars(of: Locator) -> Locator:
    return of.get_by_role("group", name="Next character").get_by_role("button")


def cells(of: Locator) -> Locator:
    return of.get_by_role("listbox").get_by_role("option")


def alternatives(of: Locator) -> Locator:
    return of.get_by_role("group", name="Alternatives").get_by_role("button")


def names(of: Locator) -> list[str]:
    """The accessible names of bars or cells."""
    labels: list[str] = of.evaluate_all("all => all.map((each) => each.getAttribute('aria-label'))")
    return labels


def named(character: str, probability: float | None) -> str:
    """How the page names a character with its probability."""
    name = NAMES.get(character, character)
    if probability is None:
        return name
    return f"{name}, " + (f"{100 * probability:.1f} %" if probability >= 0.0005 else "under 0.1 %")


def named_all(candidates: list[dict[str, Any]]) -> list[str]:
    return [named(**each) for each in candidates]


def predict(served: Service, text: str, model: str = MODEL, top_k: int = 6) -> Any:
    body = {"model": model, "text": text, "top_k": top_k, "per_position": True}
    return httpx2.post(f"{served.url}/predict", json=body, timeout=60).raise_for_status().json()


def generate(served: Service, prompt: str, **options: Any) -> str:
    """The prompt and what follows, in one answer."""
    body = {"model": MODEL, "prompt": prompt, "max_length": 200, "temperature": 0.8, "seed": 7} | options
    answer = httpx2.post(f"{served.url}/generate", json=body, timeout=60).raise_for_status()
    return prompt + str(answer.json()["text"])


def expect_map(of: Locator, served: Service, text: str, model: str = MODEL) -> None:
    """The map, the bars and the figure of a branch are what the API answers for the text."""
    answer = predict(served, text, model)
    for i, each in enumerate(answer["next"]):
        expect(bars(of).nth(i)).to_have_attribute("aria-label", named(**each))
    assert names(cells(of)) == [named(each["character"], each["probability"]) for each in answer["positions"]]
    bits = answer["bits_per_character"]
    expect(of.get_by_role("definition")).to_have_text("\u2013" if bits is None else f"{bits:.2f}")


def press(of: Locator, name: str) -> None:
    of.get_by_role("button", name=name, exact=True).click()


def ending(of: Locator) -> Locator:
    """What a branch says of the last text that the model wrote there."""
    return of.get_by_role("status").filter(has_text=re.compile("Wrote|Stopped")).first


def set_length(panel: Locator, length: int) -> None:
    panel.get_by_label("Characters to write").fill(str(length))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline


def num_cancelled(served: Service) -> float:
    metrics = httpx2.get(f"{served.url}/metrics", timeout=60).raise_for_status().text
    lines = [line for line in metrics.splitlines() if line.startswith("carry_engine_dropped_total")]
    return sum(float(line.split()[-1]) for line in lines if 'reason="cancelled"' in line)


def predictions(page: Page) -> list[dict[str, Any]]:
    """The bodies of all requests to /predict from now on."""
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/predict"):
            bodies.append(json.loads(request.post_data or ""))

    page.on("request", note)
    return bodies


# What the model expects


def test_a_stranger_sees_a_text_with_its_map_and_what_to_do(text: Locator, served: Service) -> None:
    expect(text.get_by_text("Point at a coloured character to see what else it expected there")).to_be_visible()
    words = field(text).input_value()
    expect_map(branch(text), served, words)
    shares = [each["probability"] for each in predict(served, words)["positions"]][1:]
    shades = cells(text).evaluate_all(
        "all => all.map((each) => getComputedStyle(each).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0))"
    )[1:]
    by_share = [shade for _, shade in sorted(zip(shares, shades, strict=True))]
    assert by_share == sorted(shades, reverse=True)
    assert len(set(shades)) >= 5


@pytest.mark.parametrize("model", ["text@1", "shakespeare@1"])
def test_figures_of_a_persons_own_text_are_those_of_the_api(text: Locator, served: Service, model: str) -> None:
    text.get_by_label("Model").select_option(model)
    for words in ("To be, or not to be", "It was a dark night.\n\nAnd then", "To", "x"):
        field(text).fill(words)
        expect_map(branch(text), served, words, model)


def test_typing_shows_what_comes_next_and_sends_only_the_last_word(page: Page, text: Locator, served: Service) -> None:
    bodies = predictions(page)
    words = field(text).input_value()
    field(text).press("End")
    field(text).press_sequentially("lit")
    expect_map(branch(text), served, words + "lit")
    assert all(body["state"] and len(body["text"]) <= 5 for body in bodies)
    field(text).press("Backspace")
    expect_map(branch(text), served, words + "li")
    field(text).press("ControlOrMeta+Home")
    field(text).press_sequentially("So ")
    expect_map(branch(text), served, f"So {words}li")


def test_a_click_takes_a_character(text: Locator, served: Service) -> None:
    field(text).fill("She opened the do")
    expect_map(branch(text), served, "She opened the do")
    taken = predict(served, "She opened the do")["next"][1]["character"]
    bars(text).nth(1).click()
    expect(field(text)).to_have_value("She opened the do" + taken)
    expect_map(branch(text), served, "She opened the do" + taken)


def test_a_newer_text_aborts_the_request_of_an_older_one(page: Page, text: Locator, served: Service) -> None:
    def hold_the_first(route: Route) -> None:
        if "first" not in (route.request.post_data or ""):
            route.continue_()

    page.route("**/predict", hold_the_first)
    with page.expect_request("**/predict") as sent:
        field(text).fill("first")
    with page.expect_event("requestfailed") as failed:
        field(text).fill("second")
    assert failed.value == sent.value
    expect_map(branch(text), served, "second")
    page.unroute_all()


@pytest.mark.parametrize("words", [UNICODE, "\U0001f600", "e\u0301\u0323", "", "  \n "])
def test_any_text_has_a_map_by_code_points(text: Locator, served: Service, words: str) -> None:
    field(text).fill(words)
    expect_map(branch(text), served, words)
    unknown = predict(served, words)["unknown_characters"]
    note = text.get_by_text("The model does not know")
    expect(note).to_have_count(1 if unknown else 0)
    for character in unknown:
        expect(note).to_contain_text(f"(U+{ord(character):04X})")


def test_a_mark_typed_after_its_letter_composes(text: Locator, served: Service) -> None:
    field(text).fill("a cafe")
    expect_map(branch(text), served, "a cafe")
    field(text).press("End")
    field(text).press_sequentially("\u0301 ")
    expect_map(branch(text), served, "a café ")


def test_of_a_long_text_the_end_is_read_and_drawn(page: Page, text: Locator, served: Service) -> None:
    bodies = predictions(page)
    words = "He saw \U0001f600 and went on. " * 1000  # 22,000 code points
    field(text).fill(words)
    expect(text.get_by_text("The text has 22000 characters: only its end is read and drawn.")).to_be_visible()
    expect_map(branch(text), served, words[-2000:])
    assert sum(len(body["text"]) for body in bodies) == 2000
    field(text).press("ControlOrMeta+End")
    field(text).press_sequentially("It")
    expect_map(branch(text), served, words[-1000:] + "It")


def test_a_word_model_reads_whole_words_while_one_types(visit: Visit, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(forecaster(), models, "forecast")
    write_model(word_model(), models, "text", tokenizer=WORDS)
    with Service(models, f"sqlite:///{tmp_path}/sessions.db") as service, visit(service.url) as page:
        panel = open_tab(page, "text")
        expect(bars(panel)).to_have_count(6)
        field(panel).fill("a ba")
        field(panel).press("End")
        for key, words in (
            ("b", "a bab"),
            (" ", "a bab "),
            ("i", "a bab i"),
            ("t's", "a bab it's"),
            (",", "a bab it's,"),
        ):
            field(panel).press_sequentially(key)
            expect_map(branch(panel), service, words)


# Forks


def test_an_alternative_goes_on_in_a_branch_beside_the_first(text: Locator, served: Service) -> None:
    words = field(text).input_value()
    index = words.index("gardener")
    cells(text).nth(index).hover()
    expected = predict(served, words)["positions"][index - 1]["next"]
    assert names(alternatives(text)) == named_all(expected)
    assert [each["character"] for each in expected].index("g") > 1
    alternatives(text).nth(1).click()
    fork = branch(text, 2)
    expect(ending(fork)).to_have_text("Wrote 200 characters, with seed 7.")
    whole = generate(served, words[:index] + expected[1]["character"])
    expect(field(fork)).to_have_value(whole)
    expect_map(fork, served, whole)
    expect_map(branch(text), served, words)
    press(fork, "Close")
    expect(text.get_by_role("article")).to_have_count(1)
    expect(field(text)).to_have_value(words)


def test_the_map_is_read_and_forked_by_the_keyboard(page: Page, text: Locator, served: Service) -> None:
    words = "It was \U0001f600 cafe\u0301 x"
    field(text).fill(words)
    expect_map(branch(text), served, words)
    characters = text.get_by_role("listbox")
    characters.focus()
    expect(text.get_by_text("I is the first: nothing was before it", exact=True)).to_be_visible()
    for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    answer = predict(served, words)
    expect(characters).to_have_attribute("aria-activedescendant", cells(text).nth(12).get_attribute("id") or "")
    assert names(cells(text))[12] == named(**{"character": "é", "probability": answer["positions"][12]["probability"]})
    assert names(alternatives(text)) == named_all(answer["positions"][11]["next"])
    page.keyboard.press("Enter")
    expect(alternatives(text).first).to_be_focused()
    page.keyboard.press("Enter")
    expect(ending(branch(text, 2))).to_have_text("Wrote 200 characters, with seed 7.")
    prefix = "It was \U0001f600 caf" + answer["positions"][11]["next"][0]["character"]
    expect(field(branch(text, 2))).to_have_value(generate(served, prefix))
    characters.first.focus()
    page.keyboard.press("Escape")
    expect(alternatives(text)).to_have_count(0)


# Texts that the model writes


def test_the_streamed_text_is_the_whole_one_of_its_seed_and_can_go_on(text: Locator, served: Service) -> None:
    words = field(text).input_value()
    text.get_by_label("Seed").fill("11")
    text.get_by_label("Temperature").fill("0.5")
    options = {"seed": 11, "temperature": 0.5}
    set_length(text, 120)
    press(text, "Write on")
    expect(ending(text)).to_have_text("Wrote 120 characters, with seed 11.")
    expect(field(text)).to_have_value(generate(served, words, max_length=120, **options))
    expect_map(branch(text), served, field(text).input_value())
    press(text, "Go on")
    expect(field(text)).to_have_value(generate(served, words, max_length=240, **options))
    expect(ending(text)).to_have_text("Wrote 120 characters, with seed 11.")
    press(text, "Take back")
    expect(field(text)).to_have_value(generate(served, words, max_length=120, **options))
    expect(ending(text)).to_have_count(0)


def test_a_text_is_drawn_while_it_is_written(page: Page, text: Locator, served: Service) -> None:
    words = field(text).input_value()
    set_length(text, 1000)
    # From now on no request to read a text gets an answer: what is drawn came with the stream.
    page.route("**/predict", lambda route: None)
    press(text, "Write on")
    expect(cells(text).nth(len(words) + 100)).to_be_attached()
    press(text, "Stop")
    expect(ending(text)).to_contain_text("Stopped after")
    written = field(text).input_value()
    assert names(cells(text)) == [
        named(each["character"], each["probability"]) for each in predict(served, written)["positions"]
    ]


def test_stop_ends_the_work_of_the_service(page: Page, text: Locator, served: Service) -> None:
    words = field(text).input_value()
    before = num_cancelled(served)
    set_length(text, 1000)
    with page.expect_response("**/generate"):
        press(text, "Write on")
    expect(field(text)).not_to_have_value(words)
    press(text, "Stop")
    expect(ending(text)).to_contain_text("Stopped after")
    until(lambda: num_cancelled(served) == before + 1)
    written = field(text).input_value()
    assert ending(text).inner_text() == f"Stopped after {len(written) - len(words)} characters, with seed 7."
    assert len(words) < len(written) < len(words) + 1000
    assert generate(served, words, max_length=1000).startswith(written)
    press(text, "Compare")
    press(branch(text, 2), "Write on")
    expect(field(branch(text, 2))).not_to_have_value(words)
    press(branch(text, 2), "Close")
    until(lambda: num_cancelled(served) == before + 2)


def test_two_models_and_two_temperatures_write_from_the_same_prompt_and_seed(text: Locator, served: Service) -> None:
    words = field(text).input_value()
    set_length(text, 60)
    press(text, "Write on")
    expect(ending(text)).to_contain_text("Wrote")
    for model, temperature in (("text-fast@1", 0.8), ("text@1", 0.2)):
        press(branch(text), "Compare")
        other = text.get_by_role("article").last
        expect(field(other)).to_have_value(words)
        other.get_by_label("Model").select_option(model)
        other.get_by_label("Temperature").fill(str(temperature))
    press(text, "New seed")
    seed = int(text.get_by_label("Seed").input_value())
    assert seed != 7
    press(text, "Write all again")
    settings = [("text@1", 0.8), ("text-fast@1", 0.8), ("text@1", 0.2)]
    for number, (model, temperature) in enumerate(settings, 1):
        expect(ending(branch(text, number))).to_have_text(f"Wrote 60 characters, with seed {seed}.")
        whole = generate(served, words, model=model, temperature=temperature, seed=seed, max_length=60)
        expect(field(branch(text, number))).to_have_value(whole)
        expect_map(branch(text, number), served, whole, model)


def test_a_refusal_is_shown_in_words(text: Locator, served: Service) -> None:
    field(text).fill("a" + 31 * "\u0323\u0301")
    expect(text.get_by_role("alert")).to_contain_text("combining marks")
    press(text, "Write on")
    expect(ending(text)).to_have_text("Stopped after 0 characters, with seed 7.")
    field(text).fill("a word")
    expect_map(branch(text), served, "a word")
    expect(text.get_by_role("alert")).to_have_count(0)


# Elsewhere


def run(label: str, code: str, key: str = "") -> str:
    """What a code block writes."""
    command = ["bash", "-c", code] if label == "curl" else [sys.executable, "-c", code]
    environment = os.environ | {"CARRY_API_KEY": key, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=True)
    return str(json.loads(done.stdout)["text"]) if label == "curl" else done.stdout.removesuffix("\n")


def test_the_same_request_runs_elsewhere_as_it_is_copied(page: Page, text: Locator, served: Service) -> None:
    words = 'He said: "It\'s \U0001f600 1\\2 cafe\u0301."\n$HOME '
    field(text).fill(words)
    set_length(text, 40)
    text.get_by_label("Temperature").fill("0.4")
    text.get_by_text("The same as curl, Python, openai").click()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    written = generate(served, words, max_length=40, temperature=0.4).removeprefix(words)
    for label in ("curl", "Python", "openai"):
        press(text, f"Copy {label}")
        expect(text.get_by_text("Copied")).to_have_count(1 + ("curl", "Python", "openai").index(label))
        code = page.evaluate("navigator.clipboard.readText()")
        assert code == text.get_by_label(label, exact=True).inner_text()
        assert run(label, code) == written


def test_the_code_is_that_of_the_text_on_screen_whatever_the_sliders_say_now(text: Locator) -> None:
    words = field(text).input_value()
    set_length(text, 30)
    press(text, "Write on")
    expect(ending(text)).to_contain_text("Wrote 30")
    text.get_by_label("Temperature").fill("0.1")
    text.get_by_text("The same as curl, Python, openai").click()
    code = text.get_by_label("curl", exact=True)
    expect(code).to_contain_text('"temperature":0.8')
    expect(code).to_contain_text(words)
    field(text).fill("Another text")
    expect(code).to_contain_text('"prompt":"Another text"')
    expect(code).to_contain_text('"temperature":0.1')


def test_with_a_key_all_works_and_the_code_has_none(visit: Visit, served_with_key: Service) -> None:
    with visit(served_with_key.url) as page:
        panel = open_tab(page, "text")
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_role("button", name="Use key").click()
        expect(bars(panel)).to_have_count(6)
        words = field(panel).input_value()
        set_length(panel, 30)
        press(panel, "Write on")
        expect(ending(panel)).to_have_text("Wrote 30 characters, with seed 7.")
        written = field(panel).input_value().removeprefix(words)
        panel.get_by_text("The same as curl, Python, openai").click()
        for label in ("curl", "Python", "openai"):
            code = panel.get_by_label(label, exact=True).inner_text()
            assert KEY not in code
            assert run(label, code, KEY) == written


def test_a_phone_scrolls_no_text_sideways(visit: Visit, served: Service) -> None:
    with visit(served.url, viewport={"width": 380, "height": 800}, is_mobile=True, has_touch=True) as page:
        panel = open_tab(page, "text")
        expect(bars(panel)).to_have_count(6)
        press(panel, "Compare")
        panel.get_by_text("The same as curl, Python, openai").first.click()
        cells(branch(panel)).last.tap()
        expect(alternatives(panel)).to_have_count(6)
        assert page.evaluate("document.documentElement.scrollWidth") == 380


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_seen_and_is_named(visit: Visit, served: Service, scheme: str) -> None:
    with visit(served.url, color_scheme=scheme) as page:
        panel = open_tab(page, "text")
        press(panel, "Compare")
        press(branch(panel, 2), "Write on")
        expect(ending(branch(panel, 2))).to_contain_text("Wrote")
        field(panel).fill(UNICODE)
        expect(panel.get_by_text("The model does not know")).to_be_visible()
        panel.get_by_text("The same as curl, Python, openai").first.click()
        cells(branch(panel, 2)).nth(40).hover()
        expect(alternatives(panel)).to_have_count(6)
        faults = severe_faults(page)
        assert not faults, "\n".join(faults)

"""Sessions, and states that the caller keeps, over HTTP."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service.test_reload import add_version
from tests.service.test_serving import events

KEYS = "first-key-of-a-test,second-key-of-a-test"
FIRST, SECOND = ({"Authorization": f"Bearer {key}"} for key in KEYS.split(","))


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(models: Path, clock: Clock) -> Iterator[TestClient]:
    """A service whose clock the test sets; sessions live for 100 s and leave a tombstone for 50 more."""
    chosen = Settings(models_dir=models, session_ttl=100, session_tombstone_ttl=50, max_session_ttl=1000)
    with TestClient(create_app(chosen, clock), raise_server_exceptions=False) as opened:
        yield opened


def create(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/sessions", json=body or {"model": "text"})
    assert answer.status_code == 201, answer.text
    session: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/sessions/{session['id']}"
    assert answer.headers["etag"] == f'"{session["version"]}"'
    return session


def generate(client: TestClient, prompt: str = "", length: int = 10, **more: Any) -> Any:
    headers = more.pop("headers", {})
    body = {"prompt": prompt, "max_length": length, "seed": 5, **more}
    return client.post("/generate", json=body, headers=headers)


def test_a_text_in_several_calls_is_the_text_in_one_call(client: TestClient) -> None:
    session = create(client)
    assert (session["version"], session["position"]) == (0, 0)
    whole = generate(client, "abc de", 60).json()["text"]
    text = ""
    for i, (prompt, length) in enumerate([("abc", 0), (" de", 17), ("", 3), ("", 40)], 1):
        answer = generate(client, prompt, length, session_id=session["id"])
        text += answer.json()["text"]
        assert answer.headers["etag"] == f'"{i}"'
        position = len("abc" if i == 1 else "abc de") + len(text)
        assert answer.json()["session"] == {"id": session["id"], "version": i, "position": position}
    assert text == whole


def test_a_new_session_generates_as_a_call_without_a_session(client: TestClient) -> None:
    session = create(client)
    assert generate(client, "", 30, session_id=session["id"]).json()["text"] == generate(client, "", 30).json()["text"]


def test_a_session_continues_a_series(client: TestClient) -> None:
    values = [3.0, 4, 6, 5, None, 8, 8, 9, 11, 10]
    whole = client.post("/forecast", json={"series": values, "horizon": 6, "include_history": True}).json()
    session = create(client, model="forecast", series=values[:3])["id"]
    assert client.get(f"/sessions/{session}").json()["position"] == 3
    body = {"horizon": 6, "session_id": session, "include_history": True}
    client.post("/forecast", json={**body, "series": values[3:5]})
    forecast = client.post("/forecast", json={**body, "series": values[5:]}).json()
    assert forecast["median"] == pytest.approx(whole["median"], rel=1e-4)
    for level, row in forecast["history"]["quantiles"].items():
        assert row == pytest.approx(whole["history"]["quantiles"][level][5:], rel=1e-4)
    again = client.post("/forecast", json={"series": [], "horizon": 6, "session_id": session, "commit": False}).json()
    assert again["quantiles"] == forecast["quantiles"]
    assert again["session"] == forecast["session"] == {"id": session, "version": 2, "position": 10}
    after = {"series": [], "horizon": 2, "session_id": session, "start": "2024-01-01", "freq": "D"}
    assert client.post("/forecast", json=after).json()["timestamps"] == ["2024-01-01", "2024-01-02"]
    missing = client.post("/forecast", json={"series": [None, None], "session_id": session})
    assert missing.json()["session"]["position"] == 12


def test_a_session_continues_several_features(client: TestClient) -> None:
    series: dict[str, list[Any]] = {"f0": [1.0, 2, 3, 4], "f1": ["a", "b", None, "c"]}
    first, rest = ({name: row[part] for name, row in series.items()} for part in (slice(2), slice(2, None)))
    whole = client.post("/forecast", json={"model": "weather", "series": series}).json()["median"]
    session = create(client, model="weather")["id"]
    # Send the future of the third step with the second, as one call would.
    client.post("/forecast", json={"session_id": session, "series": first, "future": {"f1": series["f1"][2:3]}})
    forecast = client.post("/forecast", json={"session_id": session, "series": rest})
    assert forecast.json()["median"] == pytest.approx(whole, rel=1e-4)
    nothings: list[Any] = [[], {"f0": [], "f1": []}]
    for nothing in nothings:
        answer = client.post("/forecast", json={"session_id": session, "series": nothing})
        assert answer.json()["median"] == forecast.json()["median"]


def test_a_session_continues_predictions(client: TestClient) -> None:
    whole = client.post("/predict", json={"text": "abcd", "per_position": True}).json()
    session = create(client, prompt="ab")["id"]
    predicted = client.post("/predict", json={"text": "cd", "per_position": True, "session_id": session}).json()
    assert predicted["positions"] == whole["positions"][2:]
    assert predicted["next"] == whole["next"]
    nothing = client.post("/predict", json={"text": "", "session_id": session, "commit": False}).json()
    assert nothing["next"] == whole["next"]
    assert nothing["session"] == {"id": session, "version": 1, "position": 4}


def test_a_call_without_commit_changes_nothing(client: TestClient) -> None:
    session = create(client, prompt="abc")["id"]
    before = client.get(f"/sessions/{session}/state").json()
    first = generate(client, "d", 20, session_id=session, commit=False, n=3)
    assert len(first.json()["choices"]) == 3
    assert first.json()["text"] == generate(client, "abcd", 20).json()["text"]
    assert first.headers["etag"] == '"0"'
    assert client.get(f"/sessions/{session}/state").json() == before


def test_a_session_ends_where_the_returned_text_ends(client: TestClient) -> None:
    """Not at the last token that the model generated, which may lie beyond the stop text."""
    free = generate(client, "abc", 60, temperature=1).json()["text"]
    stop = free[30:33]
    session = create(client, prompt="abc")["id"]
    cut = generate(client, "", 60, temperature=1, stop=[stop], session_id=session).json()
    assert cut["text"] == free[: free.index(stop)]
    assert cut["session"]["position"] == 3 + len(cut["text"])
    rest = generate(client, "", 60 - len(cut["text"]), temperature=1, session_id=session).json()["text"]
    assert cut["text"] + rest == free


def test_a_stream_updates_the_session_at_its_end(client: TestClient) -> None:
    session = create(client, prompt="abc")["id"]
    streamed = generate(client, "", 40, session_id=session, stream=True)
    *deltas, (_, last) = events(streamed.text)
    whole = generate(client, "abc", 40).json()
    assert "".join(data["text"] for _, data in deltas) == whole["text"]
    assert last["session"] == {"id": session, "version": 1, "position": 43}
    assert client.get(f"/sessions/{session}").json()["version"] == 1


@pytest.mark.parametrize("logprobs", [0, 2])
def test_a_repeated_stream_has_the_same_events(client: TestClient, logprobs: int) -> None:
    session = create(client, prompt="abc")["id"]
    key = {"Idempotency-Key": session}
    call: dict[str, Any] = {"session_id": session, "stream": True, "logprobs": logprobs, "headers": key}
    streamed, again = (generate(client, "", 200, **call) for _ in range(2))
    assert streamed.status_code == 200
    assert again.content == streamed.content
    assert again.headers["content-type"] == streamed.headers["content-type"]
    assert again.headers["idempotency-replayed"] == "true"
    assert client.get(f"/sessions/{session}").json()["version"] == 1


def test_an_error_before_a_stream_begins_is_a_plain_answer(client: TestClient) -> None:
    assert generate(client, "", 40, session_id="0" * 32, stream=True).status_code == 404
    session = create(client)["id"]
    answer = generate(client, "", 4, session_id=session, stream=True, headers={"If-Match": '"7"'})
    assert answer.status_code == 412
    assert generate(client, "", 4, session_id=session).status_code == 200


def test_the_client_can_keep_the_state(client: TestClient) -> None:
    whole = generate(client, "abcd", 30).json()["text"]
    first = generate(client, "ab", 0, state="").json()
    assert first["session"] is None
    second = generate(client, "cd", 11, state=first["state"]).json()
    third = client.post(
        "/generate", json={"prompt": "", "max_length": 19, "seed": 5, "state": second["state"], "stream": True}
    )
    *deltas, (_, last) = events(third.text)
    assert second["text"] + "".join(data["text"] for _, data in deltas) == whole
    # The service stores nothing: the same state gives the same answer again.
    assert generate(client, "cd", 11, state=first["state"]).json() == second
    assert generate(client, "cd", 11, state=first["state"], commit=False).json()["state"] is None
    predicted = client.post("/predict", json={"text": "", "state": last["state"]}).json()
    assert predicted["next"] == client.post("/predict", json={"text": "abcd" + whole}).json()["next"]


def test_a_batch_takes_and_returns_states(client: TestClient) -> None:
    rows = [[1.0, 2, 4, 3], [7.0, 7, 8, 6]]
    first = client.post("/forecast/batch", json={"requests": [{"series": row[:2], "state": ""} for row in rows]})
    requests = [
        {"series": row[2:], "horizon": 3, "state": answer["state"]}
        for row, answer in zip(rows, first.json()["results"], strict=True)
    ]
    items = [*requests, {**requests[0], "state": "nonsense"}, {"series": [1], "session_id": "0" * 32}]
    *answers, broken, refused = client.post("/forecast/batch", json={"requests": items}).json()["results"]
    for row, answer in zip(rows, answers, strict=True):
        whole = client.post("/forecast", json={"series": row, "horizon": 3}).json()
        assert answer["median"] == pytest.approx(whole["median"], rel=1e-4)
        assert answer["state"]
    assert (broken["code"], broken["errors"][0]["path"]) == ("state_refused", "$.requests[2].state")
    assert refused["errors"][0]["path"] == "$.requests[3].session_id"


def test_a_session_can_be_forked_rewound_and_deleted(client: TestClient) -> None:
    session = create(client, prompt="abc")["id"]
    first_text = generate(client, "", 8, session_id=session).json()["text"]
    fork = client.post(f"/sessions/{session}/fork").json()
    assert (fork["version"], fork["position"]) == (0, 11)
    second_text = generate(client, "", 8, session_id=session).json()["text"]
    assert generate(client, "", 8, session_id=fork["id"]).json()["text"] == second_text
    back = client.post(f"/sessions/{session}/rewind", json={"version": 1})
    assert (back.status_code, back.json()["version"], back.json()["position"]) == (200, 3, 11)
    assert back.headers["etag"] == '"3"'
    assert generate(client, "", 8, session_id=session).json()["text"] == second_text
    early = client.post(f"/sessions/{session}/fork", json={"version": 0, "ttl": 60}).json()
    assert (early["position"], early["ttl"]) == (3, 60)
    assert generate(client, "", 8, session_id=early["id"]).json()["text"] == first_text
    shown = client.get(f"/sessions/{session}").json()
    assert [v["version"] for v in shown["versions"]] == [3, 2, 1, 0]
    assert shown["model_loaded"]
    assert client.delete(f"/sessions/{session}").status_code == 204
    assert client.get(f"/sessions/{session}").status_code == 404
    assert generate(client, "", 8, session_id=fork["id"]).status_code == 200


def test_only_the_last_versions_are_stored(client: TestClient) -> None:
    session = create(client)["id"]
    for _ in range(12):
        generate(client, "a", 0, session_id=session)
    versions = [v["version"] for v in client.get(f"/sessions/{session}").json()["versions"]]
    assert versions == [11, 10, 9, 8, 7, 6, 5, 4]
    for version in (3, 13, 10**15):
        refused = client.post(f"/sessions/{session}/rewind", json={"version": version})
        assert (refused.status_code, refused.json()["code"]) == (409, "version_not_kept")
        assert "11, 10, 9, 8, 7, 6, 5, 4" in refused.json()["detail"]
    assert client.post(f"/sessions/{session}/rewind", json={"version": 12}).json()["version"] == 13


def test_an_exported_state_can_be_imported(client: TestClient) -> None:
    session = create(client, prompt="abc")["id"]
    exported = client.get(f"/sessions/{session}/state")
    assert exported.headers["etag"] == '"0"'
    state = exported.json()["state"]
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", state)
    text = generate(client, "", 12, session_id=session).json()["text"]
    other = create(client, state=state, ttl=50)
    assert (other["position"], other["ttl"]) == (3, 50)
    assert generate(client, "", 12, session_id=other["id"]).json()["text"] == text
    put = client.put(f"/sessions/{session}/state", json={"state": state})
    assert (put.status_code, put.json()["version"], put.json()["position"]) == (200, 2, 3)
    assert generate(client, "", 12, session_id=session).json()["text"] == text


def test_forged_and_foreign_states_are_refused(client: TestClient) -> None:
    text = client.get(f"/sessions/{create(client, prompt='abc')['id']}/state").json()["state"]
    series = client.get(f"/sessions/{create(client, series=[1, 2])['id']}/state").json()["state"]
    session = create(client)["id"]
    raw = bytearray(base64.urlsafe_b64decode(text))
    raw[100] ^= 1
    wrong = {
        "nonsense": "not a state",
        "half a surrogate": "\ud800",
        "accents": "é" * 40,
        "cut": text[:-8],
        "changed": base64.urlsafe_b64encode(raw).decode(),
        "nothing": base64.urlsafe_b64encode(b"carry").decode(),
    }
    for state in wrong.values():
        headers = {"content-type": "application/json"}
        answer = client.post("/generate", content=json.dumps({"prompt": "", "state": state}), headers=headers)
        assert answer.status_code == 422, state
        assert answer.json()["errors"][0]["path"] == "$.state"
        put = client.put(f"/sessions/{session}/state", content=json.dumps({"state": state}), headers=headers)
        assert put.status_code == 422
        assert client.post("/sessions", json={"state": text[:-8]}).status_code == 422
    other = client.post("/generate", json={"prompt": "", "state": series})
    assert (other.status_code, other.json()["code"]) == (422, "wrong_model_kind")
    assert client.put(f"/sessions/{session}/state", json={"state": series}).json()["code"] == "state_refused"
    assert client.get(f"/sessions/{session}").json()["version"] == 0


def test_a_state_is_accepted_by_services_with_the_same_key_only(models: Path) -> None:
    answers = {}
    for name, key in (("one", "k" * 16), ("same", "k" * 16), ("other", "l" * 16)):
        settings = Settings.model_validate({"models_dir": models, "state_key": key})
        with TestClient(create_app(settings)) as client:
            if name == "one":
                state = generate(client, "abc", 5, state="").json()["state"]
            answers[name] = generate(client, "", 5, state=state).status_code
    assert answers == {"one": 200, "same": 200, "other": 422}


def test_if_match_stops_calls_at_other_versions(client: TestClient) -> None:
    session = create(client)["id"]
    assert generate(client, "a", 1, session_id=session, headers={"If-Match": '"0"'}).status_code == 200
    for tag in ('"0"', 'W/"1"', '"x"', '"0", "2"', '"99999999999999999999999"'):
        answer = generate(client, "a", 1, session_id=session, headers={"If-Match": tag})
        assert (answer.status_code, answer.json()["code"]) == (412, "version_mismatch"), tag
        for route in ("fork", "rewind"):
            body = {"version": 0}
            assert client.post(f"/sessions/{session}/{route}", json=body, headers={"If-Match": tag}).status_code == 412
        assert client.delete(f"/sessions/{session}", headers={"If-Match": tag}).status_code == 412
        assert client.get(f"/sessions/{session}", headers={"If-Match": tag}).status_code == 412
    for tag in ('"0", "1"', "*"):
        assert generate(client, "", 1, session_id=session, commit=False, headers={"If-Match": tag}).status_code == 200
    wrong = generate(client, "a", 1, session_id=session, headers={"If-Match": "1"})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "If-Match")
    alone = generate(client, "a", 1, headers={"If-Match": '"1"'})
    assert (alone.status_code, alone.json()["errors"][0]["path"]) == (422, "If-Match")


def test_a_repeated_call_gets_the_same_answer(client: TestClient) -> None:
    key = {"Idempotency-Key": "a key"}
    created = client.post("/sessions", json={"model": "text", "prompt": "abc"}, headers=key)
    again = client.post("/sessions", json={"model": "text", "prompt": "abc"}, headers=key)
    assert again.content == created.content
    assert again.headers["location"] == created.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in created.headers
    session = created.json()["id"]
    other = generate(client, "", 1, session_id=session, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    calls: dict[str, tuple[str, str, Any]] = {
        "generate": ("POST", "/generate", {"prompt": "a", "max_length": 9, "session_id": session}),
        "predict": ("POST", "/predict", {"text": "a", "session_id": session}),
        "fork": ("POST", f"/sessions/{session}/fork", None),
        "rewind": ("POST", f"/sessions/{session}/rewind", {"version": 0}),
        "delete": ("DELETE", f"/sessions/{session}", None),
    }
    for name, (method, path, body) in calls.items():
        first = client.request(method, path, json=body, headers={"Idempotency-Key": name})
        # The repetition is answered even if its condition no longer holds: the first call met it.
        second = client.request(method, path, json=body, headers={"Idempotency-Key": name, "If-Match": '"0"'})
        assert first.status_code in (200, 201, 204), first.text
        assert (second.status_code, second.content) == (first.status_code, first.content), name
        assert second.headers.get("etag") == first.headers.get("etag")
        assert second.headers["idempotency-replayed"] == "true"
    for bad in ("", "x" * 256, "é"):
        answer = client.post("/sessions", json={"model": "text"}, headers={"Idempotency-Key": bad.encode("latin-1")})  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "Idempotency-Key")


def test_concurrent_calls_come_one_after_the_other(client: TestClient) -> None:
    session = create(client, prompt="abc")["id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: generate(client, "", 7, session_id=session).json(), range(16)))
    answers.sort(key=lambda answer: answer["session"]["version"])
    assert [answer["session"]["version"] for answer in answers] == list(range(1, 17))
    assert "".join(answer["text"] for answer in answers) == generate(client, "abc", 7 * 16).json()["text"]


def test_concurrent_repetitions_of_a_call_are_done_once(client: TestClient) -> None:
    session = create(client, prompt="abc")["id"]
    with ThreadPoolExecutor(8) as pool:
        body = {"prompt": "", "max_length": 7, "session_id": session}
        same = list(
            pool.map(lambda _: client.post("/generate", json=body, headers={"Idempotency-Key": "same"}), range(8))
        )
        created = list(
            pool.map(
                lambda _: client.post("/sessions", json={"model": "text"}, headers={"Idempotency-Key": "x"}), range(8)
            )
        )
    assert len({answer.content for answer in same}) == 1
    assert len({answer.content for answer in created}) == 1
    assert client.get(f"/sessions/{session}").json()["version"] == 1


def test_sessions_expire_after_their_last_use(timed: TestClient, clock: Clock) -> None:
    idle, used, read = (create(timed, prompt="a")["id"] for _ in range(3))
    short = create(timed, model="text", ttl=10)["id"]
    clock.now += 55
    assert timed.get(f"/sessions/{short}").status_code == 410
    generate(timed, "b", 1, session_id=used)
    generate(timed, "b", 1, session_id=read, commit=False)
    clock.now += 60
    for path in (f"/sessions/{idle}", f"/sessions/{idle}/state"):
        answer = timed.get(path)
        assert (answer.status_code, answer.json()["code"]) == (410, "session_expired")
    assert generate(timed, "b", 1, session_id=idle).status_code == 410
    assert timed.delete(f"/sessions/{idle}").status_code == 410
    assert timed.post(f"/sessions/{idle}/fork").status_code == 410
    for alive in (used, read):
        assert timed.get(f"/sessions/{alive}").status_code == 200
    assert {s["id"] for s in timed.get("/sessions").json()["sessions"]} == {used, read}
    clock.now += 40
    assert timed.get(f"/sessions/{idle}").status_code == 404
    clock.now += 1e6
    assert timed.get("/sessions").json() == {"sessions": [], "next": None}


@pytest.mark.parametrize("ttl", [0, -1, 1001, "x"])
def test_an_invalid_time_to_live_is_refused(timed: TestClient, ttl: Any) -> None:
    answer = timed.post("/sessions", json={"model": "text", "ttl": ttl})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "$.ttl")


def test_sessions_are_listed_in_pages(timed: TestClient) -> None:
    created = sorted(create(timed)["id"] for _ in range(7))
    listed, after = [], ""
    while True:
        page = timed.get("/sessions", params={"limit": 3, "after": after}).json()
        listed += [session["id"] for session in page["sessions"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert listed == created
    for params in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"after": "é"}):
        assert timed.get("/sessions", params=params).status_code == 422


@pytest.fixture(scope="module")
def owned(models: Path) -> Iterator[TestClient]:
    settings = Settings.model_validate({"models_dir": models, "api_keys": KEYS, "max_sessions_per_owner": 3})
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


def test_calls_without_a_known_key_are_refused(owned: TestClient) -> None:
    for headers in ({}, {"Authorization": "Bearer nobody's key at all"}, {"Authorization": "Basic abc"}):
        for method, path in (
            ("POST", "/generate"),
            ("POST", "/forecast"),
            ("POST", "/forecast/batch"),
            ("POST", "/predict"),
            ("POST", "/sessions"),
            ("GET", "/sessions"),
            ("GET", "/models"),
            ("POST", "/models/reload"),
        ):
            answer = owned.request(method, path, headers=headers, json={"prompt": "a"})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert owned.get(path).status_code == 200


def test_a_session_is_visible_to_its_owner_only(owned: TestClient) -> None:
    session = owned.post("/sessions", json={"model": "text"}, headers=FIRST).json()["id"]
    for method, path, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/fork", None),
        ("POST", "/rewind", {"version": 0}),
        ("GET", "/state", None),
    ):
        theirs = owned.request(method, f"/sessions/{session}{path}", json=body, headers=SECOND)
        nobodys = owned.request(method, f"/sessions/{'0' * 32}{path}", json=body, headers=SECOND)
        assert theirs.status_code == nobodys.status_code == 404
        problems = [{**answer.json(), "request_id": "", "trace_id": ""} for answer in (theirs, nobodys)]
        assert problems[0] == problems[1]
    for headers, status in ((SECOND, 404), (FIRST, 200)):
        assert generate(owned, "a", session_id=session, headers=headers).status_code == status
    assert owned.get("/sessions", headers=SECOND).json()["sessions"] == []
    # The same key of another owner is another key.
    first = owned.post("/sessions", json={"model": "text"}, headers={**FIRST, "Idempotency-Key": "k"}).json()
    second = owned.post("/sessions", json={"model": "text"}, headers={**SECOND, "Idempotency-Key": "k"}).json()
    assert first["id"] != second["id"]
    while len(owned.get("/sessions", headers=FIRST).json()["sessions"]) < 3:
        owned.post("/sessions", json={"model": "text"}, headers=FIRST)
    full = owned.post("/sessions", json={"model": "text"}, headers=FIRST)
    assert (full.status_code, full.json()["code"]) == (429, "too_many_sessions")
    assert owned.post("/sessions", json={"model": "text"}, headers=SECOND).status_code == 201
    assert owned.delete(f"/sessions/{session}", headers=FIRST).status_code == 204
    assert owned.post("/sessions", json={"model": "text"}, headers=FIRST).status_code == 201


BAD: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "no model": ("/sessions", {}, 422, "$.model"),
    "an unknown model": ("/sessions", {"model": "nobody"}, 404, "$.model"),
    "two beginnings": ("/sessions", {"prompt": "a", "series": [1]}, 422, "$.series"),
    "a text for a forecaster": ("/sessions", {"prompt": "a", "model": "forecast"}, 422, "$.model"),
    "a series for a text model": ("/sessions", {"series": [1], "model": "text"}, 422, "$.model"),
    "an empty series": ("/sessions", {"series": []}, 422, "$.series"),
    "a series of nothing": ("/sessions", {"series": [None]}, 422, "$.series"),
    "a wrong value": ("/sessions", {"series": [1, "x"]}, 422, "$.series[1]"),
    "a text too long": ("/sessions", {"prompt": "a" * 5001}, 422, "$.prompt"),
    "an unknown field": ("/sessions", {"model": "text", "colour": 1}, 422, "$.colour"),
    "no session": ("/generate", {"prompt": "a", "session_id": "nobody"}, 404, "$.session_id"),
    "an odd session": ("/generate", {"prompt": "a", "session_id": "../\u0000"}, 404, "$.session_id"),
    "a session that is a number": ("/generate", {"prompt": "a", "session_id": 3}, 422, "$.session_id"),
    "both": ("/generate", {"prompt": "a", "session_id": "0" * 32, "state": ""}, 422, "$.state"),
    "a series without a value": ("/forecast", {"series": [], "state": ""}, 422, "$.series"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field(client: TestClient, name: str) -> None:
    path, body, status, field = BAD[name]
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (status, field), answer.text


def test_a_call_that_does_not_fit_a_session_is_refused_and_changes_nothing(client: TestClient) -> None:
    session = create(client, prompt="ab")["id"]
    for route, body, path in (
        ("/forecast", {"series": [1]}, "$.session_id"),
        ("/generate", {"prompt": "a", "model": "other"}, "$.model"),
        ("/generate", {"prompt": "a", "model": "text@2"}, "$.model"),
        ("/generate", {"prompt": "a", "n": 2}, "$.n"),
    ):
        answer = client.post(route, json={**body, "session_id": session})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    assert generate(client, "", 1, session_id=session, model="text@1").status_code == 200
    assert client.get(f"/sessions/{session}").json()["version"] == 1


def test_a_missed_deadline_changes_nothing(client: TestClient) -> None:
    session = create(client, prompt="ab")["id"]
    late = generate(client, "", 400, session_id=session, headers={"X-Request-Timeout": "0.001"})
    assert late.status_code == 504
    assert client.get(f"/sessions/{session}").json()["version"] == 0


def test_a_session_waits_for_its_unloaded_model(models: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    chosen = Settings(models_dir=models, session_store=url)
    with TestClient(create_app(chosen)) as client:
        session = create(client, prompt="ab")["id"]
        state = client.get(f"/sessions/{session}/state").json()["state"]
    with TestClient(create_app(chosen.model_copy(update={"models_dir": tmp_path}))) as client:
        answer = generate(client, "", 3, session_id=session)
        assert (answer.status_code, answer.json()["code"]) == (409, "session_model_gone")
        assert "POST /models/reload" in answer.json()["detail"]
        assert generate(client, "", 3, state=state).json()["code"] == "session_model_gone"
        assert client.get(f"/sessions/{session}").json()["model_loaded"] is False
        assert client.post(f"/sessions/{session}/fork").status_code == 201
    with TestClient(create_app(chosen)) as client:
        assert generate(client, "", 3, session_id=session).status_code == 200


def test_a_session_stays_with_its_version_of_the_model(models: Path, tmp_path: Path) -> None:
    """A newer version serves new sessions; an older one that is unloaded is waited for."""
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    with TestClient(create_app(Settings(models_dir=folder))) as client:
        old = create(client, prompt="ab")["id"]
        whole = generate(client, "ab", 30).json()["text"]
        text = generate(client, "", 10, session_id=old).json()["text"]
        add_version(folder / "text/1", folder / "text", 2)
        assert client.post("/models/reload").json()["loaded"] == ["text@2"]
        assert create(client, prompt="ab")["model"]["version"] == 2
        answer = generate(client, "", 10, session_id=old).json()
        assert answer["model"]["version"] == 1
        text += answer["text"]
        (folder / "text/1").rename(tmp_path / "away")
        client.post("/models/reload")
        refused = generate(client, "", 10, session_id=old)
        assert (refused.status_code, refused.json()["code"]) == (409, "session_model_gone")
        (tmp_path / "away").rename(folder / "text/1")
        client.post("/models/reload")
        assert text + generate(client, "", 10, session_id=old).json()["text"] == whole


def test_a_session_that_another_process_updated_is_loaded_again(models: Path, tmp_path: Path) -> None:
    """Also by a process whose cached copy is out of date, and where that copy could not be answered from."""
    chosen = Settings(models_dir=models, session_store=f"sqlite:///{tmp_path}/db")
    with TestClient(create_app(chosen)) as first, TestClient(create_app(chosen)) as second:
        text = create(first, prompt="ab")["id"]
        series = create(first, model="forecast")["id"]
        for _ in range(3):
            generate(first, "", 5, session_id=text)
            first.post(f"/sessions/{series}/rewind", json={"version": 0})
        for _ in range(2):
            generate(second, "", 5, session_id=text)
        second.post("/forecast", json={"series": [1, 2, 3], "session_id": series})
        back = first.post(f"/sessions/{text}/rewind", json={"version": 4})
        assert (back.status_code, back.json()["position"]) == (200, 22)
        nothing_new = first.post("/forecast", json={"series": [], "session_id": series})
        assert (nothing_new.status_code, nothing_new.json()["session"]["position"]) == (200, 3)


def test_metrics_count_sessions_and_events(timed: TestClient, clock: Clock) -> None:
    def shown(name: str) -> float:
        lines = timed.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    session = create(timed)["id"]
    create(timed)
    assert shown("carry_sessions ") == 2
    assert shown("carry_session_store_bytes ") > 0
    assert shown('carry_session_events_total{event="created"}') == 2
    for _ in range(2):
        generate(timed, "a", 1, session_id=session, headers={"Idempotency-Key": "k"})
    assert shown('carry_session_events_total{event="replayed"}') == 1
    assert shown("carry_session_commit_seconds_count") == 3
    timed.delete(f"/sessions/{session}")
    assert shown('carry_session_events_total{event="deleted"}') == 1
    assert shown("carry_sessions ") == 1

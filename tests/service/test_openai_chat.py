"""Chats over completions with the unmodified `openai` client, and the fields and routes that other clients use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from starlette.testclient import TestClient

from service.text.openai_chat import TEMPLATE, ChatAnswer, ChatMessage, chat_prompt
from service.text.openai_fields import IGNORED, REFUSED
from tests.builders import CHARACTERS, WORDS, word_model, write_model
from tests.served import KEY, served
from tests.service.test_openai import frames

MESSAGES: list[Any] = [
    {"role": "system", "content": "A talk by the fire."},
    {"role": "user", "content": "Who is there?"},
    {"role": "assistant", "content": "It is I."},
    {"role": "user", "content": [{"type": "text", "text": "Come "}, {"type": "text", "text": "in!"}]},
]
PROMPT = "A talk by the fire.\n\nUser: Who is there?\nAssistant: It is I.\nUser: Come in!\nAssistant: "


@pytest.fixture(scope="module")
def url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application on the small models and a word model."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("forecast", "text"):
        (folder / name).symlink_to(models / name)
    write_model(word_model(), folder, "words", tokenizer=WORDS)
    with served(folder) as url:
        yield url


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_a_chat_is_the_completion_of_a_plain_dialogue(api: OpenAI) -> None:
    controls: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "n": 2, "seed": 7, "frequency_penalty": 0.4}
    found = api.chat.completions.create(
        model="text", messages=MESSAGES, max_completion_tokens=60, stop=["q"], **controls
    )
    whole = api.completions.create(
        model="text", prompt=PROMPT, max_tokens=60, stop=["q", "\nUser:", "\nAssistant:"], **controls
    )
    assert [choice.message.content for choice in found.choices] == [choice.text for choice in whole.choices]
    assert [choice.finish_reason for choice in found.choices] == [choice.finish_reason for choice in whole.choices]
    assert {choice.message.role for choice in found.choices} == {"assistant"}
    assert found.object == "chat.completion"
    assert found.id.startswith("chatcmpl-")
    assert found.usage is not None
    assert whole.usage is not None
    assert found.usage.prompt_tokens == whole.usage.prompt_tokens == len(PROMPT)


@pytest.mark.parametrize("model", ["text", "words"])
def test_a_streamed_chat_has_the_same_turns(api: OpenAI, model: str) -> None:
    body: dict[str, Any] = {"model": model, "messages": MESSAGES, "max_tokens": 40, "n": 2, "seed": 3}
    body |= {"logprobs": True, "top_logprobs": 2}
    whole = api.chat.completions.create(**body)
    *chunks, last = api.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    assert last.usage == whole.usage
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert (mine[0].delta.role, mine[0].delta.content) == ("assistant", "")
        assert (mine[-1].delta.content, mine[-1].finish_reason) == (None, choice.finish_reason)
        assert all(c.finish_reason is None for c in mine[:-1])
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert choice.logprobs is not None
        logprobs = [entry for c in mine if c.logprobs is not None for entry in c.logprobs.content or []]
        assert logprobs == choice.logprobs.content
        assert "".join(entry.token for entry in logprobs).removeprefix(" ") == choice.message.content
        assert all(len(e.top_logprobs) == 2 and bytes(e.bytes or []).decode() == e.token for e in logprobs)


def test_a_turn_ends_where_the_next_one_begins(client: TestClient) -> None:
    bias = {str(CHARACTERS.vocabulary.index(character)): 100 for character in "U"}
    body = {"messages": MESSAGES, "max_tokens": 30, "logit_bias": bias}
    found = client.post("/v1/chat/completions", json=body).json()
    assert found["choices"][0]["message"]["content"] == "U" * 30
    ChatAnswer.model_validate(found)
    free = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 200, "seed": 1}).json()
    stop = free["choices"][0]["text"][20:23]
    cut = client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 200, "seed": 1, "stop": stop})
    assert cut.json()["choices"][0]["finish_reason"] == "stop"


def test_the_template_renders_a_chat_as_the_prompt() -> None:
    jinja2 = pytest.importorskip("jinja2")
    plain = [{**MESSAGES[0]}, MESSAGES[1], MESSAGES[2], {"role": "user", "content": "Come in!"}]
    rendered = jinja2.Environment().from_string(TEMPLATE).render(messages=plain, add_generation_prompt=True)
    messages = [ChatMessage.model_validate(message) for message in MESSAGES]
    assert rendered == chat_prompt(messages, "character") == PROMPT


BAD_CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "a role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
    ),
    "a call": ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    "long": ({"messages": [{"role": "user", "content": "x" * 6000}]}, "messages"),
    "marks": ({"messages": [{"role": "user", "content": "\u0301" * 40}]}, "messages"),
    "tools": ({"tools": [{"type": "function"}]}, "tools"),
    "much": ({"max_tokens": 5000}, "max_tokens"),
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_the_error_of_a_bad_chat_names_the_field(client: TestClient, name: str) -> None:
    fields, param = BAD_CHATS[name]
    answer = client.post("/v1/chat/completions", json={"messages": MESSAGES, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_fields_that_change_nothing_are_accepted_and_errors_of_others_name_the_alternative(
    client: TestClient, route: str
) -> None:
    body: dict[str, Any] = {"messages": MESSAGES} if "chat" in route else {"prompt": "It was "}
    body |= {"max_tokens": 9, "seed": 1}

    def text(**more: Any) -> Any:
        answer = client.post(route, json=body | more)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        return choice.get("text") or choice["message"]["content"]

    plain = text()
    assert text(**dict.fromkeys(IGNORED, True)) == plain
    assert text(metadata={"a": "b"}, service_tier="auto", user="x" * 5000, priority=3) == plain
    for name, (neutral_values, instead) in REFUSED.items():
        if name == "max_completion_tokens" and "chat" in route:
            continue
        for value in neutral_values:
            assert text(**{name: value}) == plain
        answer = client.post(route, json=body | {name: {"something": 1}})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name
        assert instead in answer.json()["error"]["message"]


def completion(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"prompt": "It was ", "max_tokens": 20, **body})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def test_a_negative_seed_is_random_and_a_large_one_is_a_seed(client: TestClient) -> None:
    for seed in (-1, -(2**62)):
        assert texts(completion(client, seed=seed)) != texts(completion(client, seed=seed))
    for seed in (2**63, 2**64 - 1):
        assert texts(completion(client, seed=seed)) == texts(completion(client, seed=seed))


def test_top_p_0_takes_the_most_probable_token_each_time(client: TestClient) -> None:
    assert texts(completion(client, top_p=0)) == texts(completion(client, temperature=0))


@pytest.mark.parametrize("stop", ["", [""], [], ["", "\t"], None])
def test_an_empty_stop_text_is_ignored(client: TestClient, stop: Any) -> None:
    assert texts(completion(client, stop=stop, seed=1)) == texts(completion(client, seed=1))


def test_n_and_best_of_may_be_128(client: TestClient) -> None:
    found = completion(client, n=128, max_tokens=3, seed=1)
    assert len({*texts(found)}) > 1
    assert len(found["choices"]) == 128
    best = completion(client, n=1, best_of=128, max_tokens=3, seed=1)
    assert best["usage"]["completion_tokens"] == 384


def test_whole_numbers_may_be_written_as_floats(client: TestClient) -> None:
    floats = completion(client, max_tokens=5.0, n=2.0, seed=3.0, logprobs=1.0)
    integers = completion(client, max_tokens=5, n=2, seed=3, logprobs=1)
    assert floats["choices"] == integers["choices"]
    assert completion(client, logprobs=True, seed=1)["choices"] == completion(client, logprobs=1, seed=1)["choices"]
    assert completion(client, logprobs=False)["choices"][0]["logprobs"] is None


def test_the_default_length_is_the_settings_or_what_the_limit_leaves_each_text(client: TestClient) -> None:
    """The limit in these tests is 400 tokens over all texts."""
    for absent in ({"max_tokens": None}, {"max_tokens": -1}):
        assert completion(client, **absent)["usage"]["completion_tokens"] == 256
        assert completion(client, n=4, **absent)["usage"]["completion_tokens"] == 400


def test_the_last_frame_of_a_text_has_its_reason_and_no_text(client: TestClient) -> None:
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 9, "stream": True, "logprobs": 1}
    *deltas, done = frames(client.post("/v1/completions", json=body).text)
    assert done == "[DONE]"
    for i in range(4):
        *before, last = [delta["choices"][0] for delta in deltas if delta["choices"][0]["index"] == i]
        assert before
        assert all(choice["text"] and choice["finish_reason"] is None for choice in before)
        assert (last["text"], last["finish_reason"], last["logprobs"]["tokens"]) == ("", "length", [])


def test_continuous_usage_stats_puts_the_usage_so_far_in_each_frame(client: TestClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "abc", "max_tokens": 40, "stream": True, "stream_options": options}
    *deltas, _ = frames(client.post("/v1/completions", json=body).text)
    counts = [delta["usage"]["completion_tokens"] for delta in deltas]
    assert counts == sorted(counts)
    assert counts[-1] == 40
    assert all(delta["usage"]["prompt_tokens"] == 3 for delta in deltas)


def test_model_cards_have_the_longest_text(api: OpenAI) -> None:
    cards = {card.id: card.model_dump() for card in api.models.list()}
    assert set(cards) == {"text", "words"}
    assert cards["text"]["max_model_len"] == 200_000
    assert cards["text"]["root"] == "text@1"


@given(text=st.text("the quick \u2014\u00e9\n"))
def test_tokenize_and_detokenize_are_inverse(client: TestClient, text: str) -> None:
    found = client.post(
        "/tokenize", json={"prompt": text, "add_special_tokens": False, "return_token_strs": True}
    ).json()
    assert found["tokens"] == CHARACTERS.encode(text)[1].tolist()
    assert found["count"] == len(found["tokens"])
    assert "".join(found["token_strs"]) == CHARACTERS.normalize(text)
    back = client.post("/detokenize", json={"tokens": found["tokens"]}).json()["prompt"]
    assert client.post("/tokenize", json={"prompt": back}).json()["tokens"] == found["tokens"]


def test_a_chat_is_tokenized_too_and_bad_tokens_are_refused(client: TestClient) -> None:
    found = client.post("/tokenize", json={"messages": MESSAGES}).json()
    assert found["tokens"] == CHARACTERS.encode(PROMPT)[1].tolist()
    assert found["token_strs"] is None
    for route, body, path in (
        ("/tokenize", {}, "$.prompt"),
        ("/tokenize", {"prompt": "a" * 6000}, "$.prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "$.prompt"),
        ("/detokenize", {"tokens": [1, 999]}, "$.tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "$.tokens[0]"),
        ("/detokenize", {"tokens": [1] * 6000}, "$.tokens"),
    ):
        answer = client.post(route, json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["path"] == path
    assert client.post("/tokenize", json={"prompt": "a", "model": "forecast"}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/completions", "POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("PATCH", "/v1/models/text", "GET"),
        ("GET", "/v2/forecast", "POST"),
    ],
)
def test_another_method_gets_405_and_the_right_one(client: TestClient, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert allowed in answer.headers["allow"]


def test_tokenizer_info_describes_the_tokenizer(client: TestClient) -> None:
    info = client.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["unk_token"]) == ("\n", "\n", "\ufffd")
    assert info["vocab_size"] == CHARACTERS.size
    assert client.get("/tokenizer_info", params={"model": "nobody"}).status_code == 404


def test_health_and_version_are_where_other_servers_have_them(url: str) -> None:
    for path in ("/health", "/ping"):
        answer = httpx2.get(url + path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert httpx2.get(f"{url}/version").json()["version"]


def test_the_times_to_retry_are_spread(models: Path) -> None:
    with (
        served(models, max_waiting_steps=300, max_generated_length=10**7) as url,
        OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        client.completions.create(model="text", prompt="a", max_tokens=10**6, stream=True) as stream,
    ):
        next(iter(stream))
        waits = []
        for _ in range(8):
            with pytest.raises(openai.RateLimitError) as refusal:
                client.completions.create(model="text", prompt="a", max_tokens=400)
            headers = refusal.value.response.headers
            waits.append(int(headers["retry-after-ms"]))
            assert 100 <= waits[-1] <= 1000 * int(headers["retry-after"])
        assert len({*waits}) > 1


def test_the_prompt_of_a_word_model_has_no_space_after_the_assistants_name() -> None:
    messages = [ChatMessage(role="user", content="a ba")]
    assert chat_prompt(messages, "word") == "User: a ba\nAssistant:"
    assert chat_prompt(messages, "character") == "User: a ba\nAssistant: "

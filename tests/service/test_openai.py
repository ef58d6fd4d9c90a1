"""The unmodified `openai` client on the real application, the frames of its streams, and its request bodies."""

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service import errors
from service.http.problems import problem_answer
from service.manifest import read_manifest
from service.text import openai_completion
from service.text.logprobs import TokenLogprob
from service.text.manifest import TextManifest
from service.text.openai_answers import CompletionAnswer, ErrorAnswer, logprob_lists
from service.text.openai_payload import CompletionPayload
from service.text.task import generate
from tests.builders import WORDS, word_model, write_model
from tests.served import KEY, served


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    """The application on the small models."""
    with served(models) as url:
        yield url


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[OpenAI]:
    """The client, without retries."""
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ids(models: Path) -> dict[str, int]:
    """The token ids of the small text model."""
    manifest = read_manifest(models / "text" / "1", TextManifest)
    return {token: id for id, token in enumerate(manifest.vocabulary)}


def generated(url: str, **body: Any) -> Any:
    """The answer of our own route."""
    answer = httpx2.post(f"{url}/generate", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def texts(completion: Completion) -> list[str]:
    return [choice.text for choice in completion.choices]


def test_a_seed_gives_the_text_of_our_own_route(api: OpenAI, url: str, ids: dict[str, int]) -> None:
    controls = {"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.2}
    penalties: dict[str, Any] = {"frequency_penalty": 0.3, "presence_penalty": -0.5}
    found = api.completions.create(
        model="text",
        prompt="Once upon",
        max_tokens=40,
        temperature=0.9,
        top_p=0.95,
        n=3,
        seed=7,
        stop=["ab", "q"],
        logit_bias={str(ids["e"]): 2, str(ids["x"]): -100},
        user="somebody",
        **penalties,
        extra_body=controls,
    )
    expected = generated(
        url,
        prompt="Once upon",
        max_length=40,
        temperature=0.9,
        top_p=0.95,
        n=3,
        seed=7,
        stop=["ab", "q"],
        logit_bias={"e": 2, "x": -100},
        **penalties,
        **controls,
    )
    assert texts(found) == [choice["text"] for choice in expected["choices"]]
    assert [c.finish_reason for c in found.choices] == [c["finish_reason"] for c in expected["choices"]]
    assert [c.index for c in found.choices] == [0, 1, 2]
    assert found.id.startswith("cmpl-")
    assert found.object == "text_completion"
    assert found.model == "text@1"
    assert found.system_fingerprint is not None
    assert found.system_fingerprint.startswith("text@1-")
    assert found.usage is not None
    written = sum(len(text) for text in texts(found))
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (
        9,
        written,
        9 + written,
    )


def test_the_defaults_are_those_of_that_api(api: OpenAI, url: str) -> None:
    """But for the length: 16 tokens are a dozen words in that API, and two or three here."""
    found = api.completions.create(model="text", prompt="So", seed=3)
    assert texts(found) == [generated(url, prompt="So", max_length=256, temperature=1.0, seed=3)["text"]]
    assert found.choices[0].logprobs is None
    assert found.choices[0].finish_reason == "length"
    assert texts(api.completions.create(model="text", prompt="So")) != texts(found)


def test_each_prompt_of_a_list_gets_what_it_would_get_alone(api: OpenAI) -> None:
    prompts = ["one", "", "three three", "one"]
    found = api.completions.create(model="text", prompt=prompts, n=2, seed=5, max_tokens=12)
    alone = [api.completions.create(model="text", prompt=prompt, n=2, seed=5, max_tokens=12) for prompt in prompts]
    assert texts(found) == [text for one in alone for text in texts(one)]
    assert [choice.index for choice in found.choices] == list(range(8))
    assert found.usage is not None
    assert found.usage.prompt_tokens == sum(map(len, prompts))
    assert found.usage.completion_tokens == 8 * 12


def test_without_a_seed_equal_prompts_get_texts_of_their_own(api: OpenAI) -> None:
    found = texts(api.completions.create(model="text", prompt=["a"] * 4, max_tokens=30))
    assert len({*found}) == 4


def test_a_prompt_may_be_tokens(api: OpenAI, ids: dict[str, int]) -> None:
    one, other = ([ids[character] for character in text] for text in ("Tell me", "a tale"))
    expected = texts(api.completions.create(model="text", prompt=["Tell me", "a tale"], seed=1, echo=True))
    assert texts(api.completions.create(model="text", prompt=one, seed=1, echo=True)) == expected[:1]
    assert texts(api.completions.create(model="text", prompt=[one, other], seed=1, echo=True)) == expected


def test_echo_without_new_tokens_scores_a_text(api: OpenAI, url: str) -> None:
    """As benchmarks of language models call it."""
    text = "the quick brown fox"
    found = api.completions.create(model="text@1", prompt=text, max_tokens=0, echo=True, logprobs=3)
    answer = httpx2.post(
        f"{url}/predict",
        json={"text": text, "per_position": True, "top_k": 3},
        headers={"Authorization": f"Bearer {KEY}"},
    ).json()
    assert texts(found) == [text]
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [*text]
    assert logprobs.text_offset == list(range(len(text)))
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    lists = found.choices[0].model_dump()["logprobs"]
    assert (lists["token_logprobs"][0], lists["top_logprobs"][0]) == (None, None), "nothing comes before it"
    assert sum(logprobs.token_logprobs[1:]) == pytest.approx(
        -math.log(2) * answer["bits_per_character"] * (len(text) - 1)
    )
    for i in range(1, len(text)):
        expected = {c["character"]: math.log(c["probability"]) for c in answer["positions"][i - 1]["next"]}
        expected[text[i]] = math.log(answer["positions"][i]["probability"])
        assert logprobs.top_logprobs[i] == pytest.approx(expected)
    assert found.usage is not None
    assert found.usage.completion_tokens == 0


def test_logprobs_0_has_the_log_probability_of_the_token_itself(api: OpenAI) -> None:
    found = api.completions.create(model="text", prompt="xy", max_tokens=4, logprobs=0, seed=1).choices[0]
    assert found.logprobs is not None
    assert found.logprobs.tokens is not None
    assert found.logprobs.token_logprobs is not None
    assert found.logprobs.top_logprobs == [
        {token: logprob} for token, logprob in zip(found.logprobs.tokens, found.logprobs.token_logprobs, strict=True)
    ]
    assert found.logprobs.text_offset == [2, 3, 4, 5], "offsets count the prompt, though the answer leaves it out"


def test_the_best_of_several_have_the_highest_mean_log_probability(api: OpenAI) -> None:
    body: dict[str, Any] = {"model": "text", "prompt": ["ab", "c"], "max_tokens": 20, "seed": 4, "stop": "e"}
    everything = api.completions.create(**body, n=6, logprobs=0)

    def mean(choice: Any) -> float:
        logprobs = choice.logprobs.token_logprobs
        return sum(logprobs) / len(logprobs) if logprobs else -math.inf

    found = api.completions.create(**body, n=2, best_of=6)
    expected = [sorted(everything.choices[i : i + 6], key=mean, reverse=True)[:2] for i in (0, 6)]
    assert texts(found) == [choice.text for best in expected for choice in best]
    assert found.choices[0].logprobs is None
    assert found.usage is not None
    assert found.usage == everything.usage


def test_a_stream_has_the_same_texts(api: OpenAI) -> None:
    body: dict[str, Any] = {"model": "text", "prompt": ["one", "three"], "n": 2, "seed": 6, "max_tokens": 40}
    body |= {"stop": ["a", "th"], "echo": True, "logprobs": 2}
    whole = api.completions.create(**body)
    *chunks, last = api.completions.create(**body, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == whole.usage
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
        assert choice.logprobs is not None
        joined = {
            name: [item for c in mine for item in getattr(c.logprobs, name)]
            for name in type(choice.logprobs).model_fields
        }
        assert joined == choice.logprobs.model_dump()
    assert all(chunk.usage is None for chunk in chunks)
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {(last.id, last.created, last.model)}


def test_usage_is_streamed_only_if_asked_for(api: OpenAI) -> None:
    *_, last = api.completions.create(model="text", prompt="a", stream=True)
    assert last.choices[0].finish_reason == "length"
    assert last.usage is None


def dropped(url: str) -> float:
    families = text_string_to_metric_families(httpx2.get(f"{url}/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == "carry_engine_dropped_total" and s.labels["reason"] == "cancelled")


def test_a_client_that_disconnects_amid_a_stream_is_dropped_with_all_texts(models: Path) -> None:
    """Three prompts, each of which would take minutes."""

    async def play(url: str) -> None:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            stream = await client.completions.create(
                model="text", prompt=["a", "b", "c"], max_tokens=10**6, n=2, stream=True
            )
            seen: set[int] = set()
            async for chunk in stream:
                seen.add(chunk.choices[0].index)
                if len(seen) == 6:
                    break
            await stream.close()

    with served(models, max_generated_length=10**7, max_waiting_steps=10**7) as url:
        asyncio.run(play(url))
        while dropped(url) < 3:
            pass
        assert dropped(url) == 3


def test_the_list_has_the_text_models_only(api: OpenAI) -> None:
    assert [model.id for model in api.models.list()] == ["text"]
    for name in ("text", "text@1"):
        card = api.models.retrieve(name)
        assert (card.id, card.object, card.owned_by) == (name, "model", "carry")
        assert card.created > 1_600_000_000
    for name in ("forecast", "text@2", "nobody"):
        with pytest.raises(openai.NotFoundError):
            api.models.retrieve(name)


def test_an_unknown_model_is_404_and_the_error_names_the_text_models(api: OpenAI) -> None:
    for name in ("gpt-5", "forecast", "text@9"):
        with pytest.raises(openai.NotFoundError) as refusal:
            api.completions.create(model=name, prompt="a")
        assert (refusal.value.code, refusal.value.param) == ("model_not_found", "model")
        assert refusal.value.request_id
        assert f"no text model {name!r}; those loaded are: text@1" in refusal.value.message
        assert "forecast@1" not in refusal.value.message


@pytest.mark.parametrize("name", ["davinci-002", "babbage-002", "gpt-3.5-turbo-instruct", "text-davinci-003", None])
def test_the_default_names_of_clients_mean_the_default_model(client: TestClient, name: str | None) -> None:
    body = {"prompt": "a", "max_tokens": 5, "seed": 1}
    if name is not None:
        body["model"] = name
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "text@1"


def test_the_error_of_another_openai_route_names_the_routes_here(api: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="these models complete texts") as refusal:
        api.embeddings.create(model="text", input="Hello")
    assert refusal.value.code == "not_offered"


def test_a_base_url_without_the_prefix_lists_the_models_and_gets_the_right_url(url: str) -> None:
    with OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["text"]
        with pytest.raises(openai.NotFoundError, match=f"set the client's base_url to {url}/v1"):
            client.completions.create(model="text", prompt="a")
        with pytest.raises(openai.NotFoundError, match=f"set the client's base_url to {url}/v1"):
            client.chat.completions.create(model="text", messages=[{"role": "user", "content": "Hello"}])


def test_a_wrong_key_is_refused(url: str) -> None:
    with OpenAI(base_url=f"{url}/v1", api_key="another", max_retries=0) as client:
        for call in (client.models.list, lambda: client.completions.create(model="text", prompt="a")):
            with pytest.raises(openai.AuthenticationError) as refusal:
                call()
            assert refusal.value.code == "invalid_api_key"
            assert refusal.value.response.headers["www-authenticate"] == "Bearer"


def test_a_full_queue_is_a_rate_limit_with_a_time_to_retry(models: Path) -> None:
    with (
        served(models, max_waiting_steps=300, max_generated_length=10**7) as url,
        OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        client.completions.create(model="text", prompt="a", max_tokens=10**6, stream=True) as stream,
    ):
        next(iter(stream))
        for streamed in (False, True):
            with pytest.raises(openai.RateLimitError) as refusal:
                client.completions.create(model="text", prompt="a", max_tokens=400, stream=streamed)
            assert refusal.value.code == "rate_limit_exceeded"
            assert refusal.value.type == "rate_limit_error"
            assert int(refusal.value.response.headers["retry-after"]) >= 1


def test_a_passed_deadline_is_a_server_error(api: OpenAI) -> None:
    late = {"X-Request-Timeout": "1e-6"}
    with pytest.raises(openai.InternalServerError) as refusal:
        api.completions.create(model="text", prompt="a", extra_headers=late)
    assert (refusal.value.status_code, refusal.value.code) == (504, "deadline_exceeded")
    with pytest.raises(openai.APIError, match="not done by the deadline"):
        list(api.completions.create(model="text", prompt="a", stream=True, extra_headers=late))


def test_an_answer_has_the_request_id_that_the_caller_sent(api: OpenAI) -> None:
    found = api.completions.create(model="text", prompt="a", extra_headers={"X-Request-ID": "mine-1"})
    assert found._request_id == "mine-1"
    assert api.models.list()._request_id


def test_a_token_of_a_word_model_is_a_word(tmp_path: Path) -> None:
    write_model(word_model(), tmp_path, "words", tokenizer=WORDS)
    prompt, tokens = "it's abba zebra", ["it's", " abba", " zebra"]
    body: dict[str, Any] = {"model": "words", "max_tokens": 6, "seed": 2, "logprobs": 1, "echo": True}
    prompt_ids = WORDS.ids(tokens).tolist()
    with served(tmp_path) as url, OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        found = client.completions.create(prompt=prompt, **body)
        scored = client.completions.create(prompt=[prompt_ids, [*prompt_ids, prompt_ids[1]]], **body)
        expected = generated(url, prompt=prompt, max_length=6, seed=2, temperature=1.0)["text"]
        with pytest.raises(openai.BadRequestError, match="their text has other tokens than these"):
            client.completions.create(prompt=WORDS.ids(["a", "b"]).tolist(), **body)
    [choice] = found.choices
    assert choice.text == prompt + expected
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.tokens[:3] == tokens
    check_parallel(choice.logprobs.model_dump(), choice.text, 0)
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 6)
    # The third token is the unknown one.
    assert scored.choices[0].text == "it's abba<unk>" + expected
    assert scored.choices[0].logprobs is not None
    assert scored.choices[0].logprobs.token_logprobs == choice.logprobs.token_logprobs


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"tempreature": 1}, "tempreature", "not permitted"),
    "tools": ({"tools": [{}]}, "tools", "call no tools"),
    "another's name": ({"n_predict": 5}, "n_predict", "use `max_tokens`"),
    "another's filter": ({"typical_p": 0.9}, "typical_p", "use `top_k`, `top_p` or `min_p`"),
    "a grammar": ({"response_format": {"type": "json_object"}}, "response_format", "no grammar"),
    "suffix": ({"suffix": "end"}, "suffix", "leave it out"),
    "presence": ({"presence_penalty": 2.1}, "presence_penalty", "less than or equal to 2"),
    "frequency": ({"frequency_penalty": -2.1}, "frequency_penalty", "greater than or equal to -2"),
    "hot": ({"temperature": 11}, "temperature", "less than or equal to 10"),
    "many logprobs": ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
    "few best": ({"n": 3, "best_of": 2}, "best_of", "at least n"),
    "best streamed": ({"best_of": 2, "stream": True}, "best_of", "a stream"),
    "options of no stream": ({"stream_options": {"include_usage": True}}, "stream_options", "`stream`"),
    "obfuscation": ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options", "padded"),
    "no prompts": ({"prompt": []}, "prompt", "at least 1 item"),
    "a number": ({"prompt": 5}, "prompt", "string"),
    "a mixture": ({"prompt": ["a", 5]}, "prompt[1]", "string"),
    "a mixture of tokens": ({"prompt": [1, "a"]}, "prompt[1]", "integer"),
    "a truth": ({"prompt": [True]}, "prompt[0]", "integer"),
    "no token": ({"prompt": [[1], [2, 99]]}, "prompt[1][1]", "no token; those are 0 to"),
    "half a pair": ({"prompt": ["a", "\ud800"]}, "prompt[1]", "unicode"),
    "a bias of no token": ({"logit_bias": {"e": 1}}, "logit_bias.e", "no token"),
    "a bias of the unknown": ({"logit_bias": {"0": 1}}, "logit_bias.0", "no token"),
    "a bias of no number": ({"logit_bias": {"05": 1}}, "logit_bias.05", "no token"),
    "a large bias": ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
    "many biases": ({"logit_bias": dict.fromkeys(map(str, range(2000)), "x")}, "logit_bias", "more than 1024 fields"),
    "many wrong prompts": ({"prompt": [{}] * 9000}, "prompt[0]", "string"),
    "many copies": ({"n": 129}, "n", "less than or equal to 128"),
    "a large seed": ({"seed": 2**64}, "seed", ""),
    "half a token": ({"max_tokens": 5.5}, "max_tokens", "integer"),
    "long": ({"prompt": ["x" * 3000, "y" * 3000]}, "prompt", "at most 5000"),
    "too much": ({"prompt": ["x"] * 5, "n": 10, "max_tokens": 9}, "max_tokens", "at most 400"),
    "too much in the end": ({"n": 1, "best_of": 64, "max_tokens": 7}, "max_tokens", "at most 400"),
    "too many": ({"prompt": ["x"] * 2000, "n": 6, "max_tokens": 0}, "prompt", "at most 10000"),
    "too many candidates": ({"prompt": "x" * 600, "echo": True, "logprobs": 20}, "logprobs", "at most 10000"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_parameter_and_what_is_accepted(client: TestClient, name: str) -> None:
    fields, param, message = BAD[name]
    body = json.dumps({"model": "text", "prompt": "a", **fields})
    answer = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = ErrorAnswer.model_validate_json(answer.content, extra="forbid").error
    assert error.type == "invalid_request_error"
    assert error.param is not None
    assert error.param.startswith(param)
    assert message in error.message


def test_a_token_outside_the_vocabulary_is_a_bad_request(api: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no token") as refusal:
        api.completions.create(model="text", prompt=[[1, 2], [3, 1000]])
    assert refusal.value.param == "prompt[1][1]"


def test_prompts_that_exceed_the_queue_are_refused(models: Path) -> None:
    with (
        served(models, max_waiting_steps=100) as url,
        OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="at most 100 tokens to read and to write, and these are 128"),
    ):
        client.completions.create(model="text", prompt=["a" * 48, "b" * 48], max_tokens=16)


def test_every_optional_field_may_be_null(client: TestClient) -> None:
    fields = {"model": "text", "prompt": "a", "seed": 1}
    nulls = dict.fromkeys(CompletionPayload.model_fields)
    whole = client.post("/v1/completions", json=nulls | fields)
    assert whole.status_code == 200, whole.text
    assert whole.json()["choices"] == client.post("/v1/completions", json=fields).json()["choices"]
    streamed = {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": None}}
    assert client.post("/v1/completions", json=nulls | fields | streamed).status_code == 200
    assert client.post("/v1/completions", json=nulls | {"anything": None}).status_code == 200


def test_errors_raised_before_the_route_have_openais_form_too(client: TestClient) -> None:
    as_json = {"Content-Type": "application/json"}
    answers = {
        400: client.post("/v1/completions", content=b"{", headers=as_json),
        413: client.post("/v1/completions", content=b" " * 100_001, headers=as_json),
        415: client.post("/v1/completions", content=b"{}", headers={**as_json, "Content-Encoding": "br"}),
        404: client.get("/v1/nothing"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["x-request-id"]
        ErrorAnswer.model_validate_json(answer.content, extra="forbid")


def test_every_error_has_openais_form_and_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CarryError)]
    for kind in kinds:
        error = kind.__new__(kind)
        errors.CarryError.__init__(error, "so it is", "$.prompt[0]")
        error.__dict__.setdefault("retry_after", 1)
        answer = problem_answer(error, {"path": "/v1/completions"})
        detail = ErrorAnswer.model_validate_json(bytes(answer.body), extra="forbid").error
        assert answer.status_code == (400 if kind.status == 422 else kind.status)
        assert (detail.param, detail.message) == ("prompt[0]", "prompt[0]: so it is")


def frames(text: str) -> list[Any]:
    """The data of each frame."""
    assert text.endswith("\n\n")
    lines = [frame.removeprefix("data: ") for frame in text.removesuffix("\n\n").split("\n\n")]
    return [data if data == "[DONE]" else json.loads(data) for data in lines]


@settings(max_examples=20)
@given(
    prompts=st.lists(st.text("ab c\u2019\u00e9", max_size=5), min_size=1, max_size=3),
    length=st.integers(0, 30),
    seed=st.integers(0, 2**53),
    n=st.integers(1, 3),
    stop=st.lists(st.text("aebt ", min_size=1, max_size=3), max_size=2),
    echo=st.booleans(),
    logprobs=st.none() | st.integers(0, 4),
)
def test_lists_are_parallel_and_tokens_are_the_text_whole_or_streamed(
    client: TestClient,
    prompts: list[str],
    length: int,
    seed: int,
    n: int,
    stop: list[str],
    echo: bool,
    logprobs: int | None,
) -> None:
    body = {"model": "text", "prompt": prompts, "max_tokens": length, "seed": seed, "n": n, "stop": stop}
    body |= {"echo": echo, "logprobs": logprobs}
    whole = client.post("/v1/completions", json=body).json()
    CompletionAnswer.model_validate(whole, extra="forbid")
    *deltas, done = frames(client.post("/v1/completions", json={**body, "stream": True}).text)
    assert done == "[DONE]"
    for choice in whole["choices"]:
        mine = [delta["choices"][0] for delta in deltas if delta["choices"][0]["index"] == choice["index"]]
        assert "".join(delta["text"] for delta in mine) == choice["text"]
        assert [delta["finish_reason"] for delta in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        if logprobs is None:
            assert choice["logprobs"] is None
            continue
        lists = choice["logprobs"]
        prompt = prompts[choice["index"] // n].replace("\u2019", "'")
        check_parallel(lists, choice["text"], 0 if echo else len(prompt))
        assert {name: [item for delta in mine for item in delta["logprobs"][name]] for name in lists} == lists
        for top, logprob, token in zip(lists["top_logprobs"], lists["token_logprobs"], lists["tokens"], strict=True):
            assert top is None or (logprobs <= len(top) <= logprobs + 1 and top[token] == logprob)


def check_parallel(lists: dict[str, list[Any]], text: str, begin: int) -> None:
    assert len({len(items) for items in lists.values()}) == 1
    assert "".join(lists["tokens"]) == text
    for token, offset in zip(lists["tokens"], lists["text_offset"], strict=True):
        assert text[offset - begin :].startswith(token)
    assert lists["text_offset"] == [begin + len("".join(lists["tokens"][:i])) for i in range(len(lists["tokens"]))]


CANDIDATES = st.lists(st.tuples(st.text(min_size=1, max_size=3), st.floats(0, 1)), max_size=5)


@given(
    logprobs=st.lists(
        st.builds(TokenLogprob, st.text(min_size=1, max_size=5), st.none() | st.floats(0, 1), CANDIDATES), max_size=9
    ),
    count=st.integers(0, 5),
    offset=st.integers(0, 100),
)
def test_lists_of_any_tokens_are_parallel(logprobs: list[TokenLogprob], count: int, offset: int) -> None:
    """Also with tokens of several characters, as in a word model, and with probabilities of 0."""
    lists = logprob_lists(logprobs, count, offset)
    check_parallel(lists, "".join(entry.token for entry in logprobs), offset)
    for entry, logprob, top in zip(logprobs, lists["token_logprobs"], lists["top_logprobs"], strict=True):
        assert (entry.probability is None) == (logprob is None) == (top is None)
        assert top is None or (math.isfinite(min(top.values())) and top[entry.token] == logprob)


def test_a_stream_that_fails_ends_with_an_error(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"model": "text", "prompt": ["a", "b"], "stream": True, "logprobs": 1}
    late = client.post("/v1/completions", json=body, headers={"X-Request-Timeout": "1e-6"})
    [only] = frames(late.text)
    assert ErrorAnswer.model_validate(only, extra="forbid").error.code == "deadline_exceeded"

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(openai_completion, "logprob_lists", fail)
    broken = client.post("/v1/completions", json=body)
    [only] = frames(broken.text)
    error = ErrorAnswer.model_validate(only, extra="forbid").error
    assert (error.code, error.type) == ("internal_error", "server_error")
    assert "secret" not in broken.text


def test_the_error_of_a_prompt_that_breaks_the_model_has_its_path(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the other prompts are fine."""

    def generate_or_fail(tokenizer: Any, request: Any, **rest: Any) -> Any:
        rows, task = generate(tokenizer, request, **rest)
        if request.prompt.sent != "b":
            return rows, task

        def failing() -> Any:
            yield from ()
            raise errors.NonFiniteOutputError("the model gives no finite scores after this prompt", "$.prompt")

        return rows, failing()

    monkeypatch.setattr(openai_completion, "generate", generate_or_fail)
    body = {"model": "text", "prompt": ["a", "b", "c"], "max_tokens": 100}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt[1]"
    last = frames(client.post("/v1/completions", json={**body, "stream": True}).text)[-1]
    assert last == answer.json()

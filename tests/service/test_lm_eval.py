"""lm-evaluation-harness scores texts by a running service, with its unmodified `local-completions` model.

The harness is installed without the data sets and metrics of its task files, so the task is given as data. `make
clients` runs the whole harness.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from tests.builders import WORDS, word_model, write_model
from tests.served import KEY, served

TASK = [
    ("The cat sat on the", [" mat", " roof", " dog"]),
    ("\u201cWell\u2026\u201d she said \u2014", [" no", " yes, I na\u00efvely do"]),
    ("", ["a b", "b"]),
]


@pytest.fixture(scope="module")
def url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "text").symlink_to(models / "text")
    write_model(word_model(), folder, "words", tokenizer=WORDS)
    with served(folder, default_text_model="text") as url:
        yield url


@pytest.fixture(scope="module")
def harness(url: str) -> Iterator[Any]:
    os.environ["OPENAI_API_KEY"] = KEY
    model = LocalCompletionsAPI(model="text", base_url=f"{url}/v1/completions", auth_token=KEY, batch_size=3)
    assert model.tokenizer_backend == "remote"
    yield model
    model.tokenizer.session.close()
    del os.environ["OPENAI_API_KEY"]


def predict(url: str, **body: Any) -> Any:
    answer = httpx2.post(f"{url}/predict", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_multiple_choice_task_gets_the_probabilities_of_predict(url: str, harness: Any) -> None:
    pairs = [(context, choice) for context, choices in TASK for choice in choices]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    likelihoods = harness.loglikelihood(requests, disable_tqdm=True)
    expected = {
        (context, choices[candidate["index"]]): candidate["logprob"]
        for context, choices in TASK
        for candidate in predict(url, text=context, candidates=choices)["candidates"]
    }
    assert [logprob for logprob, _ in likelihoods] == pytest.approx([expected[pair] for pair in pairs], abs=1e-4)


def test_a_perplexity_task_gets_the_bits_of_predict(url: str, harness: Any) -> None:
    text = "the quick brown fox \u2014 na\u00efve\u2026 jumps over the lazy dog. " * 5
    [nats] = harness.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    prediction = predict(url, text="\n" + text, per_position=True, top_k=1)
    expected = -math.log(2) * prediction["bits_per_character"] * (len(prediction["positions"]) - 1)
    assert nats == pytest.approx(expected, abs=1e-3)


def test_a_task_that_generates_gets_texts(url: str, harness: Any) -> None:
    options = {"until": ["q"], "max_gen_toks": 12, "do_sample": False}
    requests = [Instance("generate_until", {}, (f"Once {i}", dict(options)), i) for i in range(3)]
    texts = harness.generate_until(requests, disable_tqdm=True)
    assert len(texts) == 3
    assert all(0 < len(text) <= 12 for text in texts)

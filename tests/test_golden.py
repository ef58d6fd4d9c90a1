"""What the shipped models answer, written down: a change of a seed, a sampler, a scaler or a state format shows here.

`CARRY_RECORD_GOLDEN=1 pytest tests/test_golden.py` writes the answers anew. Do that only where an answer is meant to
change, and say why in the commit.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.engine.runner import int8_is_exact
from service.sessions.state import read_header, verify_state
from service.settings import Settings
from tests.conftest import SHIPPED

GOLDEN = Path(__file__).with_name("golden.json")
RECORDING = "CARRY_RECORD_GOLDEN" in os.environ
STATE_KEY = "golden-state-key-golden-state-key"

MONTHS = [112, 118, 132, 129, None, 135, 148, 148, 136, 119, 104, 118, 115, 126, 141, 135, 125, 149, 170, 170, 158, 133]
DAYS = [20.5 + 3 * (i % 7) + 0.37 * i - 0.011 * i * i for i in range(60)]

TEXTS: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": "She looked at ", "max_length": 60, "temperature": 0},
    "sampled": {"prompt": "The old house ", "max_length": 80, "temperature": 0.8, "top_p": 0.95, "seed": 7},
    "with a stop text": {"prompt": "It was ", "max_length": 200, "temperature": 0.7, "seed": 3, "stop": [". ", "\n\n"]},
    "text-fast": {"model": "text-fast", "prompt": "It was ", "max_length": 60, "temperature": 0.7, "seed": 11},
    "dates": {"model": "dates", "source": "le 1er févr. 98", "beams": 4, "n": 2, "seed": 1},
}
IN_TWO_PARTS = [
    {"prompt": "The captain ", "max_length": 30, "temperature": 0.7, "seed": 5},
    {"prompt": " But the sea ", "max_length": 30, "temperature": 0.7, "seed": 6},
]
FORECASTS: dict[str, dict[str, Any]] = {
    "months, with a gap": {"series": MONTHS, "horizon": 12, "freq": "MS", "levels": [80]},
    "days, beyond the horizon, with history": {
        "series": DAYS,
        "horizon": 100,
        "quantiles": [0.1, 0.5],
        "include_history": True,
    },
    "quantiles in the tails, within bounds": {
        "series": [91, 97, 93, 96, 90, 95, 98, 94],
        "horizon": 8,
        "lower": 0,
        "upper": 100,
        "quantiles": [0.001, 0.5, 0.999],
    },
}
CLASSES: dict[str, dict[str, Any]] = {
    "control-charts": {"model": "control-charts", "series": [*DAYS[:3], None, -2.0, 1.4, 2.9], "per_step": True},
    "languages": {"model": "languages", "text": "Wo ist der Bahnhof? \u4e2d", "top_k": 5, "per_step": True},
}
OPENAI = {"model": "text", "prompt": "It was ", "max_tokens": 20, "temperature": 0.7, "seed": 7, "logprobs": 2}
NIXTLA = {
    "series": {"y": DAYS[:48], "sizes": [48]},
    "freq": "D",
    "h": 7,
    "level": [80],
    "model": "timegpt-1",
    "multivariate": False,
}


@pytest.fixture(scope="module", params=["float32", "int8"])
def precision(request: pytest.FixtureRequest) -> str:
    if request.param == "int8" and not int8_is_exact():
        pytest.skip("this processor multiplies int8 inexactly")
    return str(request.param)


@pytest.fixture(scope="module")
def served(precision: str) -> Iterator[TestClient]:
    """The shipped models in one precision."""
    settings = Settings.model_validate({"models_dir": SHIPPED, "precision": precision, "state_key": STATE_KEY})
    with TestClient(create_app(settings)) as client:
        yield client


def post(client: TestClient, route: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(route, json=body)
    assert response.status_code < 300, response.text
    answer: dict[str, Any] = response.json()
    return answer


def vector_instructions() -> list[str]:
    """Those of this processor by which ONNX Runtime chooses its kernels, whose last bits differ."""
    known = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm"}
    words = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return sorted(known & set(words))


def check(precision: str, name: str, answer: Any) -> None:
    """Compare an answer with the one written down; numbers to a millionth of the largest beside them."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if RECORDING:
        golden["recorded with"] = vector_instructions()
        golden[f"{precision}, {name}"] = answer
        lines = [f"{json.dumps(key)}: {json.dumps(golden[key], ensure_ascii=False)}" for key in sorted(golden)]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if precision == "int8" and golden["recorded with"] != vector_instructions():
        pytest.skip("recorded on a processor whose int8 kernels round otherwise")
    assert_same(answer, golden[f"{precision}, {name}"])


def assert_same(answer: Any, golden: Any) -> None:
    if isinstance(golden, dict):
        assert answer.keys() == golden.keys()
        for key, value in golden.items():
            assert_same(answer[key], value)
    elif isinstance(golden, list) and any(isinstance(item, float) for item in golden):
        golden = [math.nan if item is None else item for item in golden]
        answer = [math.nan if item is None else item for item in answer]
        assert answer == pytest.approx(
            golden, nan_ok=True, rel=1e-6, abs=1e-6 * max(abs(item) for item in golden if item == item)
        )
    elif isinstance(golden, list):
        assert len(answer) == len(golden)
        for item, expected in zip(answer, golden, strict=True):
            assert_same(item, expected)
    elif isinstance(golden, float):
        assert answer == pytest.approx(golden, rel=1e-6)
    else:
        assert answer == golden


@pytest.mark.parametrize("name", TEXTS)
def test_generated_texts(served: TestClient, precision: str, name: str) -> None:
    answer = post(served, "/generate", TEXTS[name])
    check(precision, f"text: {name}", {key: answer[key] for key in ("text", "finish_reason", "usage")})


def test_a_text_of_a_session_in_two_parts(served: TestClient, precision: str) -> None:
    session = post(served, "/sessions", {"model": "text"})["id"]
    parts = [post(served, "/generate", {**part, "session_id": session})["text"] for part in IN_TWO_PARTS]
    state = served.get(f"/sessions/{session}/state").json()["state"]
    payload, header = verify_state(state, STATE_KEY.encode())
    check(precision, "text: a session in two parts", parts)
    check(precision, "state: header", {**asdict(header), "bytes": len(payload), "data_at": read_header(payload)[1]})


@pytest.mark.parametrize("name", FORECASTS)
def test_forecasts(served: TestClient, precision: str, name: str) -> None:
    answer = post(served, "/forecast", FORECASTS[name])
    check(precision, f"forecast: {name}", answer)


@pytest.mark.parametrize("name", CLASSES)
def test_classes(served: TestClient, precision: str, name: str) -> None:
    """Both models serve float32 by default, and only that is written down."""
    if precision == "int8":
        pytest.skip("not recorded")
    answer = post(served, "/classify", CLASSES[name])
    shares = answer.pop("probabilities")
    check(precision, f"classes: {name}", answer | {"classes": [*shares], "shares": [*shares.values()]})


def test_openai(served: TestClient, precision: str) -> None:
    answer = post(served, "/v1/completions", OPENAI)
    check(precision, "openai", {key: value for key, value in answer.items() if key not in ("id", "created")})


def test_nixtla(served: TestClient, precision: str) -> None:
    check(precision, "nixtla", post(served, "/v2/forecast", NIXTLA))

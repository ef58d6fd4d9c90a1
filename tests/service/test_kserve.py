"""KServe's time series API: its requests are answered by Carry's forecasters, in its form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings

STOCK = {
    "type": "univariate_time_series",
    "name": "stock_price",
    "series": [120, 122, 125, 127, 130, 133, 135],
    "frequency": "D",
    "start_timestamp": "2025-06-05T13:10:00Z",
}
HUMIDITY = {**STOCK, "name": "humidity", "series": [33, 34, None, 36, 37], "frequency": "H"}


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[TestClient]:
    """A client of the small models."""
    with TestClient(create_app(Settings(models_dir=models, session_store="memory://"))) as client:
        yield client


def forecast(client: TestClient, *inputs: dict[str, Any], **options: Any) -> Any:
    """The answer to these inputs."""
    body = {"model": "forecast", "inputs": inputs, "options": {"horizon": 4, **options}}
    answer = client.post("/v1/timeseries/forecast", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(client: TestClient, body: Any) -> dict[str, Any]:
    """The error of a refused request."""
    answer = client.post("/v1/timeseries/forecast", json=body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"code", "message", "param", "type"}
    return error


def own(client: TestClient, **fields: Any) -> Any:
    """Carry's own answer."""
    return client.post("/forecast", json={"model": "forecast", "horizon": 4, **fields}).json()


def test_the_request_of_kserves_reference_is_answered_in_its_form(client: TestClient) -> None:
    """With the further fields that the reference sends, and one output for each input."""
    body = {
        "model": "forecast",
        "inputs": [STOCK, HUMIDITY],
        "options": {"horizon": 4, "quantiles": [0.1, 0.5, 0.9], "other_options": "value"},
        "metadata": {"request_id": "user_defined_request_id", "other_data": "value"},
        "other_properties": "value",
    }
    answer = client.post("/v1/timeseries/forecast", json=body).json()
    assert (answer["status"], answer["error"], answer["model"]) == ("completed", None, "forecast")
    assert answer["usage"] == {"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20}
    first, second = answer["outputs"]
    assert (first["type"], first["status"], first["error"]) == ("time_series_forecast", "completed", None)
    (content,) = first["content"]
    wanted = own(client, series=STOCK["series"], freq="D", quantiles=[0.1, 0.5, 0.9])
    assert content == {
        "type": "univariate_time_series",
        "name": "stock_price",
        "mean_forecast": wanted["median"],
        "frequency": "D",
        "start_timestamp": "2025-06-12T13:10:00Z",
        "quantiles": wanted["quantiles"],
    }
    assert second["content"][0]["start_timestamp"] == "2025-06-05T18:10:00Z"
    assert second["content"][0]["mean_forecast"] == own(client, series=HUMIDITY["series"], freq="H")["median"]
    assert len({answer["id"], first["id"], second["id"]}) == 3


def test_without_quantiles_only_the_middle_is_answered(client: TestClient) -> None:
    """And without a start, the forecast has no time."""
    answer = forecast(client, {**STOCK, "start_timestamp": None})
    (content,) = answer["outputs"][0]["content"]
    assert content["quantiles"] is None
    assert content["start_timestamp"] == ""
    assert len(content["mean_forecast"]) == 4


@pytest.mark.parametrize(
    ("names", "freq"),
    [
        (("second", "S", "SECOND"), "S"),
        (("minute", "T"), "min"),
        (("hour", "H"), "h"),
        (("day", "D", "Day"), "D"),
        (("week", "W"), "W"),
        (("month", "M"), "M"),
        (("quarter", "Q"), "Q"),
        (("year", "Y"), "Y"),
        (("15min",), "15min"),
    ],
)
def test_every_frequency_is_known_by_each_of_its_names(client: TestClient, names: tuple[str, ...], freq: str) -> None:
    """The short ones and the long ones; and Carry's own."""
    start = "2025-01-01T00:00:00"
    times = own(client, series=STOCK["series"], freq=freq, start=start)["timestamps"]
    for name in names:
        answer = forecast(client, {**STOCK, "frequency": name, "start_timestamp": start})
        (content,) = answer["outputs"][0]["content"]
        assert (content["frequency"], content["start_timestamp"]) == (name, times[0])


@given(st.lists(st.lists(st.integers(-5, 5), min_size=2, max_size=2), min_size=3, max_size=8))
def test_each_variable_is_forecast_by_itself(client: TestClient, rows: list[list[int]]) -> None:
    """A multivariate series gets the forecasts that its variables get alone."""
    given = {**STOCK, "type": "multivariate_time_series", "series": rows}
    (content,) = forecast(client, given, quantiles=[0.9])["outputs"][0]["content"]
    for variable in range(2):
        alone = own(client, series=[row[variable] for row in rows], freq="D", quantiles=[0.5, 0.9])
        assert [row[variable] for row in content["mean_forecast"]] == alone["quantiles"]["0.5"]
        assert [row[variable] for row in content["quantiles"]["0.9"]] == alone["quantiles"]["0.9"]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"series": [[1, 2], [3, 4]]}, "inputs[1].series", "one list of numbers"),
        ({"type": "multivariate_time_series"}, "inputs[1].series", "a list for each time"),
        ({"type": "multivariate_time_series", "series": [[1, 2], [3]]}, "inputs[1].series", "as many values"),
        ({"type": "multivariate_time_series", "series": [[], []]}, "inputs[1].series", "at least one"),
        ({"series": []}, "inputs[1].series", "at least one value"),
        ({"series": [None, None]}, "inputs[1].series", "number"),
        ({"frequency": "fortnight"}, "inputs[1].frequency", "Y, Q, M, W, D"),
        ({"start_timestamp": "yesterday"}, "inputs[1].start_timestamp", "ISO 8601"),
    ],
)
def test_a_faulty_input_takes_no_other_down(
    client: TestClient, change: dict[str, Any], param: str, message: str
) -> None:
    """Its output has the error, which names the field. If it is alone, the call fails."""
    answer = forecast(client, STOCK, {**STOCK, **change})
    good, faulty = answer["outputs"]
    assert (answer["status"], good["status"], faulty["status"]) == ("partial", "completed", "error")
    assert good["content"][0]["mean_forecast"] == forecast(client, STOCK)["outputs"][0]["content"][0]["mean_forecast"]
    assert faulty["content"] == []
    assert faulty["error"]["param"] == param
    assert message in faulty["error"]["message"]
    alone = {"model": "forecast", "inputs": [{**STOCK, **change}], "options": {"horizon": 4}}
    assert problem(client, alone)["param"] == param.replace("1", "0")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"options": {}}, "options.horizon"),
        ({"options": {"horizon": 0}}, "options.horizon"),
        ({"options": {"horizon": 100_000}}, "options.horizon"),
        ({"options": {"horizon": 2, "quantiles": [0.5, 1.5]}}, "options.quantiles[1]"),
        ({"options": {"horizon": 2, "quantiles": [0.0001]}}, "options.quantiles"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{**STOCK, "type": "novel"}]}, "inputs[0].type"),
        ({"inputs": [{**STOCK, "series": [1, "two"]}]}, "inputs[0].series[1]"),
        ({"inputs": [STOCK] * 10_001}, "inputs"),
        ({"model": 3}, "model"),
    ],
)
def test_a_faulty_request_names_its_field(client: TestClient, change: dict[str, Any], param: str) -> None:
    """In KServe's form of an error."""
    body = {"model": "forecast", "inputs": [STOCK], "options": {"horizon": 4}, **change}
    assert problem(client, body)["param"] == param


def test_the_models_are_the_forecasters(client: TestClient) -> None:
    """As names; and an unknown one is not found."""
    assert "forecast" in client.get("/v1/timeseries/models").json()
    body = {"model": "timesfm", "inputs": [STOCK], "options": {"horizon": 4}}
    answer = client.post("/v1/timeseries/forecast", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")

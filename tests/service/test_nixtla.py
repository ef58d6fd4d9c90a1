"""The unmodified `nixtla` client against the real application, with data frames; and the bodies that it sends."""

import gzip
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import orjson
import pandas as pd
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from nixtla import NixtlaClient
from nixtla.nixtla_client import ApiError
from starlette.testclient import TestClient

from service.errors import InvalidRequestError
from service.forecast.manifest import ForecastManifest
from service.forecast.nixtla_payload import SeriesPayload, check_hist_exog, feature_names, panel
from service.manifest import read_manifest
from service.settings import Settings
from tests.builders import forecaster, write_model
from tests.echo import DAYS, write_echo
from tests.served import KEY, served

FIRST = pd.Timestamp("2001-01-01")
RENAMED = "will be (?s:.)*nixtla 1.0"


def client_of(url: str) -> NixtlaClient:
    """A client that tries once and does not log."""
    logging.getLogger("nixtla").setLevel(logging.CRITICAL)
    return NixtlaClient(api_key=KEY, base_url=url, max_retries=1)


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    """A service of the small models."""
    with served(models) as address:
        yield address


@pytest.fixture(scope="module")
def nixtla(url: str) -> NixtlaClient:
    """The client of this service."""
    return client_of(url)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of the echo model, and of `plain`: two features, none known ahead."""
    models = tmp_path_factory.mktemp("models")
    write_echo(models)
    write_model(forecaster(features=2, scaling="standard"), models, "plain")
    with served(models, default_forecast_model="echo") as address:
        yield address


def frame(sizes: dict[Any, int], freq: str | int = "MS") -> pd.DataFrame:
    """Series of these lengths that end together, of few digits: the client sends them in single precision."""
    rng = np.random.default_rng(5)
    longest = max(sizes.values())
    times = np.arange(longest) if isinstance(freq, int) else pd.date_range(FIRST, periods=longest, freq=freq)
    parts = [
        pd.DataFrame({"unique_id": name, "ds": times[-size:], "y": 20 + rng.normal(size=size).cumsum()})
        for name, size in sizes.items()
    ]
    return pd.concat(parts, ignore_index=True).round({"y": 3})


def values(of: pd.DataFrame, name: Any) -> list[float | None]:
    """One series, for JSON."""
    return [None if np.isnan(y) else y for y in of.loc[of["unique_id"] == name, "y"]]


def ours(url: str, route: str, **body: Any) -> Any:
    """The answer of one of Carry's own routes."""
    response = httpx2.post(url + route, json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_forecast_equals_that_of_carrys_own_route(nixtla: NixtlaClient, url: str) -> None:
    df = frame({"b": 30, "a": 44, "c": 3})
    forecast = nixtla.forecast(df, h=6, level=[80, 50])
    assert list(forecast.columns[:3]) == ["unique_id", "ds", "TimeGPT"]
    assert len(forecast) == 18
    for name, rows in forecast.groupby("unique_id"):
        expected = ours(url, "/forecast", series=values(df, name), horizon=6, levels=[80, 50], freq="MS")
        assert rows["TimeGPT"].tolist() == expected["median"]
        assert rows["TimeGPT-lo-80"].tolist() == expected["quantiles"]["0.1"]
        assert rows["TimeGPT-hi-80"].tolist() == expected["quantiles"]["0.9"]
        assert rows["TimeGPT-hi-50"].tolist() == expected["quantiles"]["0.75"]
        last = df.loc[df["unique_id"] == name, "ds"].max()
        assert rows["ds"].tolist() == list(pd.date_range(last, periods=7, freq="MS")[1:])


def test_quantiles_are_columns(nixtla: NixtlaClient, url: str) -> None:
    df = frame({"a": 20})
    forecast = nixtla.forecast(df, h=2, quantiles=[0.1, 0.25, 0.5, 0.9], freq="MS")
    expected = ours(url, "/forecast", series=values(df, "a"), horizon=2, quantiles=[0.1, 0.25, 0.5, 0.9], freq="MS")
    assert list(forecast.columns[2:]) == ["TimeGPT", "TimeGPT-q-10", "TimeGPT-q-25", "TimeGPT-q-50", "TimeGPT-q-90"]
    for percent, level in ((10, "0.1"), (25, "0.25"), (50, "0.5"), (90, "0.9")):
        assert forecast[f"TimeGPT-q-{percent}"].tolist() == expected["quantiles"][level]


def test_history_comes_before_the_forecast(nixtla: NixtlaClient, url: str) -> None:
    df = frame({"a": 20, "b": 9})
    forecast = nixtla.forecast(df, h=2, level=[80], add_history=True, freq="MS")
    for name, rows in forecast.groupby("unique_id"):
        sent = values(df, name)
        expected = ours(url, "/forecast", series=sent, horizon=2, include_history=True, freq="MS")
        history = expected["history"]["quantiles"]
        assert rows["TimeGPT"].tolist() == history["0.5"][1:] + expected["median"]
        assert rows["TimeGPT-hi-80"].tolist() == history["0.9"][1:] + expected["quantiles"]["0.9"]
        times = pd.date_range(df.loc[df["unique_id"] == name, "ds"].iloc[1], periods=len(sent) + 1, freq="MS")
        assert rows["ds"].tolist() == list(times)


def test_times_may_be_numbers_and_values_missing(nixtla: NixtlaClient, url: str) -> None:
    df = frame({7: 20, 8: 12}, freq=1)
    df.loc[[0, 5, 19], "y"] = np.nan
    forecast = nixtla.forecast(df, h=3, freq=1)
    assert forecast["ds"].tolist() == [20, 21, 22, 20, 21, 22]
    for name, rows in forecast.groupby("unique_id"):
        assert rows["TimeGPT"].tolist() == ours(url, "/forecast", series=values(df, name), horizon=3)["median"]


def test_cross_validation_equals_that_of_carrys_own_route(nixtla: NixtlaClient, url: str) -> None:
    df = frame({"a": 40, "b": 25})
    windows = nixtla.cross_validation(df, h=3, n_windows=4, step_size=2, level=[80], freq="MS")
    for name, rows in windows.groupby("unique_id"):
        sent = values(df, name)
        body = {"series": sent, "horizon": 3, "windows": 4, "step": 2, "levels": [80], "freq": "MS"}
        expected = ours(url, "/cross_validation", **body)["windows"]
        assert rows["TimeGPT"].tolist() == [y for window in expected for y in window["median"]]
        assert rows["TimeGPT-lo-80"].tolist() == [y for window in expected for y in window["quantiles"]["0.1"]]
        assert rows["y"].tolist() == [y for window in expected for y in window["actual"]]
        times = df.loc[df["unique_id"] == name, "ds"].tolist()
        assert rows["cutoff"].tolist() == [times[window["cutoff"] - 1] for window in expected for _ in range(3)]


def test_anomalies_equal_those_of_carrys_own_route(nixtla: NixtlaClient, url: str) -> None:
    df = frame({"a": 40, "b": 1, "c": 25})
    df.loc[[20, 50], "y"] = [1000.0, np.nan]
    with pytest.warns(FutureWarning, match=RENAMED):
        anomalies = nixtla.detect_anomalies(df, level=80, freq="MS")
    assert anomalies["anomaly"].dtype == bool
    assert anomalies["anomaly"].any()
    assert [*anomalies["unique_id"].unique()] == ["a", "c"], "no value precedes the only one of b"
    for name, rows in anomalies.groupby("unique_id"):
        expected = ours(url, "/anomalies", series=values(df, name), level=80, freq="MS")
        assert rows["anomaly"].tolist() == [bool(anomaly) for anomaly in expected["anomaly"][1:]]
        assert rows["TimeGPT"].tolist() == expected["median"][1:]
        assert rows["TimeGPT-hi-80"].tolist() == expected["upper"][1:]


def test_columns_are_named_for_the_level_that_was_asked_for(nixtla: NixtlaClient) -> None:
    """Also beyond the model's outermost quantiles: with dask, the caller names the columns beforehand."""
    df = frame({"a": 20})
    with pytest.warns(FutureWarning, match=RENAMED):
        anomalies = nixtla.detect_anomalies(df)
    assert {"TimeGPT-lo-99", "TimeGPT-hi-99"} < {*anomalies.columns}
    with pytest.warns(FutureWarning, match=RENAMED):
        online = nixtla.detect_anomalies_online(df, h=2, detection_size=2, freq="MS")
    assert {"TimeGPT-lo-99", "TimeGPT-hi-99"} < {*online.columns}
    forecast = nixtla.forecast(df, h=3, level=[80, 99, 99.5])
    for windows in (forecast, nixtla.cross_validation(df, h=3, level=[80, 99, 99.5], freq="MS")):
        ordered = [windows[f"TimeGPT-{end}"] for end in ("lo-99.5", "lo-99", "lo-80")]
        ordered += [windows["TimeGPT"], *(windows[f"TimeGPT-{end}"] for end in ("hi-80", "hi-99", "hi-99.5"))]
        assert (np.diff(np.array(ordered), axis=0) > 0).all()
    assert len(nixtla.forecast(df, h=3, quantiles=[0.005, 0.995]).columns) == 5


def test_the_last_values_are_judged_by_the_newest_forecast_before_each(nixtla: NixtlaClient) -> None:
    df = frame({"a": 40, "b": 25})
    windows = nixtla.cross_validation(df, h=2, n_windows=3, level=[80], freq="MS")
    windows = windows.groupby("unique_id").tail(5).reset_index(drop=True)
    with pytest.warns(FutureWarning, match=RENAMED):
        anomalies = nixtla.detect_anomalies_online(df, h=2, detection_size=5, level=80, freq="MS")
    same = ["unique_id", "ds", "y", "TimeGPT", "TimeGPT-lo-80", "TimeGPT-hi-80"]
    pd.testing.assert_frame_equal(anomalies[same], windows[same])
    outside = (anomalies["y"] < anomalies["TimeGPT-lo-80"]) | (anomalies["y"] > anomalies["TimeGPT-hi-80"])
    assert anomalies["anomaly"].tolist() == outside.tolist()
    assert (anomalies["anomaly_score"] > 1).tolist() == outside.tolist()
    with pytest.warns(FutureWarning, match=RENAMED):
        stepwise = nixtla.detect_anomalies_online(df, h=3, step_size=1, detection_size=5, level=80, freq="MS")
    with pytest.warns(FutureWarning, match=RENAMED):
        all_values = nixtla.detect_anomalies(df, level=80, freq="MS")
    last = all_values.groupby("unique_id").tail(5).reset_index(drop=True)
    assert np.allclose(stepwise["TimeGPT"], last["TimeGPT"], rtol=1e-4)


def test_a_key_is_valid_or_not(nixtla: NixtlaClient, url: str) -> None:
    assert nixtla.validate_api_key()
    stranger = NixtlaClient(api_key="another key", base_url=url, max_retries=1)
    assert not stranger.validate_api_key()
    for ask in (stranger.list_models, stranger.usage, lambda: stranger.forecast(frame({"a": 9}), h=1)):
        with pytest.raises(ApiError) as refusal:
            ask()
        assert refusal.value.status_code == 401


def test_the_forecasters_are_listed_and_can_be_named(nixtla: NixtlaClient) -> None:
    assert nixtla.list_models() == ["forecast", "weather"]
    df = frame({"a": 9})
    named = nixtla.forecast(df, h=2, model="forecast@1")
    pd.testing.assert_frame_equal(named, nixtla.forecast(df, h=2))
    pd.testing.assert_frame_equal(named, nixtla.forecast(df, h=2, model="timegpt-1-long-horizon"))


def test_many_series_are_sent_compressed_or_in_parts(nixtla: NixtlaClient) -> None:
    df = frame({i: 50 + i % 7 for i in range(3000)})
    assert len(orjson.dumps(df["y"].to_numpy(), option=orjson.OPT_SERIALIZE_NUMPY)) > 2**20
    whole = nixtla.forecast(df, h=4, level=[80], freq="MS")
    assert len(whole) == 12_000
    alone = nixtla.forecast(df[df["unique_id"] == 2500], h=4, level=[80], freq="MS")
    assert whole.loc[whole["unique_id"] == 2500, "TimeGPT"].tolist() == alone["TimeGPT"].tolist()
    few = df[df["unique_id"] < 20]
    parts = nixtla.cross_validation(few, h=2, n_windows=2, level=[80], num_partitions=3, freq="MS")
    pd.testing.assert_frame_equal(parts, nixtla.cross_validation(few, h=2, n_windows=2, level=[80], freq="MS"))
    parts = nixtla.forecast(few, h=2, level=[80], add_history=True, num_partitions=3, freq="MS")
    pd.testing.assert_frame_equal(parts, nixtla.forecast(few, h=2, level=[80], add_history=True, freq="MS"))


def test_features_of_the_past_reach_the_model(echo: str) -> None:
    nixtla = client_of(echo)
    df = frame({"a": 20, "b": 12}).assign(rain=np.arange(32.0) % 5)
    forecast = nixtla.forecast(df, h=3, model="plain", hist_exog_list=["rain"], freq="MS")
    windows = nixtla.cross_validation(df, h=3, model="plain", hist_exog_list=["rain"], freq="MS")
    for name, rows in forecast.groupby("unique_id"):
        sent = {"f0": values(df, name), "f1": df.loc[df["unique_id"] == name, "rain"].tolist()}
        expected = ours(echo, "/forecast", series=sent, horizon=3, model="plain", freq="MS")
        assert rows["TimeGPT"].tolist() == expected["median"]
        expected = ours(echo, "/cross_validation", series=sent, horizon=3, model="plain", freq="MS")
        assert windows.loc[windows["unique_id"] == name, "TimeGPT"].tolist() == expected["windows"][0]["median"]


def test_features_known_ahead_reach_the_model(echo: str) -> None:
    nixtla, rng = client_of(echo), np.random.default_rng(1)
    df = frame({"a": 20, "b": 20})
    df = df.assign(price=rng.integers(1, 9, 40).astype(float), day=rng.choice(DAYS, 40))
    ahead = pd.DataFrame(
        {"unique_id": np.repeat(["a", "b"], 6), "ds": [*pd.date_range("2002-09-01", periods=6, freq="MS")] * 2}
    )
    ahead = ahead.assign(price=rng.integers(1, 9, 12).astype(float), day=rng.choice(DAYS, 12))
    df.loc[3, "price"] = np.nan
    panel_of: dict[str, Any] = {"df": df, "freq": "MS", "categorical_exog_list": ["day"]}
    forecast = nixtla.forecast(X_df=ahead.sample(frac=1, random_state=0), h=6, add_history=True, **panel_of)
    windows = nixtla.cross_validation(h=3, n_windows=2, **panel_of)
    with pytest.warns(FutureWarning, match=RENAMED):
        judged = nixtla.detect_anomalies(level=80, **panel_of)
    for name, rows in df.groupby("unique_id"):
        known = ahead[ahead["unique_id"] == name]
        price = [None if np.isnan(price) else price for price in rows["price"]]
        sent = {"y": values(df, name), "price": price, "day": rows["day"].tolist()}
        future = {"price": known["price"].tolist(), "day": known["day"].tolist()}
        expected = ours(echo, "/forecast", series=sent, future=future, horizon=6, freq="MS", include_history=True)
        assert expected["season_length"] == [12]
        medians = forecast.loc[forecast["unique_id"] == name, "TimeGPT"].tolist()
        assert medians == expected["history"]["quantiles"]["0.5"][1:] + expected["median"]
        expected = ours(echo, "/cross_validation", series=sent, horizon=3, windows=2, freq="MS")
        medians = windows.loc[windows["unique_id"] == name, "TimeGPT"].tolist()
        assert medians == [y for window in expected["windows"] for y in window["median"]]
        expected = ours(echo, "/anomalies", series=sent, freq="MS")
        assert judged.loc[judged["unique_id"] == name, "TimeGPT"].tolist() == expected["median"][1:]
    with pytest.raises(ApiError, match="in this order: X_df: price, day"):
        nixtla.cross_validation(h=3, hist_exog_list=["price"], **panel_of)
    with pytest.raises(ApiError, match="not a category"):
        nixtla.forecast(X_df=ahead.assign(day="soon"), h=6, **panel_of)


def test_the_season_is_that_of_the_frequency_and_with_integer_times_set_by_the_values(echo: str) -> None:
    nixtla = client_of(echo)
    for freq, season in (("MS", 12), ("QE-DEC", 4), ("W-WED", 1), ("ms", 1), (1, 1)):
        df = frame({"a": 15}, freq).assign(price=0.0, day="work")
        forecast = nixtla.forecast(df, h=1, freq=freq, hist_exog_list=["price", "day"], categorical_exog_list=["day"])
        seasons = 1e6 + 1e3 * season
        assert forecast["TimeGPT"].tolist() == pytest.approx([df["y"].sum() + seasons])


def odd_days(times: pd.DatetimeIndex) -> "pd.Series[float]":
    """A feature that is no part of the time by itself."""
    return pd.Series((times.dayofyear % 2).astype(float), name="odd")


@pytest.mark.parametrize(("freq", "dates"), [("MS", True), ("D", True), ("h", True), ("W-MON", ["week", "weekday"])])
@pytest.mark.parametrize("one_hot", [False, True])
def test_date_features_change_nothing(nixtla: NixtlaClient, freq: str, dates: Any, one_hot: bool) -> None:
    df = frame({"a": 40, "b": 30}, freq)
    plain = nixtla.forecast(df, h=3, freq=freq, level=[80])
    dated = nixtla.forecast(df, h=3, freq=freq, level=[80], date_features=dates, date_features_to_one_hot=one_hot)
    pd.testing.assert_frame_equal(dated, plain)


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"level": [99.9]}, "$.level", "at most 99.8 %"),
        ({"finetune_steps": 5}, "$.finetune_steps", "not tuned"),
        ({"finetuned_model_id": "mine"}, "$.finetuned_model_id", "not tuned"),
        ({"multivariate": True}, "$.multivariate", "by itself"),
        ({"model_parameters": {"a": 1}}, "$.model_parameters", "no parameters"),
        ({"date_features": [odd_days], "freq": "MS"}, "$.series.X", "takes no exogenous features"),
        ({"date_features": True, "freq": "MS", "feature_contributions": True}, "$.feature_contributions", "explained"),
        ({"model": "weather"}, "$.series.X", "in this order: X_df: f1"),
        ({"model": "text"}, "$.model", "is a text model"),
        ({"model": "prophet"}, "$.model", "no such model"),
        ({"h": 1001}, "$.h", "at most 1000"),
    ],
)
def test_unsupported_options_are_refused(
    nixtla: NixtlaClient, options: dict[str, Any], path: str, message: str
) -> None:
    with pytest.raises(ApiError, match=message) as refusal:
        nixtla.forecast(**{"df": frame({"a": 9}), "h": 2, **options})
    assert refusal.value.body["errors"][0]["path"] == path


def test_windows_longer_than_a_series_are_refused_by_its_place(nixtla: NixtlaClient) -> None:
    df = frame({"a": 20, "b": 6})
    with pytest.raises(ApiError, match="at least 7 values") as refusal:
        nixtla.cross_validation(df, h=2, n_windows=3, freq="MS")
    assert refusal.value.body["errors"][0]["path"] == "$.series.sizes[1]"
    with (
        pytest.warns(FutureWarning, match=RENAMED),
        pytest.raises(ApiError, match="would go unjudged"),
    ):
        nixtla.detect_anomalies_online(df, h=1, step_size=2, detection_size=2, freq="MS")
    with pytest.warns(FutureWarning, match=RENAMED), pytest.raises(ApiError, match="univariate"):
        nixtla.detect_anomalies_online(df, h=1, detection_size=2, threshold_method="multivariate", freq="MS")


def test_unsupported_methods_are_answered_with_the_supported_ones(nixtla: NixtlaClient) -> None:
    df = frame({"a": 20})
    for ask in (
        lambda: nixtla.finetune(df, freq="MS"),
        lambda: nixtla.simulate(df, h=2, n_paths=3, freq="MS"),
        lambda: nixtla.jobs.forecast(df=df, h=2, freq="MS"),
    ):
        with pytest.raises(ApiError, match="cross_validation, detect_anomalies") as refusal:
            ask()
        assert refusal.value.body["code"] == "not_offered"


def test_an_account_has_nothing_tuned_and_nothing_to_pay(nixtla: NixtlaClient) -> None:
    assert nixtla.usage() == {"minute": {"used": 0}, "month": {"used": 0}}
    assert nixtla.finetuned_models(as_df=False) == []


def test_a_series_without_a_value_gets_no_forecast_and_the_others_theirs(nixtla: NixtlaClient) -> None:
    df = frame({"a": 20, "b": 20})
    holed = df.assign(y=df["y"].where(df["unique_id"] == "a"))
    asks: list[Callable[[pd.DataFrame], pd.DataFrame]] = [
        lambda rows: nixtla.forecast(rows, h=2, level=[80], freq="MS", add_history=True),
        lambda rows: nixtla.cross_validation(rows, h=2, n_windows=2, level=[80], freq="MS"),
        lambda rows: nixtla.detect_anomalies(rows, freq="MS"),
        lambda rows: nixtla.detect_anomalies_online(rows, h=2, detection_size=2, freq="MS"),
    ]
    for ask in asks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            partly_empty, whole = ask(holed), ask(df)
        for name, rows in partly_empty.groupby("unique_id"):
            if name == "a":
                pd.testing.assert_frame_equal(rows, whole[whole["unique_id"] == "a"])
            else:
                assert rows["TimeGPT"].isna().all()
                assert len(rows) == (whole["unique_id"] == "b").sum()


R = {"sizes": [20], "y": np.random.default_rng(3).normal(size=20).round(3).tolist()}
"""A series, as R's client sends it."""


def test_the_client_for_r_is_answered(client: TestClient) -> None:
    """Its requests, in its order; before a forecast with intervals, it checks the length of the series."""
    assert client.post("/validate_token").status_code == 200
    params = client.post("/model_params", json={"model": "timegpt-1", "freq": "MS"}).json()["detail"]
    assert params["input_size"] + params["horizon"] <= 48
    common = {
        "model": "timegpt-1",
        "freq": "MS",
        "clean_ex_first": True,
        "finetune_steps": 0,
        "finetune_loss": "default",
    }
    forecast = client.post("/v2/forecast", json=common | {"series": R, "h": 8, "finetune_depth": 1, "level": [80, 95]})
    assert [*forecast.json()["intervals"]] == ["lo-80", "hi-80", "lo-95", "hi-95"]
    history = client.post("/v2/historic_forecast", json=common | {"series": R, "level": [80]}).json()
    ours = client.post("/forecast", json={"series": R["y"], "include_history": True, "freq": "MS", "levels": [80]})
    assert (
        history["mean"]
        == client.post("/v2/cross_validation", json=common | {"series": R, "h": 1, "full_history": True}).json()["mean"]
    )
    assert history["intervals"]["lo-80"] == ours.json()["history"]["quantiles"]["0.1"][1:]
    assert history["sizes"] == [19]
    assert history["idxs"] == [*range(1, 20)]
    windows = common | {"series": R, "h": 2, "n_windows": 2, "step_size": 1, "finetune_depth": 1}
    assert client.post("/v2/cross_validation", json=windows).json()["idxs"] == [17, 18, 18, 19]
    judged = {"model": "timegpt-1", "series": R, "freq": "MS", "level": 99, "clean_ex_first": True}
    assert client.post("/v2/anomaly_detection", json=judged).json()["sizes"] == [19]


@pytest.mark.parametrize(("freq", "limit"), [("MS", 48), ("Q", 28), ("Y", 28), ("D", 33), ("h", 360), ("ns", 28)])
def test_old_clients_send_what_the_model_needs_and_others_send_all(client: TestClient, freq: str, limit: int) -> None:
    old = client.get("/model_params", params={"model": "timegpt-1", "freq": freq}).json()["detail"]
    assert old["input_size"] + old["horizon"] <= limit
    new = client.get("/model_params", params={"freq": freq}, headers={"nixtla-client-version": "0.9.0"}).json()[
        "detail"
    ]
    assert new["input_size"] > 1000


def test_a_feature_of_one_number_may_come_as_the_number(echo: str) -> None:
    """R writes it so."""
    series = {"y": [1, 2, 3], "sizes": [3], "X": [[1, 2, 3], ["work"] * 3], "categorical_exog": [1]}
    means = [
        ours(echo, "/v2/forecast", series=series | {"X_future": future}, h=1)["mean"]
        for future in ([[7], ["fast"]], [7, "fast"])
    ]
    assert means[0] == means[1]


ROUTES = (
    "/v2/forecast",
    "/v2/historic_forecast",
    "/v2/cross_validation",
    "/v2/anomaly_detection",
    "/v2/online_anomaly_detection",
)


@pytest.mark.parametrize("route", ROUTES)
def test_every_optional_field_may_be_null(client: TestClient, route: str) -> None:
    documented = client.get("/openapi.json").json()
    content = documented["paths"][route]["post"]["requestBody"]["content"]["application/json"]
    [example] = content["examples"].values()
    answer = client.post(route, json=example["value"])
    assert answer.status_code == 200, answer.text
    fields = documented["components"]["schemas"]

    def filled(example: dict[str, Any], schema: str) -> dict[str, Any]:
        return {name: None for name in fields[schema]["properties"] if name != "n_windows"} | example

    payload = filled(example["value"], content["schema"]["$ref"].rsplit("/", 1)[1])
    payload["series"] = filled(payload["series"], "SeriesPayload")
    assert client.post(route, json=payload).json() == answer.json()


@pytest.mark.parametrize(
    ("series", "path"),
    [
        ({"y": [1, 2, 3], "sizes": [2]}, "$.series.sizes"),
        ({"y": [1, 2, 3], "sizes": []}, "$.series.sizes"),
        ({"y": [1, 2, 3], "sizes": [3, 0]}, "$.series.sizes[1]"),
        ({"y": [1, "2", 3], "sizes": [3]}, "$.series.y[1]"),
        ({"y": [1, 3e38, 3], "sizes": [3]}, "$.series.y[1]"),
        ({"y": [1] * 5001, "sizes": [5001]}, "$.series.sizes[0]"),
        ({"y": [1, 2, 3], "sizes": [10**30]}, "$.series.sizes[0]"),
        ({"y": [1, 2, 3], "sizes": [3], "X": [[1, 2]]}, "$.series.X"),
        ({"y": [1, 2, 3], "sizes": [3], "X_future": [[1]]}, "$.series.X_future"),
        ({"y": [1, 2, 3], "sizes": [3], "categorical_exog": [0]}, "$.series.X"),
        ({"y": [1, 2, 3], "sizes": [3], "Z": 1}, "$.series.Z"),
    ],
)
def test_series_that_do_not_fit_together_are_refused_by_their_field(
    client: TestClient, series: dict[str, Any], path: str
) -> None:
    answer = client.post("/v2/forecast", json={"series": series, "h": 1})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["path"] == path


def test_an_answer_too_large_for_memory_is_refused(client: TestClient) -> None:
    series = {"y": [1] * 400, "sizes": [1] * 400}
    body = {"series": series, "h": 100, "n_windows": 2**31, "level": [80]}
    response = client.post("/v2/cross_validation", json=body)
    assert response.json()["code"] == "limit_exceeded"


@given(st.data())
def test_rows_are_matched_to_the_right_features(models: Path, data: st.DataObject) -> None:
    """In all orders in which the client sends them."""
    manifest = read_manifest(models / "forecast" / "1", ForecastManifest)
    others = [f"f{i}" for i in range(data.draw(st.integers(1, 5)))]
    known = tuple(data.draw(st.permutations(others)))[: data.draw(st.integers(0, len(others)))]
    categories = dict.fromkeys(data.draw(st.sets(st.sampled_from(others))), ("x", "y"))
    changes = {"features": ("y", *others), "known_ahead": known, "categories": categories}
    manifest = manifest.model_copy(update=changes)
    past = [name for name in others if name not in known]
    numeric = [[name for name in names if name not in categories] for names in (known, past)]
    categorical = [[name for name in names if name in categories] for names in (known, past)]
    of_forecast = [*numeric[0], *categorical[0], *numeric[1], *categorical[1]]
    of_others = [*numeric[0], *numeric[1], *categorical[0], *categorical[1]]
    number = {name: others.index(name) for name in others}
    for order in (of_forecast, of_others):
        rows: list[list[Any]] = [
            ["y", None, "x"] if name in categories else [number[name], None, -1.5] for name in order
        ]
        which = [i for i, name in enumerate(order) if name in categories]
        series = SeriesPayload.model_validate({"y": [1, 2, 3], "sizes": [2, 1], "X": rows, "categorical_exog": which})
        assert feature_names(series, manifest) == order
        table = np.concatenate(panel(series, manifest, Settings()).values)
        for i, name in enumerate(others, 1):
            expected = [1, np.nan, 0] if name in categories else [number[name], np.nan, -1.5]
            assert np.array_equal(table[:, i], expected, equal_nan=True)
    hist_exog = [i for i, name in enumerate(of_others) if name in numeric[1]]
    check_hist_exog(hist_exog, series, manifest)
    if numeric[0]:
        with pytest.raises(InvalidRequestError, match="in this order"):
            check_hist_exog([*hist_exog, of_others.index(numeric[0][0])], series, manifest)
    series = series.model_copy(
        update={
            "X": [rows[of_others.index(name)] for name in of_forecast],
            "categorical_exog": [i for i, name in enumerate(of_forecast) if name in categories],
            "X_future": [["x"] * 4 if name in categories else [0, 1, 2, 3] for name in of_forecast[: len(known)]],
        }
    )
    futures = panel(series, manifest, Settings(), 2).futures
    if known:
        for name, column in zip(known, np.array(futures).transpose(2, 0, 1), strict=True):
            assert column.tolist() == ([[0, 0], [0, 0]] if name in categories else [[0, 1], [2, 3]])


def test_a_compressed_body_counts_as_what_it_holds(client: TestClient) -> None:
    """Also in calls of Carry's own API."""
    body = orjson.dumps({"series": [1.0, 2.0, 3.0] * 1000, "horizon": 2})
    headers = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
    packed = zstandard.compress(body)

    def post(content: bytes, encoding: str = "zstd") -> tuple[int, str]:
        answer = client.post("/forecast", content=content, headers={**headers, "Content-Encoding": encoding})
        return answer.status_code, answer.json().get("code", "")

    assert post(packed) == (200, "")
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(body)
    assert post(streamed) == (200, "")
    assert post(zstandard.compress(b" " * 2**24)) == (413, "body_too_large")
    for broken in (b"", packed[:3], packed[:-5], streamed[:-5], packed + b"more", body):
        assert post(broken) == (400, "malformed_body")
    packed = gzip.compress(body)
    for whole in (packed, gzip.compress(body[:9]) + gzip.compress(body[9:])):
        assert post(whole, "gzip") == post(whole, "x-gzip") == (200, "")
    assert post(gzip.compress(b" " * 2**24), "gzip") == (413, "body_too_large")
    for broken in (b"", packed[:3], packed[:-5], packed + b"more", packed[:-8] + bytes(8), body):
        assert post(broken, "gzip") == (400, "malformed_body")
    assert post(body, "br") == (415, "unsupported_encoding")
    assert post(body, "identity") == (200, "")

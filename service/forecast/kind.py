"""Forecasters, as a kind of model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from service.engine.runner import Array, Runner, check_outputs
from service.engine.sequence import SequenceState, Task
from service.forecast.manifest import ForecastManifest
from service.forecast.online_accuracy import SIZE, read_accuracy
from service.forecast.schemas import FirstSeries
from service.forecast.task import ACCURACY, LAST_FORECAST, SEASONS, ForecastRequest, forecast, initial_state
from service.kind import FirstInput, Model, ModelCard, OpenGraphs, SessionAccuracy, StateSpec
from service.manifest import Graphs, State
from service.series import series_values
from service.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter


class ForecastKind:
    """Forecasters of numeric series. Not `split_invariant`: where a sequence is cut changes how its sums round."""

    name = "forecast"
    manifest = ForecastManifest
    split_invariant = False
    first_input: type[BaseModel] = FirstSeries
    inputs = ("series",)
    calls: Mapping[str, tuple[str, ...]] = {
        "/forecast": ("series",),
        "/forecast/batch": ("requests",),
        "/v1/timeseries/forecast": ("inputs",),
        "/anomalies": (),
        "/cross_validation": (),
    }

    def default_model(self, settings: Settings) -> str:
        """As `Kind.default_model`."""
        return settings.default_forecast_model

    def state_spec(self, manifest: ForecastManifest, graphs: Graphs) -> StateSpec:
        """The graph's own state, the forecast after the last value, the seasons that it uses, and how accurate it has
        been. Integers are seasons: at least 1, since the graph divides by them."""
        shape = (manifest.horizon, len(manifest.quantile_levels))
        tensors = [*graphs.state, State(name=LAST_FORECAST, output="", dtype="float64", shape=shape)]
        if manifest.outputs_seasons:
            tensors.append(State(name=SEASONS, output="", dtype="int64", shape=(2,)))
        accuracy = State(name=ACCURACY, output="", dtype="float64", shape=(SIZE,))
        return StateSpec(tuple(tensors), (1, manifest.longest_season or 1), (accuracy,))

    def open(self, folder: Path, manifest: ForecastManifest, graphs: Graphs, threads: int) -> OpenGraphs:
        """As `Kind.open`."""
        return OpenGraphs(Runner(folder, graphs.graph, threads))

    def smoke_test(self, manifest: ForecastManifest, graphs: Graphs, opened: OpenGraphs) -> None:
        """Read two steps; the forecasts must be finite and of the right shape."""
        inputs: dict[str, Array] = {
            tensor.name: np.ones((1, *(2 if size == "T" else int(size) for size in tensor.shape)), dtype=tensor.dtype)
            for tensor in graphs.graph.inputs
            if tensor.name not in ("lengths", "per_step")
        }
        levels = len(manifest.quantile_levels)
        expected = {"quantiles": (1, manifest.horizon, levels), "one_step": (1, 2, levels)}
        runner = opened.runner
        outputs, _ = runner.prefill(inputs, np.array([2]), runner.initial_states(1), list(expected))
        check_outputs(graphs.graph.file, dict(zip(expected, outputs, strict=True)), expected)

    def prepare_first_input(self, body: Any, model: Model[ForecastManifest], settings: Settings) -> FirstInput:
        """Prepare to read the first values of a series."""
        manifest = model.manifest
        values = series_values(body.series, False, manifest, settings)
        request = ForecastRequest(values, 1, manifest.quantile_levels)
        task = _state_after(manifest, request, initial_state(manifest, body.season_length, body.freq))
        return FirstInput(task, request.cost_steps, request.max_bytes(manifest), "$.series")

    def accuracy(self, manifest: ForecastManifest, state: SequenceState) -> SessionAccuracy | None:
        """As `Kind.accuracy`."""
        numbers = state.states.get(ACCURACY)
        return None if numbers is None else read_accuracy(numbers[0], manifest.quantile_levels)

    def listed(self, models: Sequence[Model[ForecastManifest]], settings: Settings) -> list[ModelCard]:
        """No entries: OpenAI's API has no forecasters."""
        return []

    def routers(self) -> "Sequence[APIRouter]":
        """As `Kind.routers`."""
        from service.forecast import (
            anomalies_routes,
            backtest_routes,
            batch_routes,
            kserve,
            nixtla,
            nixtla_metadata,
            routes,
        )

        # KServe's paths begin with /v1/ as OpenAI's do, whose last route takes every path: they come before it.
        modules = (routes, kserve, batch_routes, anomalies_routes, backtest_routes, nixtla_metadata, nixtla)
        return [module.router for module in modules]


FORECAST = ForecastKind()


def _state_after(manifest: ForecastManifest, request: ForecastRequest, start: SequenceState) -> Task[SequenceState]:
    result = yield from forecast(manifest, request, start)
    return result.after

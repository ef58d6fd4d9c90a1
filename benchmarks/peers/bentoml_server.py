"""BentoML with its adaptive batching: a batch is generated in lockstep.

A batchable endpoint of BentoML takes a list, so a request is {"requests": [{...}]} and an answer a list of one.
One worker with ONNX Runtime's default threads for texts, two workers with a thread each for forecasts: what was faster
on two cores (at 32 clients: 28,300 characters/s against 19,100 of two workers, 490 forecasts/s against 860).
Usage: bentoml serve benchmarks.peers.bentoml_server:Peer
"""

import os

import bentoml
from pydantic import BaseModel

from benchmarks.peers.onnx_models import OnnxForecast, OnnxText, TextRequest

WORKERS = 2 if os.environ.get("ENDPOINT") == "forecast" else 1
THREADS = 0 if WORKERS == 1 else 1


class GenerateItem(BaseModel):
    """One text to continue."""

    prompt: str
    max_length: int
    temperature: float
    seed: int


class ForecastItem(BaseModel):
    """One series."""

    series: list[float]
    horizon: int


class Text(BaseModel):
    """A continuation."""

    text: str


class Quantiles(BaseModel):
    """Quantiles by level."""

    quantiles: dict[str, list[float]]


@bentoml.service(workers=WORKERS, traffic={"timeout": 300})
class Peer:
    """Both models in one service."""

    def __init__(self) -> None:
        self.text = OnnxText(THREADS)
        self.series = OnnxForecast(THREADS)

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)  # type: ignore[untyped-decorator]  # untyped here
    def generate(self, requests: list[GenerateItem]) -> list[Text]:
        """All texts, to the longest."""
        batch = [TextRequest(r.prompt, r.max_length, r.temperature, r.seed) for r in requests]
        return [Text(text="".join(row)) for row in zip(*self.text.generate(batch), strict=True)]

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)  # type: ignore[untyped-decorator]  # untyped here
    def forecast(self, requests: list[ForecastItem]) -> list[Quantiles]:
        """All series in one call."""
        found = self.series.forecast([request.series for request in requests], requests[0].horizon)
        return [Quantiles(quantiles=quantiles) for quantiles in found]

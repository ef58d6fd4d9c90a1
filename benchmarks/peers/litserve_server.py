"""LitServe with its own batching: a batch is generated in lockstep. One endpoint for each start of the server, as a
worker of LitServe polls its queue even when idle.

One worker with ONNX Runtime's default threads for texts, two workers with a thread each for forecasts: what was faster
on two cores. Two workers are faster for texts from 128 clients, so that is measured too, as litserve-2.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import litserve

from benchmarks.peers.onnx_models import OnnxForecast, OnnxText, TextRequest

MAX_BATCH = 32
BATCH_TIMEOUT = 0.01
ENDPOINT = os.environ.get("ENDPOINT", "generate")
"""generate, stream or forecast."""
WORKERS = int(os.environ.get("WORKERS", "2" if ENDPOINT == "forecast" else "1"))
THREADS = 0 if WORKERS == 1 else 1


class Generate(litserve.LitAPI):  # type: ignore[misc]  # untyped here
    """POST /generate: whole texts."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.model = OnnxText(THREADS)

    def decode_request(self, request: dict[str, Any]) -> TextRequest:
        """From JSON."""
        return TextRequest(request["prompt"], request["max_length"], request["temperature"], request["seed"])

    def batch(self, inputs: list[TextRequest]) -> list[TextRequest]:
        """As they are."""
        return inputs

    def predict(self, batch: list[TextRequest]) -> list[str]:
        """All texts, to the longest."""
        return ["".join(row) for row in zip(*self.model.generate(batch), strict=True)]

    def unbatch(self, output: list[str]) -> list[str]:
        """As they are."""
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        """To JSON."""
        return {"text": output}


class Stream(Generate):
    """POST /generate with "stream": true, a character at a time."""

    def predict(self, batch: list[TextRequest]) -> Iterator[list[str]]:  # type: ignore[override]
        """A step of all texts at a time."""
        yield from self.model.generate(batch)

    def unbatch(self, output: Iterator[list[str]]) -> Iterator[list[str]]:  # type: ignore[override]
        """As they are."""
        yield from output

    # LitServe makes a FastAPI model of the annotation, so it says little.
    def encode_response(self, output: Iterable[list[str]]) -> Any:  # type: ignore[override]
        """To JSON; LitServe sends each as a line."""
        for step in output:
            yield [{"text": character} for character in step]


class Forecast(litserve.LitAPI):  # type: ignore[misc]  # untyped here
    """POST /forecast."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.model = OnnxForecast(THREADS)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """From JSON."""
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As they are."""
        return inputs

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, list[float]]]:
        """All series in one call."""
        return self.model.forecast([request["series"] for request in batch], batch[0]["horizon"])

    def unbatch(self, output: list[dict[str, list[float]]]) -> list[dict[str, list[float]]]:
        """As they are."""
        return output

    def encode_response(self, output: dict[str, list[float]]) -> dict[str, Any]:
        """To JSON."""
        return {"quantiles": output}


def main() -> None:
    """Serve one endpoint."""
    api = {"generate": Generate, "stream": Stream, "forecast": Forecast}[ENDPOINT]
    path = "/forecast" if ENDPOINT == "forecast" else "/generate"
    options = {"max_batch_size": MAX_BATCH, "batch_timeout": BATCH_TIMEOUT, "api_path": path}
    server = litserve.LitServer(
        api(stream=ENDPOINT == "stream", **options),
        accelerator="cpu",
        workers_per_device=WORKERS,
        timeout=False,
    )
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()

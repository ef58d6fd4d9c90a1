"""The Prometheus instruments. They belong to one application, not to the process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "carry_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "carry_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self._registry,
        )
        self.read = Counter("carry_steps_read", "Values and characters read.", ["model"], registry=self._registry)
        self.predicted = Counter(
            "carry_steps_predicted", "Values forecast and characters generated.", ["model"], registry=self._registry
        )
        self.models = Gauge("carry_models", "Model folders by status.", ["status"], registry=self._registry)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

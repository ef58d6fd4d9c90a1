"""The Prometheus instruments of one application."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class EngineMetrics:
    """The instruments of one model's engine."""

    waiting: Gauge
    decode_calls: Counter
    decode_steps: Counter
    prefill_calls: Counter
    prefill_steps: Counter
    cancelled: Counter
    expired: Counter


@dataclass(frozen=True)
class SessionMetrics:
    """The sessions' instruments."""

    live: Gauge
    bytes: Gauge
    events: Counter
    commit_seconds: Histogram
    up: Gauge


class KeyMetrics:
    """The instruments of API keys, by their names in CARRY_API_KEYS_FILE (`key-1`, ... of CARRY_API_KEYS)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "carry_key_requests",
            "Requests with this key; 499 if the client left.",
            ["key", "status"],
            registry=registry,
        )
        self.refused = Counter(
            "carry_key_refused",
            "Requests with this key that its scopes, models or limits refused, by the code of the problem.",
            ["key", "reason"],
            registry=registry,
        )
        self.steps = Counter(
            "carry_key_steps", "Steps that ran for this key: values and characters.", ["key"], registry=registry
        )
        self.last_read_successful = Gauge(
            "carry_keys_last_read_successful",
            "Whether the last reading of CARRY_API_KEYS_FILE succeeded in all processes: 1, or 0.",
            registry=registry,
            multiprocess_mode="livemin",
        )


class Metrics:
    """All instruments. `shared_metrics`: those of all processes, if there are several."""

    def __init__(self, shared_metrics: Collector | None = None) -> None:
        self._registry = self._exposed = CollectorRegistry()
        if shared_metrics is not None:
            self._exposed = CollectorRegistry()
            self._exposed.register(shared_metrics)
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
        self.models = Gauge(
            "carry_models",
            "Model folders by status.",
            ["status"],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self.held = Gauge(
            "carry_held_bytes",
            "Bytes that running requests may hold, of CARRY_MAX_WAITING_BYTES.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "carry_engine_waiting_steps",
            "Steps of requests that are not answered yet.",
            ["model"],
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._calls = Counter("carry_engine_calls", "Calls of the graph.", ["model", "phase"], registry=self._registry)
        self._steps = Counter(
            "carry_engine_steps",
            "Rows times steps in these calls; divided by the calls, the mean batch.",
            ["model", "phase"],
            registry=self._registry,
        )
        self._dropped = Counter(
            "carry_engine_dropped",
            "Requests dropped before their end, by reason.",
            ["model", "reason"],
            registry=self._registry,
        )

        self.keys = KeyMetrics(self._registry)
        self.sessions = SessionMetrics(
            live=Gauge(
                "carry_sessions",
                "Sessions alive in the store.",
                registry=self._registry,
                multiprocess_mode="mostrecent",
            ),
            bytes=Gauge(
                "carry_session_store_bytes",
                "Bytes of the store, in memory or on disk.",
                registry=self._registry,
                multiprocess_mode="mostrecent",
            ),
            events=Counter(
                "carry_session_events",
                "Sessions created, deleted, expired and evicted; conflicts between calls; answers replayed.",
                ["event"],
                registry=self._registry,
            ),
            commit_seconds=Histogram(
                "carry_session_commit_seconds",
                "Time until the store has written a change.",
                buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
                registry=self._registry,
            ),
            up=Gauge(
                "carry_session_store_up",
                "Whether the store answers: 1, or 0.",
                registry=self._registry,
                multiprocess_mode="livemin",
            ),
        )

    def engine(self, model: str) -> EngineMetrics:
        """The instruments of one model's engine."""
        return EngineMetrics(
            waiting=self._waiting.labels(model),
            decode_calls=self._calls.labels(model, "decode"),
            decode_steps=self._steps.labels(model, "decode"),
            prefill_calls=self._calls.labels(model, "read"),
            prefill_steps=self._steps.labels(model, "read"),
            cancelled=self._dropped.labels(model, "cancelled"),
            expired=self._dropped.labels(model, "deadline"),
        )

    def count(self, model: str, read: int, predicted: int) -> None:
        """Count the steps that a call read and predicted."""
        self.read.labels(model).inc(read)
        self.predicted.labels(model).inc(predicted)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format; of all processes, if there are several."""
        return generate_latest(self._exposed)

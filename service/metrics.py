"""The Prometheus instruments. They belong to one application, not to the process."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.workers.shared_metrics import SharedMetrics


@dataclass(frozen=True)
class EngineMetrics:
    """One model's share of the engine's instruments."""

    waiting: Gauge
    decode_calls: Counter
    decode_steps: Counter
    read_calls: Counter
    read_steps: Counter
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


class Metrics:
    """What /metrics shows. `figures`: of all processes, where several serve."""

    def __init__(self, shared_metrics: SharedMetrics | None = None) -> None:
        self._registry = self._shown = CollectorRegistry()
        if shared_metrics is not None:
            self._shown = CollectorRegistry()
            self._shown.register(shared_metrics)
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
            "What the requests under way may hold of CARRY_MAX_WAITING_BYTES.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "carry_engine_waiting_steps",
            "Steps asked for and not yet answered.",
            ["model"],
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._calls = Counter("carry_engine_calls", "Calls of the graph.", ["model", "phase"], registry=self._registry)
        self._steps = Counter(
            "carry_engine_steps",
            "Steps of rows in them; over the calls, the mean batch.",
            ["model", "phase"],
            registry=self._registry,
        )
        self._dropped = Counter(
            "carry_engine_dropped",
            "Requests dropped under way, by reason.",
            ["model", "reason"],
            registry=self._registry,
        )

        self.sessions = SessionMetrics(
            live=Gauge(
                "carry_sessions",
                "Sessions alive in the store.",
                registry=self._registry,
                multiprocess_mode="mostrecent",
            ),
            bytes=Gauge(
                "carry_session_store_bytes",
                "What the store takes, in memory or on disk.",
                registry=self._registry,
                multiprocess_mode="mostrecent",
            ),
            events=Counter(
                "carry_session_events",
                "Sessions created, deleted, expired and evicted; calls in conflict with another; answers replayed.",
                ["event"],
                registry=self._registry,
            ),
            commit_seconds=Histogram(
                "carry_session_commit_seconds",
                "Time until the store has kept a change.",
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
        """The engine's instruments, for one model."""
        return EngineMetrics(
            waiting=self._waiting.labels(model),
            decode_calls=self._calls.labels(model, "decode"),
            decode_steps=self._steps.labels(model, "decode"),
            read_calls=self._calls.labels(model, "read"),
            read_steps=self._steps.labels(model, "read"),
            cancelled=self._dropped.labels(model, "cancelled"),
            expired=self._dropped.labels(model, "deadline"),
        )

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format; where several processes serve, of all of them."""
        return generate_latest(self._shown)

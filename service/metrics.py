"""The Prometheus instruments of one application: a class for each subject, and `Metrics`, which has one of each.

Names and labels are public: docs/operating.md lists them, and `deploy/` and the page use them. A model's series have
its `model` and `version`; the series of a model that is not loaded any more are not shown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

MODEL_LABELS = ["model", "version"]
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds, up to the default of CARRY_REQUEST_TIMEOUT."""
COMMIT_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
"""Seconds, up to the time-out of a store."""
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Rows, up to the most that one call of a graph takes."""


def model_labels(label: str) -> tuple[str, str]:
    """The name and the version of a model, from its label "name@version"."""
    name, _, version = label.partition("@")
    return name, version


# --- Requests ---------------------------------------------------------------------------------------------------------


class HttpMetrics:
    """The instruments of requests. `codes`: of all problems that may occur, so that each begins at 0.

    `model` and `version` are empty for a request that ran no model. No label holds what a caller sends: unknown paths
    are the route `unmatched`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "carry_http_requests",
            "Requests answered; 499 if the client left before.",
            ["method", "route", *MODEL_LABELS, "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "carry_http_request_duration_seconds",
            "Time from a request's arrival to the end of its answer, by class of status (2xx, 4xx, 5xx).",
            ["route", *MODEL_LABELS, "status"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "carry_http_requests_in_flight",
            "Requests that have arrived and are not answered yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.first_byte_seconds = Histogram(
            "carry_http_stream_first_byte_seconds",
            "Time from a request's arrival to the first byte of the stream that answers it.",
            ["route", *MODEL_LABELS],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.broken_streams = Counter(
            "carry_http_streams_broken",
            "Streams that broke off after their first byte: the client left or did not read, or an error ended them.",
            ["reason"],
            registry=registry,
        )
        for reason in ("client", "error"):
            self.broken_streams.labels(reason)
        self.problems = Counter(
            "carry_http_problems",
            "Requests answered with a problem, and streams that ended with one, by its code.",
            ["code"],
            registry=registry,
        )

    def expect_problems(self, codes: Iterable[str]) -> None:
        """Let the counts of these codes begin at 0: the rate of a series that begins at 1 misses its first event."""
        for code in codes:
            self.problems.labels(code)


# --- Models and their engines -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EngineMetrics:
    """The instruments of one model's engine."""

    labels: tuple[str, str]
    """The model's name and version."""
    up: Gauge
    waiting: Gauge
    max_waiting: Gauge
    queue_wait_seconds: Histogram
    decode_rows: Histogram
    decode_steps: Counter
    decode_seconds: Counter
    prefill_rows: Histogram
    prefill_steps: Counter
    prefill_seconds: Counter
    cancelled: Counter
    expired: Counter


class ModelMetrics:
    """The instruments of models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.count = Gauge(
            "carry_models", "Model folders by status.", ["status"], registry=registry, multiprocess_mode="mostrecent"
        )
        self.up = Gauge(
            "carry_model_up",
            "Whether the model passes its smoke test in all processes: 1, or 0.",
            MODEL_LABELS,
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.last_reload_successful = Gauge(
            "carry_models_last_reload_successful",
            "Whether the last reading of the model folders succeeded in all processes: 1, or 0. A refused model is no "
            "failure: see carry_models.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.last_reload_seconds = Gauge(
            "carry_models_last_reload_success_timestamp_seconds",
            "When the model folders were last read with success, since 1970; the earliest of all processes.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.steps_read = Counter(
            "carry_steps_read", "Values and characters read, in answers.", MODEL_LABELS, registry=registry
        )
        self.steps_predicted = Counter(
            "carry_steps_predicted",
            "Values forecast and characters generated, in answers; those of a stream as they are sent.",
            MODEL_LABELS,
            registry=registry,
        )
        self.waiting = Gauge(
            "carry_engine_waiting_steps",
            "Steps of requests that are not answered yet: values and characters to read and to predict.",
            MODEL_LABELS,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.max_waiting = Gauge(
            "carry_engine_max_waiting_steps",
            "The limit of carry_engine_waiting_steps: CARRY_MAX_WAITING_STEPS of each process.",
            MODEL_LABELS,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_wait_seconds = Histogram(
            "carry_engine_queue_wait_seconds",
            "Time that a task waited for its first call of the graph.",
            MODEL_LABELS,
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.rows = Histogram(
            "carry_engine_batch_rows",
            "Rows of one call of the graph: sequences that it reads (prefill) or continues (decode).",
            [*MODEL_LABELS, "phase"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.steps = Counter(
            "carry_engine_steps",
            "Rows times steps of these calls. Those of a request that is dropped later count, too.",
            [*MODEL_LABELS, "phase"],
            registry=registry,
        )
        self.busy_seconds = Counter(
            "carry_engine_busy_seconds",
            "Time of the engines in these calls; its rate is how many engines are busy on average.",
            [*MODEL_LABELS, "phase"],
            registry=registry,
        )
        self.dropped = Counter(
            "carry_engine_dropped",
            "Tasks dropped before their end: cancelled, or past their deadline.",
            [*MODEL_LABELS, "reason"],
            registry=registry,
        )

    def engine(self, label: str) -> EngineMetrics:
        """The instruments of one model's engine."""
        labels = model_labels(label)
        self.steps_read.labels(*labels)
        self.steps_predicted.labels(*labels)
        return EngineMetrics(
            labels=labels,
            up=self.up.labels(*labels),
            waiting=self.waiting.labels(*labels),
            max_waiting=self.max_waiting.labels(*labels),
            queue_wait_seconds=self.queue_wait_seconds.labels(*labels),
            decode_rows=self.rows.labels(*labels, "decode"),
            decode_steps=self.steps.labels(*labels, "decode"),
            decode_seconds=self.busy_seconds.labels(*labels, "decode"),
            prefill_rows=self.rows.labels(*labels, "prefill"),
            prefill_steps=self.steps.labels(*labels, "prefill"),
            prefill_seconds=self.busy_seconds.labels(*labels, "prefill"),
            cancelled=self.dropped.labels(*labels, "cancelled"),
            expired=self.dropped.labels(*labels, "deadline"),
        )


class StreamedSteps:
    """Counts the steps of a stream while it runs: also those of a stream that breaks off."""

    def __init__(self, metrics: "Metrics", model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._read = self._predicted = 0

    def count(self, read: int, predicted: int) -> None:
        """So many steps were read and predicted since the stream began. A stop text takes its steps back: they count,
        since they were run."""
        read, predicted = max(read, self._read), max(predicted, self._predicted)
        self._metrics.count(self._model, read - self._read, predicted - self._predicted)
        self._read, self._predicted = read, predicted


class MemoryMetrics:
    """The instruments of the memory that requests may hold."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.held = Gauge(
            "carry_held_bytes",
            "Bytes that running requests may hold.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.max_held = Gauge(
            "carry_max_held_bytes",
            "The limit of carry_held_bytes: CARRY_MAX_WAITING_BYTES of each process.",
            registry=registry,
            multiprocess_mode="livesum",
        )


# --- Sessions ---------------------------------------------------------------------------------------------------------

SESSION_EVENTS = ("created", "deleted", "expired", "evicted", "conflict", "replayed")


class SessionMetrics:
    """The instruments of sessions and their store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.live = Gauge(
            "carry_sessions", "Sessions alive in the store.", registry=registry, multiprocess_mode="mostrecent"
        )
        self.bytes = Gauge(
            "carry_session_store_bytes",
            "Bytes of the store, in memory or on disk.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.events = Counter(
            "carry_session_events",
            "Sessions created, deleted, expired and evicted; conflicts between calls; answers replayed.",
            ["event"],
            registry=registry,
        )
        for event in SESSION_EVENTS:
            self.events.labels(event)
        self.commit_seconds = Histogram(
            "carry_session_commit_seconds",
            "Time until the store has written a change.",
            buckets=COMMIT_BUCKETS,
            registry=registry,
        )
        self.up = Gauge(
            "carry_session_store_up",
            "Whether the store answers: 1, or 0.",
            registry=registry,
            multiprocess_mode="mostrecent",  # a process that is not asked does not look
        )


class AccuracyMetrics:
    """The instruments of how well the forecasts of sessions met the values that came next."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.scored = Counter(
            "carry_session_scored_values",
            "Values that came to a session and were compared with the forecast that it had made.",
            MODEL_LABELS,
            registry=registry,
        )
        self.scaled_error = Counter(
            "carry_session_scaled_error",
            "Sum of their absolute errors, each divided by the mean absolute change of its session's values.",
            MODEL_LABELS,
            registry=registry,
        )
        self.inside = Counter(
            "carry_session_values_inside",
            "Those of them that were inside the central interval of so many percent.",
            [*MODEL_LABELS, "interval"],
            registry=registry,
        )
        self._counters: dict[str, list[Counter]] = {}
        """Those of a model: by its label, in the order of the arguments of `count`."""

    def count(self, model: str, values: int, scaled_error: float, inside: Mapping[int, int]) -> None:
        """Count the values that a call scored, which its session has stored; `model`: its label. inside: how many were
        inside each interval."""
        if model not in self._counters:  # to look labels up takes as long as to score a value
            labels = model_labels(model)
            intervals = [self.inside.labels(*labels, str(interval)) for interval in inside]
            self._counters[model] = [self.scored.labels(*labels), self.scaled_error.labels(*labels), *intervals]
        for counter, amount in zip(self._counters[model], (values, scaled_error, *inside.values()), strict=True):
            if amount:
                counter.inc(amount)


# --- API keys ---------------------------------------------------------------------------------------------------------


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


# --- What a scrape reads, instead of counting it ----------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedModel:
    """A model as `carry_model_info` shows it."""

    name: str
    version: str
    kind: str
    precision: str


@dataclass(frozen=True)
class Moment(Collector):
    """What is so at the moment of a scrape. `ready`: how many of the `processes` that serve are ready. `restarts`: how
    often one died and was started again. `pids`: all processes of the service, by their label `process`."""

    models: Sequence[LoadedModel]
    build: Mapping[str, str]
    processes: int
    ready: int
    restarts: int
    pids: Mapping[str, int]

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        build = GaugeMetricFamily("carry_build_info", "The version of Carry and of Python: 1.", labels=[*self.build])
        build.add_metric([*self.build.values()], 1)
        info = GaugeMetricFamily(
            "carry_model_info", "The loaded models: 1.", labels=[*MODEL_LABELS, "kind", "precision"]
        )
        for model in self.models:
            info.add_metric([model.name, model.version, model.kind, model.precision], 1)
        yield build
        yield info
        yield GaugeMetricFamily("carry_processes", "Processes that serve, as configured.", self.processes)
        yield GaugeMetricFamily("carry_processes_ready", "Processes that serve and are ready.", self.ready)
        yield CounterMetricFamily(
            "carry_process_restarts", "How often a process that serves died and was started again.", self.restarts
        )
        yield from self._processes()

    def _processes(self) -> Iterator[Metric]:
        """prometheus_client's metrics of a process, for each process."""
        together: dict[str, Metric] = {}
        for name, pid in self.pids.items():
            for metric in ProcessCollector(pid=_constant(pid), registry=None).collect():
                merged = together.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    merged.add_sample(sample.name, {"process": name}, sample.value)
        yield from together.values()


def _constant(pid: int) -> Callable[[], int]:
    return lambda: pid


# --- All of them ------------------------------------------------------------------------------------------------------


class Metrics:
    """All instruments. `shared_metrics`: those of all processes, if there are several."""

    def __init__(self, shared_metrics: Collector | None = None) -> None:
        registry = CollectorRegistry()
        self._counted: Collector = shared_metrics or registry
        self.http = HttpMetrics(registry)
        self.models = ModelMetrics(registry)
        self.memory = MemoryMetrics(registry)
        self.sessions = SessionMetrics(registry)
        self.accuracy = AccuracyMetrics(registry)
        self.keys = KeyMetrics(registry)

    def engine(self, model: str) -> EngineMetrics:
        """The instruments of one model's engine; `model`: its label "name@version"."""
        return self.models.engine(model)

    def count(self, model: str, read: int, predicted: int) -> None:
        """Count the steps that a call read and predicted; `model`: its label."""
        labels = model_labels(model)
        self.models.steps_read.labels(*labels).inc(read)
        self.models.steps_predicted.labels(*labels).inc(predicted)

    def exposition(self, moment: Moment, accept: str = "") -> tuple[bytes, str]:
        """All metrics of all processes, and the content type: OpenMetrics if the header `accept` asks for it, else
        Prometheus' text format. Takes tens of milliseconds if there are thousands of series: call it in a thread."""
        encode, content_type = choose_encoder(accept)
        return encode(_Shown(self._counted, moment)), content_type


@dataclass(frozen=True)
class _Shown(Collector):
    """What was counted, without the series of models that are not loaded, and the moment."""

    counted: Collector
    moment: Moment

    def collect(self) -> Iterator[Metric]:
        loaded = {("", ""), *((model.name, model.version) for model in self.moment.models)}
        for metric in self.counted.collect():
            metric.samples = [
                sample
                for sample in metric.samples
                if (sample.labels.get("model", ""), sample.labels.get("version", "")) in loaded
            ]
            yield metric
        yield from self.moment.collect()

"""All settings, from the environment with the prefix CARRY_. Nothing else in the service reads the environment."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from service.folders import SHIPPED
from service.machine import processes_to_run

_KUBERNETES_VARIABLE = re.compile(r"CARRY_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""The variables that Kubernetes sets in each pod of a namespace with a Service named carry, or carry-something."""
_PATH = r"^/[\x21-\x7e]*$"
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_HTTP_URL = re.compile(r"https?://[^\s/]+(/\S*)?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z]+")
_REDIS = ("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")
_KEY = re.compile(r"[\x21-\x7e]+")
_OLD_NAMES = {"CARRY_SESSION_REMEMBERED": "session_tombstone_ttl"}
"""What variables were called in version 0.1, and the fields that they still set."""
_OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_ENDPOINT": "otlp_endpoint"}
"""The variable by which clusters tell their programs where the collector is."""
_VERTEX_AI = {"AIP_HTTP_PORT": "port", "AIP_HEALTH_ROUTE": "health_route", "AIP_PREDICT_ROUTE": "predict_route"}
"""The variables by which Vertex AI tells a container where it calls. They win over those of an image."""


def unknown_settings(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables CARRY_<...> that no setting has, each with the most similar setting, if one is similar."""
    known = {_variable(name) for name in Settings.model_fields}
    accepted = known | _OLD_NAMES.keys()
    unknown = [name for name in environment if name.upper().startswith("CARRY_") and name.upper() not in accepted]
    return {
        name: next(iter(get_close_matches(name.upper(), known, n=1, cutoff=0.75)), None)
        for name in unknown
        if not _KUBERNETES_VARIABLE.fullmatch(name)
    }


def port_of_kubernetes(environment: Mapping[str, str]) -> str | None:
    """The value of CARRY_PORT if Kubernetes set it to the address of a Service named carry; None if it is a port."""
    port = environment.get("CARRY_PORT", "")
    return port if _ADDRESS.match(port) else None


_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def _variable(field: str) -> str:
    return f"CARRY_{field.upper()}"


class Settings(BaseModel):
    """Each field is set by the environment variable CARRY_<FIELD>, in capitals or not, unless it is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all networks."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes any free port, which the log names."""

    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port for /metrics, /health/live and /health/ready alone, so that no client of the other port sees the metrics. 0
    takes any free port, which the log names. If not set, /metrics is on the port of all other calls."""

    root_path: str = ""
    """Path below which a proxy serves Carry, such as /carry, but not the start of one of Carry's own paths. The proxy
    may cut it off or pass it on."""

    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses and networks of proxies, separated by commas, or *. From them, X-Forwarded-For tells the client's
    address, for the log, and X-Forwarded-Proto whether it came by TLS."""

    cors_origins: tuple[str, ...] = ()
    """Origins, separated by commas, such as https://example.com, or *. Their web pages may call this service."""

    tls_certificate: Path | None = None
    """PEM file of the certificate and those that issued it, to serve TLS. A renewed file is read again at the next
    connection."""

    tls_key: Path | None = None
    """PEM file of the certificate's key, without a password."""

    models_dir: Path | None = None
    """Folder of the model folders, <name>/<version>/. If not set: `models` in the current directory, and the models
    that come with Carry, except those whose names are in `models`."""

    default_forecast_model: str = "forecast"
    """Model for forecast requests that name none. If it is not loaded, the only forecaster."""

    default_text_model: str = "text"
    """Model for text requests that name none. If it is not loaded, the only text model."""

    processes: int = Field(default_factory=processes_to_run, ge=1, le=256)
    """Processes that share the port, each with its own models. If not set, one for each available core, but no
    more than memory allows, at 250 MB for each process and 100 MB for all."""

    threads: int = Field(default=1, ge=1, le=256)
    """Threads of one step of one model. A process for each core does more than one process with many threads."""

    precision: Literal["auto", "float32", "int8"] = "auto"
    """auto: a model's int8 graph if its export measured that it is faster and loses less than 0.5 % of quality, and if
    the processor multiplies int8 exactly (x86 without VNNI does not). If replicas run on processors of both kinds, set
    float32 on all, so that they give the same answers."""

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024)
    """Maximum bytes of a request body, as sent and decompressed. Ten thousand series of 120 values, each number with
    all its digits, are 24 MiB."""

    max_body_items: int = Field(default=2_000_000, ge=100)
    """Maximum values in a request body, counted before parsing. A list or an object counts as 10 more, a field as 4 and
    a quotation mark as one. Ten thousand series of 120 values are 1,530,000."""

    body_timeout: float = Field(default=60.0, gt=0)
    """Seconds within which a request must arrive, with its body; its head must arrive within 30 seconds."""

    keep_alive: int = Field(default=75, ge=1)
    """Seconds until an idle connection is closed. Set more than a load balancer in front has, so that no connection
    closes while the balancer uses it."""

    max_connections: int = Field(default=4096, ge=1)
    """Maximum connections of one process; further ones are answered 503. The system's limit of open files also limits
    them."""

    max_series_length: int = Field(default=200_000, ge=1)
    """Maximum values of one feature in a request."""

    max_horizon: int = Field(default=1000, ge=1)
    """Maximum values to forecast."""

    max_windows: int = Field(default=1000, ge=1)
    """Maximum windows of one series in a cross-validation, or in a detection of anomalies by windows."""

    max_text_length: int = Field(default=200_000, ge=1)
    """Maximum characters of a prompt or text."""

    max_generated_length: int = Field(default=10_000, ge=1)
    """Maximum characters to generate, over all `n` texts or all `beams` of a request."""

    default_max_tokens: int = Field(default=256, ge=1)
    """Tokens to generate if a client of OpenAI's API sends no `max_tokens`."""

    max_answer_items: int = Field(default=250_000, ge=1)
    """Maximum items in one answer: quantiles of a history, numbers of /anomalies (five for each value) and of
    /cross_validation, candidate characters."""

    max_batch_requests: int = Field(default=10_000, ge=1)
    """Maximum forecast requests in one call of /forecast/batch, and series in a call of the nixtla client."""

    max_batch_answer_items: int = Field(default=5_000_000, ge=1)
    """Maximum quantiles in the answer of /forecast/batch, over all requests, or to the nixtla client."""

    max_waiting_steps: int = Field(default=2_000_000, ge=1)
    """Maximum steps (values and characters to read and to predict) in the queue of one model in one process. Beyond it,
    requests are refused with 429."""

    max_waiting_bytes: int = Field(default=2**30, ge=2**20)
    """Maximum bytes that all requests of one process may hold until they are answered. Each counts with the most that
    it may need: scores of log-probabilities, histories, states, the answer. Beyond it, requests are refused with
    429."""

    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds until a request fails with 504. The header X-Request-Timeout can lower it for a request."""

    drain_seconds: float = Field(default=0.0, ge=0, le=3600)
    """Seconds after SIGTERM in which the service says that it is not ready, but accepts connections, so that load
    balancers take it out of use. Set a few seconds more than they need to notice, and more than they keep an idle
    connection. SIGINT (Ctrl-C) does not wait."""

    shutdown_grace: int = Field(default=30, ge=1)
    """Seconds in which running requests may finish, after SIGTERM and the drain."""

    session_store: str = "sqlite:///carry.db"
    """Where to store sessions. sqlite:///FILE (relative; four slashes: absolute): shared by the processes of a machine.
    redis://HOST:PORT/DB (rediss: with TLS), or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB: shared by any number of
    machines. memory://: for one process, lost at its end."""

    session_ttl: float = Field(default=86_400.0, ge=1)
    """Seconds from a session's last use to its end, unless its creator sets `ttl`."""

    max_session_ttl: float = Field(default=30 * 86_400.0, ge=1)
    """Maximum of a session's `ttl`."""

    session_tombstone_ttl: float = Field(default=7 * 86_400.0, ge=0)
    """Seconds that an expired session is answered with 410, then with 404. CARRY_SESSION_REMEMBERED sets it, too."""

    session_versions: int = Field(default=8, ge=0, le=1000)
    """Earlier versions to keep of a session, for rewind and fork."""

    max_sessions: int = Field(default=1_000_000, ge=1)
    """Maximum live sessions in the store. memory:// drops the least recently used one, the others refuse new ones."""

    max_sessions_per_owner: int = Field(default=100_000, ge=1)
    """Maximum live sessions of one API key."""

    max_session_store_bytes: int = Field(default=16 * 2**30, ge=2**20)
    """Maximum bytes of the file of sqlite://, or of memory://, whose default is 2**30. (Redis has its own setting,
    maxmemory.)"""

    max_session_bytes_per_owner: int | None = Field(default=None, ge=2**16)
    """Maximum bytes of one API key's sessions and stored answers. If not set, half of CARRY_MAX_SESSION_STORE_BYTES.
    With Redis, set it to a share of its maxmemory."""

    idempotency_ttl: float = Field(default=86_400.0, gt=0)
    """Seconds to keep the answer of a call with an Idempotency-Key, to replay it."""

    api_keys: tuple[SecretStr, ...] = ()
    """API keys, separated by commas, each of at least 16 printable ASCII characters without blanks. Every call, except
    health and metrics, must then send one of them, as `Authorization: Bearer <key>`. A session belongs to the key that
    created it. These keys may do all. Without these, and without CARRY_API_KEYS_FILE, no call needs a key."""

    api_keys_file: Path | None = None
    """File of API keys: names, the sha256 of each secret, scopes, limits and models; `carry keys new` writes it. The
    service reads it again when it changes. Both settings together work: all their keys are valid."""

    predict_route: Annotated[str | None, Field(pattern=_PATH)] = None
    """One more path of POST /invocations, for a platform that calls its own. Vertex AI sets it by AIP_PREDICT_ROUTE."""

    health_route: Annotated[str | None, Field(pattern=_PATH)] = None
    """One more path of GET /health/ready. Vertex AI sets it by AIP_HEALTH_ROUTE."""

    state_key: SecretStr | None = None
    """The key that signs exported states, at least 16 characters. If not set, the session store keeps a random key, so
    that all services on one store accept each other's states."""

    page: Literal["on", "off"] = "on"
    """on: serve the page at /, and the API pages at /docs and /redoc. off: serve no page and no file of one; / then
    says where the OpenAPI document is."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """json: one object a line. console: for people. auto: console on a terminal, else json."""

    otlp_endpoint: str | None = None
    """URL of a collector of OpenTelemetry, such as http://localhost:4318, which gets spans of requests by OTLP/HTTP; it
    needs `carry-rnn[otel]`. OTEL_EXPORTER_OTLP_ENDPOINT sets it, too."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of the log lines to write."""

    @property
    def models_dirs(self) -> tuple[Path, ...]:
        """The folders of `models_dir`. A name in an earlier folder hides the same name in a later one."""
        return (Path("models"), SHIPPED) if self.models_dir is None else (self.models_dir,)

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split(cls, keys: Any) -> Any:
        if not isinstance(keys, str):
            return keys
        split = tuple(key.strip() for key in keys.split(",") if key.strip())
        if not split:
            raise ValueError("is set, but holds no key; unset it if calls need no key")
        return split

    @field_validator("cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split_list(cls, values: Any) -> Any:
        if not isinstance(values, str):
            return values
        return tuple(value.strip() for value in values.split(",") if value.strip())

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("must be *, or origins in lower case without a path, such as https://example.com")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            if proxy != "*":
                try:
                    ip_network(proxy)
                except ValueError as error:
                    raise ValueError(f"must be *, or addresses and networks, such as 10.0.0.0/8: {error}") from None
        return proxies

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, url: str | None) -> str | None:
        if url is not None and not _HTTP_URL.fullmatch(url):
            raise ValueError("must be an http or https URL, such as http://localhost:4318")
        return url

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and not _ROOT_PATH.fullmatch(path):
            raise ValueError("must be a path such as /carry, of letters, digits and . _ ~ -")
        return path

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise ValueError("each key needs at least 16 characters")
        if not all(_KEY.fullmatch(key.get_secret_value()) for key in keys):
            raise ValueError("keys must be printable ASCII characters without blanks: a header carries them")
        return keys

    @field_validator("state_key")
    @classmethod
    def _check_state_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < 16:
            raise ValueError("needs at least 16 characters")
        return key

    @field_validator("session_store")
    @classmethod
    def _check_store(cls, url: str) -> str:
        file = url.removeprefix("sqlite:///")
        if url == "memory://" or (file and file != url) or url.startswith(_REDIS):
            return url
        raise ValueError(
            "must be memory://, sqlite:///FILE, redis://HOST:PORT/DB, or redis+sentinel://HOST:PORT/MASTER/DB"
        )

    @model_validator(mode="before")
    @classmethod
    def _drop_port_of_kubernetes(cls, values: Any) -> Any:
        port = values.get("port")
        if isinstance(port, str) and _ADDRESS.match(port):
            return {name: value for name, value in values.items() if name != "port"}
        return values

    @model_validator(mode="before")
    @classmethod
    def _set_memory_defaults(cls, values: Any) -> Any:
        """Other processes cannot see sessions in the memory of one: default to one process."""
        if values.get("session_store") == "memory://":
            return {"processes": 1, "max_session_store_bytes": 2**30, **values}
        return values

    # Pydantic runs these validators in reverse: this one comes first.
    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, given: Any) -> Any:
        environment = {name.upper(): value for name, value in os.environ.items()}
        variables = _OLD_NAMES | _OPENTELEMETRY | {_variable(name): name for name in cls.model_fields} | _VERTEX_AI
        return {variables[name]: environment[name] for name in variables if name in environment} | given

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if self.session_store == "memory://" and self.processes > 1:
            raise ValueError("CARRY_SESSION_STORE=memory:// needs CARRY_PROCESSES=1")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("CARRY_TLS_CERTIFICATE and CARRY_TLS_KEY need each other")
        if self.session_ttl > self.max_session_ttl:
            raise ValueError("CARRY_SESSION_TTL must be at most CARRY_MAX_SESSION_TTL")
        return self

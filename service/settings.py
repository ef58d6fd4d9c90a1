"""All settings, from the environment with the prefix CARRY_. Nothing else in the service reads the environment."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.machine import processes_to_run

_OF_KUBERNETES = re.compile(r"CARRY_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""What it sets in each pod of a namespace that has a Service named carry, or carry-something."""
_KEY = re.compile(r"[\x21-\x7e]+")
_OLD_NAMES = {"CARRY_SESSION_REMEMBERED"}
"""Aliases: what settings were called in version 0.1."""


def unknown_settings(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables CARRY_<...> that set nothing, each with the setting whose name is nearest, if one is near."""
    known = {f"CARRY_{name.upper()}" for name in Settings.model_fields}
    accepted = known | _OLD_NAMES
    unknown = [name for name in environment if name.upper().startswith("CARRY_") and name.upper() not in accepted]
    return {
        name: next(iter(get_close_matches(name.upper(), known, n=1, cutoff=0.75)), None)
        for name in unknown
        if not _OF_KUBERNETES.fullmatch(name)
    }


def port_of_kubernetes(environment: Mapping[str, str]) -> str | None:
    """What Kubernetes has put in CARRY_PORT: the address of a Service named carry, and no port to listen on."""
    port = environment.get("CARRY_PORT", "")
    return port if _ADDRESS.match(port) else None


_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class Settings(BaseSettings):
    """Each field is set by the environment variable CARRY_<FIELD>."""

    model_config = SettingsConfigDict(
        env_prefix="CARRY_",
        frozen=True,
        use_attribute_docstrings=True,
        extra="ignore",
        populate_by_name=True,
        loc_by_alias=False,
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every network."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    models_dir: Path = Path("models")
    """Folder of the model folders, <name>/<version>/."""

    default_forecast_model: str = "forecast"
    """Model of a forecast request that names none. Where it is absent, the only forecaster there is."""

    default_text_model: str = "text"
    """Model of a text request that names none. Where it is absent, the only text model there is."""

    processes: int = Field(default_factory=processes_to_run, ge=1, le=256)
    """Processes that share the port, each with its own models. If not set, one for each core that there is to use, but
    no more than there is memory for."""

    threads: int = Field(default=1, ge=1, le=256)
    """Threads of one step of one model. One process for each core does more than one process with many threads."""

    precision: Literal["auto", "float32", "int8"] = "auto"
    """auto: a model's int8 graph where its export measured that it is faster and loses under 0.5 % of quality."""

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024)
    """Largest request body: ten thousand series of 120 values, each number as long as it gets, are 24 MiB."""

    max_body_items: int = Field(default=2_000_000, ge=100)
    """Most values in a request body, counted before it is parsed; a list or an object counts as 10 more, a field as
    4 and a quotation mark as one. Ten thousand series of 120 values are 1,530,000."""

    body_timeout: float = Field(default=60.0, gt=0)
    """Seconds within which a request has to arrive, body and all."""

    keep_alive: int = Field(default=75, ge=1)
    """Seconds that an idle connection is kept; more than any balancer in front keeps it, so that none is closed just as
    it is used."""

    max_connections: int = Field(default=4096, ge=1)
    """Most connections of one process; further ones are answered 503. Never more than the system's limit of open files
    leaves room for."""

    max_series_length: int = Field(default=200_000, ge=1)
    """Most values of one feature in a request."""

    max_horizon: int = Field(default=1000, ge=1)
    """Most values to forecast."""

    max_windows: int = Field(default=1000, ge=1)
    """Most windows of one series in a cross-validation, or in a detection of anomalies by such windows."""

    max_text_length: int = Field(default=200_000, ge=1)
    """Most characters of a prompt or text."""

    max_generated_length: int = Field(default=10_000, ge=1)
    """Most characters to generate, over all `n` texts of a request."""

    default_max_tokens: int = Field(default=256, ge=1)
    """Tokens of a text that a client of OpenAI's API asks for without `max_tokens`."""

    max_answer_items: int = Field(default=250_000, ge=1)
    """Most quantiles of a history, or candidate characters, in one answer."""

    max_batch_requests: int = Field(default=10_000, ge=1)
    """Most forecast requests in one call of /forecast/batch."""

    max_batch_answer_items: int = Field(default=5_000_000, ge=1)
    """Most quantiles in the answer of /forecast/batch, over all requests."""

    max_waiting_steps: int = Field(default=2_000_000, ge=1)
    """Most steps (values and characters to read and to predict) of one model that may be under way in one process;
    beyond it, requests are refused with 429."""

    max_waiting_bytes: int = Field(default=2**30, ge=2**20)
    """Most bytes that all requests under way in one process may hold, while they run and until they are answered; each
    is counted with the most that it may need. Beyond it, requests are refused with 429."""

    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds until a request is given up with 504; a caller may ask for less with the header X-Request-Timeout."""

    shutdown_grace: int = Field(default=30, ge=1)
    """Seconds that requests under way are given to end after SIGTERM."""

    session_store: str = "sqlite:///carry.db"
    """Where sessions are kept. sqlite:///FILE (relative; four slashes: absolute): the processes of one machine share
    it. redis://HOST:PORT/DB (rediss: with TLS): any number of machines do. memory://: one process, and gone with it."""

    session_ttl: float = Field(default=86_400.0, ge=1)
    """Seconds that a session lives after its last use, where its creator does not say."""

    max_session_ttl: float = Field(default=30 * 86_400.0, ge=1)
    """Most seconds that its creator may say."""

    session_tombstone_ttl: float = Field(
        default=7 * 86_400.0,
        ge=0,
        validation_alias=AliasChoices("CARRY_SESSION_TOMBSTONE_TTL", "CARRY_SESSION_REMEMBERED"),
    )
    """Seconds that an expired session is answered with 410, then with 404. CARRY_SESSION_REMEMBERED sets it, too."""

    session_versions: int = Field(default=8, ge=0, le=1000)
    """Earlier versions of a session that are kept, to go back to."""

    max_sessions: int = Field(default=1_000_000, ge=1)
    """Most sessions alive in the store. memory:// drops the one not used for longest, the others refuse new ones."""

    max_sessions_per_owner: int = Field(default=100_000, ge=1)
    """Most sessions alive of one API key."""

    max_session_store_bytes: int = Field(default=16 * 2**30, ge=2**20)
    """Most that the file of sqlite:// may take, or what memory:// holds, whose default is 2**30. (Redis has its own
    setting for that, maxmemory.)"""

    max_session_bytes_per_owner: int | None = Field(default=None, ge=2**16)
    """Most bytes of the sessions and of the answers kept for repetitions of one API key. If not set, half of
    CARRY_MAX_SESSION_STORE_BYTES."""

    idempotency_ttl: float = Field(default=86_400.0, gt=0)
    """Seconds that the answer to a call with an Idempotency-Key is kept for its repetition."""

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys, separated by commas, one of which every call but those of health and metrics must then bring, as
    `Authorization: Bearer <key>`. A session belongs to the key that created it. None: everybody may do everything."""

    state_key: SecretStr | None = None
    """What states that leave the service are signed with, at least 16 characters. If not set, a random one is made and
    kept in the session store, so that all who share the store accept each other's."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """json: one object a line; console: for people; auto: console on a terminal, else json."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line to write."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _separated(cls, keys: Any) -> Any:
        if not isinstance(keys, str):
            return keys
        separated = tuple(key.strip() for key in keys.split(",") if key.strip())
        if not separated:
            raise ValueError("is set, but holds no key; leave it unset, and everybody may do everything")
        return separated

    @field_validator("api_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise ValueError("each key needs at least 16 characters")
        if not all(_KEY.fullmatch(key.get_secret_value()) for key in keys):
            raise ValueError("keys are printable ASCII characters without blanks, as a header can carry them")
        return keys

    @field_validator("state_key")
    @classmethod
    def _secret_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < 16:
            raise ValueError("needs at least 16 characters")
        return key

    @field_validator("session_store")
    @classmethod
    def _known_store(cls, url: str) -> str:
        file = url.removeprefix("sqlite:///")
        if url == "memory://" or (file and file != url) or url.startswith(("redis://", "rediss://", "unix://")):
            return url
        raise ValueError("must be memory://, sqlite:///FILE, or redis://HOST:PORT/DB")

    @model_validator(mode="before")
    @classmethod
    def _port_of_kubernetes(cls, given: Any) -> Any:
        port = given.get("port")
        return (
            {k: v for k, v in given.items() if k != "port"} if isinstance(port, str) and _ADDRESS.match(port) else given
        )

    @model_validator(mode="before")
    @classmethod
    def _one_process(cls, given: Any) -> Any:
        """What one process has in its memory, no other can see."""
        if given.get("session_store") == "memory://":
            return {"processes": 1, "max_session_store_bytes": 2**30, **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.session_store == "memory://" and self.processes > 1:
            raise ValueError("CARRY_SESSION_STORE=memory:// needs CARRY_PROCESSES=1")
        if self.session_ttl > self.max_session_ttl:
            raise ValueError("CARRY_SESSION_TTL must be at most CARRY_MAX_SESSION_TTL")
        return self

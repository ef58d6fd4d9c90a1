"""All settings, from the environment with the prefix CARRY_. Nothing else in the service reads the environment."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def available_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its control group (a container's limit)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such limit
        return cores


class Settings(BaseSettings):
    """Each field is set by the environment variable CARRY_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="CARRY_", frozen=True, use_attribute_docstrings=True, extra="ignore")

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

    processes: int = Field(default_factory=available_cores, ge=1, le=256)
    """Processes that share the port, each with its own models. If not set, one for each core that there is to use."""

    threads: int = Field(default=1, ge=1, le=256)
    """Threads of one step of one model. One process for each core does more than one process with many threads."""

    precision: Literal["auto", "float32", "int8"] = "auto"
    """auto: a model's int8 graph where its export measured that it is faster and loses under 0.5 % of quality."""

    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)
    """Largest request body."""

    max_series_length: int = Field(default=200_000, ge=1)
    """Most values of one feature in a request."""

    max_horizon: int = Field(default=1000, ge=1)
    """Most values to forecast."""

    max_text_length: int = Field(default=200_000, ge=1)
    """Most characters of a prompt or text."""

    max_generated_length: int = Field(default=10_000, ge=1)
    """Most characters to generate, over all `n` texts of a request."""

    max_answer_items: int = Field(default=250_000, ge=1)
    """Most quantiles of a history, or candidate characters, in one answer."""

    max_batch_requests: int = Field(default=10_000, ge=1)
    """Most forecast requests in one call of /forecast/batch."""

    max_batch_answer_items: int = Field(default=5_000_000, ge=1)
    """Most quantiles in the answer of /forecast/batch, over all requests."""

    max_waiting_steps: int = Field(default=2_000_000, ge=1)
    """Most steps (values and characters to read and to predict) of one model that may be under way in one process;
    beyond it, requests are refused with 429."""

    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds until a request is given up with 504; a caller may ask for less with the header X-Request-Timeout."""

    shutdown_grace: int = Field(default=30, ge=1)
    """Seconds that requests under way are given to end after SIGTERM."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """json: one object a line; console: for people; auto: console on a terminal, else json."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line to write."""

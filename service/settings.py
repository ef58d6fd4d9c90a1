"""All settings, from the environment with the prefix CARRY_. Nothing else in the service reads the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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

    threads: int = Field(default=1, ge=1, le=256)
    """Threads of one step of one model."""

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

    log_format: Literal["auto", "json", "console"] = "auto"
    """json: one object a line; console: for people; auto: console on a terminal, else json."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line to write."""

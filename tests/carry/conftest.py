"""The forecaster that Carry ships, and settings to run it."""

import pytest

from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from service.settings import Settings
from tests.conftest import SHIPPED


@pytest.fixture
def manifest() -> ForecastManifest:
    """Of the forecaster."""
    return read_manifest(SHIPPED / "forecast/2", ForecastManifest)


@pytest.fixture
def settings() -> Settings:
    """With the models that Carry ships, in one process."""
    return Settings(models_dir=SHIPPED, processes=1)

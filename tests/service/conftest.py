"""Fixtures: a store of every kind."""

from collections.abc import Iterator

import pytest

from tests.redis_server import RedisServer
from tests.stores import StoreKind


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module", params=["memory", "sqlite", "synced", "redis"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StoreKind:
    server = request.getfixturevalue("server") if request.param == "redis" else None
    return StoreKind(request.param, tmp_path_factory.mktemp(request.param), server)


@pytest.fixture(scope="module")
def redis_kind(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> StoreKind:
    return StoreKind("redis", tmp_path_factory.mktemp("redis"), server)

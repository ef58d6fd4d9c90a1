"""Fixtures: a store of every kind."""

from collections.abc import Iterator

import pytest

from tests.redis_server import PROGRAMS, RedisServer
from tests.stores import StoreKind


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as running:
        yield running


@pytest.fixture(scope="module", params=["memory", "sqlite", "synced", *PROGRAMS])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreKind]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param not in PROGRAMS:
        yield StoreKind(request.param, folder)
        return
    with RedisServer(request.param) as running:
        yield StoreKind("redis", folder, running)


@pytest.fixture(scope="module")
def redis_kind(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> StoreKind:
    return StoreKind("redis", tmp_path_factory.mktemp("redis"), server)

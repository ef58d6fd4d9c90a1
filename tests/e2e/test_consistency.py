"""Texts do not depend on other requests: the check of `make consistency`, on a few texts."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

from benchmarks.consistency import WAYS, compare
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from tests.conftest import SHIPPED
from tests.e2e.serving import Service


def test_texts_are_the_same_alone_under_load_by_every_route_and_on_two_replicas(tmp_path: Path) -> None:
    manifests = [
        read_manifest(path.parent, ForecastManifest, TextManifest) for path in SHIPPED.glob("*/1/manifest.json")
    ]
    models = {manifest.name: manifest for manifest in manifests if isinstance(manifest, TextManifest)}
    store = f"sqlite:///{tmp_path}/sessions.db"
    with ExitStack() as stack:
        urls = [stack.enter_context(Service(SHIPPED, store)).url for _ in range(2)]
        ways, _, _ = asyncio.run(compare(urls, 150, 16, models))
    assert set(ways) == {way.__name__ for way in WAYS}
    assert all(counts["texts"] > 0 and counts["differ"] == 0 for counts in ways.values()), ways

"""The check that texts do not depend on who else is served, at a few of them (`make consistency`: at many)."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

from benchmarks.consistency import WAYS, compare
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from tests.conftest import SHIPPED
from tests.e2e.serving import Service


def test_texts_are_the_same_alone_under_load_in_any_way_and_on_two_replicas(tmp_path: Path) -> None:
    manifests = [
        read_manifest(path.parent, ForecastManifest, TextManifest) for path in SHIPPED.glob("*/1/manifest.json")
    ]
    models = {manifest.name: manifest for manifest in manifests if isinstance(manifest, TextManifest)}
    store = f"sqlite:///{tmp_path}/sessions.db"
    with ExitStack() as stack:
        urls = [stack.enter_context(Service(SHIPPED, store)).url for _ in range(2)]
        ways, _, _ = asyncio.run(compare(urls, 150, 16, models))
    assert set(ways) == {way.__name__ for way in WAYS}
    assert all(found["texts"] > 0 and found["differ"] == 0 for found in ways.values()), ways

"""Texts and classes do not depend on other requests: the checks of `make consistency`, on a few of them."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

from benchmarks import classify
from benchmarks.consistency import WAYS, compare
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from tests.classify.classifiers import classifier, write_classifier
from tests.conftest import SHIPPED
from tests.e2e.serving import Service
from training.models import MANIFESTS


def test_texts_are_the_same_alone_under_load_by_every_route_and_on_two_replicas(tmp_path: Path) -> None:
    manifests = [read_manifest(path.parent, *MANIFESTS) for path in SHIPPED.glob("*/1/manifest.json")]
    models = {manifest.name: manifest for manifest in manifests if isinstance(manifest, TextManifest)}
    store = f"sqlite:///{tmp_path}/sessions.db"
    with ExitStack() as stack:
        urls = [stack.enter_context(Service(SHIPPED, store)).url for _ in range(2)]
        ways, _, _ = asyncio.run(compare(urls, 150, 16, models))
    assert set(ways) == {way.__name__ for way in WAYS}
    assert all(counts["texts"] > 0 and counts["differ"] == 0 for counts in ways.values()), ways


def test_classes_are_the_same_alone_under_load_by_every_route_and_on_two_replicas(tmp_path: Path) -> None:
    """Of series of one and of two features, and of texts; value by value in a session, in batches, with states."""
    models = tmp_path / "models"
    write_classifier(classifier(), models, "moves")
    write_classifier(classifier(features=1), models, "shapes", precision="int8")
    write_classifier(classifier("lstm", text=True), models, "moods")
    store = f"sqlite:///{tmp_path}/sessions.db"
    with ExitStack() as stack:
        urls = [stack.enter_context(Service(models, store)).url for _ in range(2)]
        ways, _, _ = asyncio.run(classify.compare(urls, 80, 16, classify.classifiers(models)))
    assert len(ways) == len(classify.WAYS)
    assert all(counts["classes"] > 0 and counts["differ"] == 0 for counts in ways.values()), ways

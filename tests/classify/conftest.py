"""Fixtures: the application on small classifiers."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.builders import WORDS, forecaster, write_model
from tests.classify.classifiers import classifier, write_classifier


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application on classifiers of series, of texts, and of whole series, and on a forecaster."""
    models = tmp_path_factory.mktemp("models")
    write_classifier(classifier(), models, "moves")
    write_classifier(classifier(features=1), models, "shapes")
    write_classifier(classifier(text=True), models, "moods")
    write_classifier(classifier(text=True, tokenizer=WORDS), models, "words", tokenizer=WORDS)
    write_classifier(classifier(features=1, directions=2), models, "whole")
    write_model(forecaster(), models, "forecast")
    settings = Settings(models_dir=models, session_store="memory://", max_answer_items=300, max_text_length=200)
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened

"""`classify` from Python: of a model in this process and of a service, the same answers."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import carry
from carry.answers import Answers, Classification
from service.errors import InvalidRequestError
from tests.classify.classifiers import CLASSES, classifier, write_classifier
from tests.served import KEY, served

SPEEDS = [1.0, 4.0, None, 7.0, 3.0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of series with one feature, one with two, and one of texts."""
    folder = tmp_path_factory.mktemp("models")
    write_classifier(classifier(features=1), folder, "shapes")
    write_classifier(classifier(), folder, "moves")
    write_classifier(classifier(text=True), folder, "moods")
    return folder


@pytest.fixture(scope="module", params=["local", "service"])
def place(request: pytest.FixtureRequest, models: Path) -> Iterator[Any]:
    """Where the calls run: `place(name)` is a model."""
    if request.param == "local":
        opened = {name: carry.load(name, models) for name in ("shapes", "moves", "moods")}
        yield lambda name: (opened[name], {})
        for model in opened.values():
            model.close()
        return
    with served(models) as url, carry.Client(url, KEY) as client:
        yield lambda name: (client, {"model": name})


def classify(place: Any, name: str, data: Any, **options: Any) -> Any:
    """The answer of the model `name`."""
    model, named = place(name)
    return model.classify(data, **named, **options)


def test_a_sequence_has_a_class(place: Any) -> None:
    """A series, an array, a mapping of features, a text."""
    answer = classify(place, "shapes", SPEEDS)
    assert isinstance(answer, Classification)
    assert (answer.model, answer.steps, {*answer.probabilities}) == ("shapes@1", 5, {*CLASSES})
    assert str(answer) == answer.label == next(iter(answer.probabilities))
    assert classify(place, "shapes", np.array([1.0, 4.0, np.nan, 7.0, 3.0])) == answer
    steps = classify(place, "shapes", SPEEDS, per_step=True, top_k=1).per_step
    assert steps[answer.label].shape == (5,)
    assert classify(place, "moves", {"speed": SPEEDS, "height": [1, 2, 3, 4, 5]}).steps == 5
    assert classify(place, "moods", "a fine day").steps == 10


def test_several_sequences_have_each_its_class_or_its_error(place: Any) -> None:
    """In their order; texts, too."""
    answers = classify(place, "shapes", [SPEEDS, [None], [2.0, 3.0]])
    assert isinstance(answers, Answers)
    assert answers[0] == classify(place, "shapes", SPEEDS)
    assert (answers[1], list(answers.errors)) == (None, [1])
    texts = classify(place, "moods", ["one", "two"])
    assert [answer.steps for answer in texts] == [3, 3]


@pytest.mark.parametrize("new", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_a_data_frame_gets_a_row_for_each_sequence(place: Any, new: Any) -> None:
    """Of the same kind of frame: a row of steps for each id, or a text a row."""
    frame = new({"unique_id": ["b", "a", "b"], "speed": [1.0, 2.0, 3.0], "height": [1.0, 5.0, 2.0]})
    table = classify(place, "moves", frame)
    assert type(table) is type(frame)
    columns = table.to_pydict() if isinstance(table, pa.Table) else {name: list(table[name]) for name in table.columns}
    assert list(columns) == ["unique_id", "label", *sorted(CLASSES)]
    assert columns["unique_id"] == ["b", "a"]
    alone = classify(place, "moves", {"speed": [1.0, 3.0], "height": [1.0, 2.0]})
    assert columns["label"][0] == alone.label
    assert columns["flat"][0] == alone.probabilities["flat"]
    texts = classify(place, "moods", new({"text": ["one", "two"], "page": [7, 8]}))
    columns = texts.to_pydict() if isinstance(texts, pa.Table) else {name: list(texts[name]) for name in texts.columns}
    assert list(columns) == ["text", "page", "label", *sorted(CLASSES)]
    assert columns["page"] == [7, 8]


def test_a_frame_may_not_have_the_columns_of_the_answer(place: Any) -> None:
    """Neither is overwritten in silence."""
    for frame in ({"text": ["one"], "label": ["flat"]}, {"text": ["one"], "flat": [1]}):
        with pytest.raises(InvalidRequestError, match="the answer has a column"):
            classify(place, "moods", pd.DataFrame(frame))


def test_a_session_begins_with_a_text_or_a_series(place: Any) -> None:
    """A text to classify, as one to continue."""
    cases: list[tuple[str, Any, Any]] = [("moods", "a fine", " day"), ("shapes", [1.0, 4.0], [3.0])]
    for name, first, more in cases:
        model, named = place(name)
        with model.session(first, **named) as session:
            assert session.position == len(first)
            assert session.classify(more) == classify(place, name, first + more)


def test_a_session_knows_the_class_after_every_step(place: Any) -> None:
    """And goes back; nothing new repeats the answer."""
    model, named = place("shapes")
    whole = classify(place, "shapes", SPEEDS)
    with model.session(**named) as session:
        answers = [session.classify(value) for value in SPEEDS]
        assert answers[-1] == whole
        assert session.classify([]) == whole
        session.rewind(2)
        assert session.classify([]) == answers[-2]


def test_threads_share_a_model(place: Any) -> None:
    """Each gets its own answer."""
    wanted = [classify(place, "shapes", [float(i), 1.0]) for i in range(8)]
    got: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: got.__setitem__(i, classify(place, "shapes", [float(i), 1.0])))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got[i] for i in range(8)] == wanted

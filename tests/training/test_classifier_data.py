"""The data of the shipped classifiers: control charts, and texts in many languages."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.data import control_charts, languages
from training.data.control_charts import PATTERNS, chart

SERBIAN = ["Њива је зелена.", "Ово је кућа."]  # noqa: RUF001 - Cyrillic letters


@pytest.mark.parametrize(
    ("pattern", "low", "high"),
    [
        ("normal", -0.25, 0.25),
        ("cyclic", -0.25, 0.25),
        ("rising", 1.5, 20),
        ("falling", -20, -1.5),
        ("shift up", 1.25, 3.25),
        ("shift down", -3.25, -1.25),
    ],
)
def test_the_last_values_of_a_chart_are_where_its_pattern_leads(pattern: str, low: float, high: float) -> None:
    rng = np.random.default_rng(3)
    charts = [chart(pattern, rng) for _ in range(100)]
    assert all(12 <= len(each) <= 80 for each in charts)
    ends = [each[-3:].mean() for each in charts]
    assert low <= float(np.mean(ends)) <= high


def test_a_seed_makes_the_same_charts_of_every_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    control_charts.main(count=2)
    first = capsys.readouterr().out
    control_charts.main(count=2)
    assert capsys.readouterr().out == first
    assert [json.loads(line)["label"] for line in first.splitlines()] == [*PATTERNS, *PATTERNS]


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """A folder as that of Common Voice: in each language one sentence, in Serbian two."""
    for language, (name, _) in languages.LANGUAGES.items():
        (tmp_path / name).mkdir()
        sentences = SERBIAN if language == "Serbian" else [f"This is  {language}.", "12 34 5"]
        (tmp_path / name / "sentences.txt").write_text("\n".join(sentences), encoding="utf-8")
        (tmp_path / name / "wiki.txt").write_text("Of other terms.", encoding="utf-8")
    return tmp_path


def test_sentences_are_cut_from_the_free_files_of_each_language(
    voices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    languages.main("sentences", str(voices))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted({row["label"] for row in rows}) == sorted(languages.LANGUAGES)
    for row in rows:
        if row["label"] != "Serbian":
            assert row["text"].lower() in " ".join([f"this is {row['label']}.".lower()] * 2)
    assert len([row for row in rows if row["label"] == "Serbian"]) == 2


def test_a_language_without_sentences_is_named(voices: Path) -> None:
    (voices / "cy" / "sentences.txt").unlink()
    with pytest.raises(SystemExit, match="cy: no sentences"):
        languages.main("sentences", str(voices))


def test_serbian_has_a_latin_letter_for_each_cyrillic_one() -> None:
    assert languages.to_latin("Љубав, Ђак и Џеп: Његош ћути.") == "Ljubav, Đak i Džep: Njegoš ćuti."


def test_the_declaration_is_cut_into_its_paragraphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _, names in languages.LANGUAGES.values():
        for name in names:
            (tmp_path / f"{name}.txt").write_text("\n  All are  born free.\nArticle 1\n", encoding="utf-8")
    languages.main("declaration", str(tmp_path))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["text"] for row in rows} == {"All are born free."}
    assert len(rows) == len(languages.LANGUAGES) + 2  # two of Portuguese, two of Serbian

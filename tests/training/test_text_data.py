"""Reading texts from the files that users have."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.series_data import DataError
from training.text_data import Vocabulary, normalise, read_texts, split_texts


def test_texts_are_read_plain_as_json_lines_and_gzipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ntwo e\u0301".encode())
    (tmp_path / "b.jsonl").write_text('{"text":"three\\u2028"}\n{"text":"four"}\n')
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"five"))
    found = read_texts([tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.txt.gz"])
    assert found == ["one\ntwo \u00e9", "three\u2028", "four", "five"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"abc\xff", "not UTF-8 at byte 3"),
        ("a.txt", b"", "holds no text"),
        ("a.jsonl", b'{"text":"a"}\n{"t":1}', "line 2"),
        ("a.txt.gz", b"plain", "not readable"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts([tmp_path / name])


@given(st.text(min_size=1, max_size=50), st.text(max_size=50))
def test_known_characters_survive_encoding_and_others_become_token_zero(known: str, other: str) -> None:
    vocabulary = Vocabulary.of([known])
    assert "".join(vocabulary.characters[t] for t in vocabulary.encode(known)) == known
    for character, token in zip(other, vocabulary.encode(other), strict=True):
        assert (token == 0) == (character not in known)


def test_rare_characters_are_unknown() -> None:
    assert Vocabulary.of(["aab"], min_count=2).characters == ("", "a")


def test_replacements_only_lead_from_unknown_to_known_characters() -> None:
    replacements = Vocabulary.of(["it's - \u2019"]).replacements()
    assert normalise("\u2018a\u2019 \u2013 \u2026", replacements) == "'a\u2019 - \u2026"


@given(st.integers(2, 3000), st.floats(0, 0.4), st.floats(0, 0.4))
def test_a_document_is_cut_in_order_and_nothing_is_lost(length: int, valid: float, test: float) -> None:
    text = "".join(chr(32 + i % 90) for i in range(length))
    parts = split_texts([text], valid, test)
    assert "".join("".join(part) for part in parts) == text
    assert "".join(parts[2]) == text[int(length * (1 - test)) :]


def test_many_documents_go_to_parts_whole() -> None:
    documents = [f"document {i}" for i in range(20)]
    train, valid, test = split_texts(documents, 0.1, 0.2)
    assert [*train, *valid, *test] == documents
    assert (len(valid), len(test)) == (2, 4)

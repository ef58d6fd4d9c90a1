"""Reading texts from the files that users have."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.generation import Tokenizer
from service.manifest import TextManifest, read_manifest
from tests.conftest import SHIPPED
from training.series_data import DataError
from training.text_data import Parts, Unit, Vocabulary, normalise, read_documents, read_parts, split_into, split_texts


def test_texts_are_read_plain_as_json_lines_and_gzipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ntwo e\u0301".encode())
    (tmp_path / "b.jsonl").write_text('{"title":"Three","text":"three\\u2028"}\n{"text":"four"}\n')
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"five"))
    found = read_documents([tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.txt.gz"])
    assert [document.text for document in found] == ["one\ntwo \u00e9", "three\u2028", "four", "five"]
    assert [document.name for document in found] == ["a.txt", "Three", "b.jsonl:2", "c.txt.gz"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"abc\xff", "not UTF-8 at byte 3"),
        ("a.txt", b"", "holds no text"),
        ("a.jsonl", b'{"text":"a"}\n{"t":1}', "line 2"),
        ("a.jsonl", b'{"text":"\\ud800"}', "line 1"),
        ("a.jsonl", b'["text"]', "line 1"),
        ("a.txt.gz", b"plain", "not readable"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_documents([tmp_path / name])


@given(st.text(min_size=1, max_size=50), st.text(max_size=50))
def test_known_characters_survive_encoding_and_others_become_token_zero(known: str, other: str) -> None:
    vocabulary = Vocabulary.of([known])
    assert "".join(vocabulary.pieces[t] for t in vocabulary.encode(known)) == known
    for character, token in zip(other, vocabulary.encode(other), strict=True):
        assert (token == 0) == (character not in known)


def test_rare_characters_are_unknown() -> None:
    assert Vocabulary.of(["aab"], min_count=2).pieces == ("", "a")


def test_of_words_the_most_frequent_are_known() -> None:
    texts = ["the cat, the dog", "and the cat's <unk> tail, the <unk>"]
    vocabulary = Vocabulary.of(texts, min_count=2, unit="word")
    assert vocabulary.pieces == ("", " the", ",")
    assert Vocabulary.of(texts, unit="word", most=1).pieces == ("", " the")
    assert vocabulary.encode("see the cat's tail, <unk> the<unk>").tolist() == [0, 1, 0, 0, 2, 0, 1, 0]
    [encoded] = vocabulary.encode_all(["seen the \u2026"], {"\u2026": "..."})
    assert (encoded.tokens.tolist(), encoded.characters) == ([0, 1, 0, 0, 0], len(" the ..."))


MANIFEST = read_manifest(SHIPPED / "text/1")
BITS = ["it's", " ", "  ", "<unk>", "\u2019", "e\u0301", "\r\n", "_", "a1", "\t", "?!", "'"]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(BITS)).map("".join))


@given(known=TEXTS, text=TEXTS, unit=st.sampled_from(["character", "word"]))
def test_training_and_the_service_read_a_text_alike(known: str, text: str, unit: Unit) -> None:
    vocabulary = Vocabulary.of([normalise(known, {}) + "a"], unit=unit)
    replacements = vocabulary.replacements()
    told = {"unit": unit, "vocabulary": vocabulary.pieces, "replacements": replacements}
    served = MANIFEST.model_copy(update=told)
    [encoded] = vocabulary.encode_all([text], replacements)
    assert isinstance(served, TextManifest)
    pieces, tokens = Tokenizer(served).encode(text)
    assert tokens.tolist() == encoded.tokens.tolist()
    assert "".join(pieces) == "".join(split_into(unit, normalise(text, replacements)))
    assert encoded.characters == sum(map(len, pieces[1:]))


def test_files_to_choose_and_to_measure_on_leave_all_others_to_train_on(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.txt" for name in "abc"]
    for path in paths:
        path.write_text(path.stem * 100)
    [a, b, c] = paths
    assert read_parts([a], [b], [c], 0.05, 0.1) == Parts(["a" * 100], ["b" * 100], ["c" * 100], ("c.txt",))
    assert read_parts([a], [b], [], 0.05, 0.1) == Parts(["a" * 90], ["b" * 100], ["a" * 10])
    assert [len(text) for text in read_parts([a], [], [c], 0.05, 0.1).train] == [95]
    assert [read_parts([a], [b], other, 0.05, 0.1).chosen_on_test for other in ([], [c], [b, c])] == [
        False,
        False,
        True,
    ]
    with pytest.raises(DataError, match="cannot be held out"):
        read_parts([a, b], [b], [], 0.05, 0.1)


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

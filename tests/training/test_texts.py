"""Reading texts from the files that users have."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carry.files import DataError
from service.unicode import nfc
from training.data.texts import Parts, encode_all, learn_tokenizer, read_documents, read_parts, split_texts


def test_texts_are_read_plain_as_json_lines_and_gzipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ntwo e\u0301".encode())
    (tmp_path / "b.jsonl").write_text('{"title":"Three","text":"three\\u2028"}\n{"text":"four"}\n')
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"five"))
    documents = read_documents([tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.txt.gz"])
    assert [document.text for document in documents] == ["one\ntwo \u00e9", "three\u2028", "four", "five"]
    assert [document.name for document in documents] == ["a.txt", "Three", "b.jsonl:2", "c.txt.gz"]


def test_lines_may_be_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 = one\n\n2 = two\n3 = three")
    documents = read_documents([tmp_path / "a.txt"], lines=True)
    assert [document.text for document in documents] == ["1 = one\n", "2 = two\n", "3 = three\n"]
    assert [document.name for document in documents] == ["a.txt:1", "a.txt:3", "a.txt:4"]


def test_each_of_several_documents_ends_with_a_line_end_in_training(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "1 = one"}\n{"text": "2 = two\\n"}\n')
    assert read_parts([tmp_path / "a.jsonl"], [], [], 0, 0).train == ["1 = one\n", "2 = two\n"]


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
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_documents([tmp_path / name])


@given(st.text(min_size=1, max_size=50), st.text(max_size=50))
def test_known_characters_survive_encoding_and_others_become_token_zero(known: str, other: str) -> None:
    known, other = nfc(known), nfc(other)
    tokenizer = learn_tokenizer([known], 1, "character", None)
    assert "".join(tokenizer.vocabulary[token] for token in tokenizer.encode(known)[1]) == known
    for character, token in zip(*tokenizer.encode(other), strict=True):
        assert (token == 0) == (character not in known)


def test_rare_characters_are_unknown() -> None:
    assert learn_tokenizer(["aab"], 2, "character", None).vocabulary == ("", "a")


def test_of_words_the_most_frequent_are_known() -> None:
    texts = ["the cat, the dog", "and the cat's <unk> tail, the <unk>"]
    tokenizer = learn_tokenizer(texts, 2, "word", None)
    assert tokenizer.vocabulary == ("", " the", ",")
    assert learn_tokenizer(texts, 1, "word", 1).vocabulary == ("", " the")
    assert tokenizer.encode("see the cat's tail, <unk> the<unk>")[1].tolist() == [0, 1, 0, 0, 2, 0, 1, 0]
    [encoded] = encode_all(learn_tokenizer(["the the ..."], 1, "word", None), ["seen the \u2026"])
    assert (encoded.tokens.tolist(), encoded.characters) == ([0, 3, 2, 1, 1], len(" the ..."))


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
    tokenizer = learn_tokenizer(["it's - \u2019"], 1, "character", None)
    assert tokenizer.normalize("\u2018a\u2019 \u2013 \u2026") == "'a\u2019 - \u2026"


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

"""The sets of the benchmark of sentences."""

from pathlib import Path

from benchmarks.texts import read_sets


def test_each_set_is_read_with_its_classes_and_parts(tmp_path: Path) -> None:
    files = {
        "sentence_polarity/rt-polarity.neg": "".join(f"bad caf\xe9 {i}\n" for i in range(15)),
        "sentence_polarity/rt-polarity.pos": "".join(f"good {i} \n\n" for i in range(15)),
        "subjectivity/plot.tok.gt9.5000": "a man\n" * 10,
        "subjectivity/quote.tok.gt9.5000": "a gem\n" * 10,
        "qc/train.txt": "DESC:manner How did it begin ?\nENTY:animal What fowl ?\n",
        "qc/test.txt": "NUM:dist How far is it ?\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    sets = {name: (train, test) for name, train, test in read_sets(tmp_path)}
    assert sets["TREC"] == (
        [("DESC", "How did it begin ?"), ("ENTY", "What fowl ?")],
        [("NUM", "How far is it ?")],
    )
    train, test = sets["MR"]
    assert test == [("bad", "bad caf\xe9 0"), ("bad", "bad caf\xe9 10"), ("good", "good 5")]
    assert len(train) == 27
    assert {label for label, _ in sets["SUBJ"][0]} == {"objective", "subjective"}

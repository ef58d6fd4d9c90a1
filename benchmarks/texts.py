"""Classifies sentences: by Carry's classifiers, and by logistic regression on n-grams beside them.

`make bench-texts TEXTS=/path/to/corpora` runs it. The folder has the corpora `sentence_polarity` (MR: is a review of a
film good; Pang and Lee 2005), `subjectivity` (SUBJ: is a sentence of a review or of the plot; Pang and Lee 2004) and
`qc` (TREC: what does a question ask for; Li and Roth 2002) of NLTK's data, unpacked. TREC has a published test part; of
the others every tenth sentence is one. Writes results/texts.json after each method, prints a table, and ends with one
JSON line; all else goes to standard error.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.report import RESULTS, machine
from service.classify.manifest import ClassifyManifest
from service.manifest import read_manifest
from training.data.labelled import Labelled, class_names
from training.evaluation.classify_baselines import baselines

LAYERS = ("--cell", "gru", "--rows", "64", "--epochs", "12", "--patience", "3")
OURS = {
    "carry, words": ("--unit", "word", *LAYERS),
    "carry, features of text": ("--features-of", "text"),
    "carry, characters": LAYERS,
}
"""Our methods, and their options beside the defaults."""
TENTH = 10
WRITTEN = RESULTS / "texts.json"

Rows = list[tuple[str, str]]
"""Texts with their classes: class, text."""
Measured = dict[str, Any]
"""Of a set: train and test, how many texts they have; methods, the measures of each."""


def read_lines(file: Path) -> list[str]:
    """The lines of a file in Latin 1 that are not empty."""
    return [line.strip() for line in file.read_text(encoding="latin-1").split("\n") if line.strip()]


def every_tenth(rows: Rows) -> tuple[Rows, Rows]:
    """All but every tenth to train on, and every tenth to measure on."""
    return [row for i, row in enumerate(rows) if i % TENTH], rows[::TENTH]


def read_sets(folder: Path) -> Iterator[tuple[str, Rows, Rows]]:
    """Each set's name, training part and test part."""
    parts = [
        [(line.split(":")[0], line.split(" ", 1)[1]) for line in read_lines(folder / f"qc/{part}.txt")]
        for part in ("train", "test")
    ]
    yield "TREC", parts[0], parts[1]
    for name, files in (
        ("MR", {"bad": "sentence_polarity/rt-polarity.neg", "good": "sentence_polarity/rt-polarity.pos"}),
        ("SUBJ", {"objective": "subjectivity/plot.tok.gt9.5000", "subjective": "subjectivity/quote.tok.gt9.5000"}),
    ):
        yield name, *every_tenth([(label, line) for label, file in files.items() for line in read_lines(folder / file)])


def train(options: Sequence[str], folder: Path, name: str) -> dict[str, float]:
    """Train on the training part by `carry train classify`: what it measured on the other part, and the seconds
    that it took."""
    carry = str(Path(sys.executable).parent / "carry")
    command = [carry, "train", "classify", str(folder / "train.jsonl"), "--test-on", str(folder / "test.jsonl")]
    command += ["--name", name, "--no-baselines", *options]
    command += ["--models-dir", str(folder / "models"), "--run-dir", str(folder / "runs" / name)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - began
    return {**read_manifest(folder / "models" / name / "1", ClassifyManifest).metrics, "seconds": seconds}


def measure(parts: tuple[Rows, Rows], folder: Path) -> Iterator[dict[str, dict[str, float]]]:
    """The measures of each method, the quick ones first."""
    known, asked = (Labelled([label for label, _ in rows], [text for _, text in rows]) for rows in parts)
    yield baselines(known, asked, class_names(known))
    for name, rows in zip(("train", "test"), parts, strict=True):
        lines = [json.dumps({"label": label, "text": text}) + "\n" for label, text in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    for number, (method, options) in enumerate(OURS.items()):
        yield {method: train(options, folder, f"ours-{number}")}


def table(results: Mapping[str, Measured]) -> Table:
    """The accuracies, a method a line."""
    lines = Table("method", *results)
    for method in next(iter(results.values()))["methods"]:
        lines.add_row(method, *(f"{each['methods'][method]['accuracy']:.3f}" for each in results.values()))
    return lines


def main(folder: Annotated[Path, typer.Argument(help="Folder of NLTK's corpora.")]) -> None:
    """Measure all methods on TREC, MR and SUBJ."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the trainings: small networks gain nothing by more
    results: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as temporary:
        measured = {}
        for name, train_part, test in read_sets(folder):
            results[name] = {"train": len(train_part), "test": len(test), "methods": {}}
            (Path(temporary) / name).mkdir()
            measured[name] = measure((train_part, test), Path(temporary) / name)
        for each in zip(*measured.values(), strict=True):
            for name, methods in zip(measured, each, strict=True):
                results[name]["methods"] |= methods
            content = {"machine": {key: machine()[key] for key in ("cpu", "cores")}, "sets": results}
            WRITTEN.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    Console(width=160, stderr=True).print(table(results))
    accuracies = {
        name: {method: row["accuracy"] for method, row in each["methods"].items()} for name, each in results.items()
    }
    sys.stdout.write(json.dumps(accuracies) + "\n")


if __name__ == "__main__":
    typer.run(main)

"""Reads labelled sequences, series or texts; splits them by class; makes batches of whole sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from carry.files import DataError, ReadOptions, Records, read_numbers, read_table
from training.data.tbptt_batches import Batch

TEXT_FIELDS, SERIES_FIELDS = ("text", "sentence", "document"), ("series", "values", "target")
"""Fields of a JSON line that hold its sequence."""
MAX_CLASSES = 1000


@dataclass(frozen=True)
class Labelled:
    """Sequences and their labels. `sequences`: texts, or series (T, F), NaN where missing, of these `features`."""

    labels: list[str]
    sequences: list[Any]
    features: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_text(self) -> bool:
        """Whether the sequences are texts."""
        return not self.features

    def take(self, indices: Sequence[int] | NDArray[np.intp]) -> "Labelled":
        """Some of the sequences, in this order."""
        return Labelled([self.labels[i] for i in indices], [self.sequences[i] for i in indices], self.features)


def read_labelled(paths: Sequence[Path], label: str, id: str | None = None, features: Sequence[str] = ()) -> Labelled:
    """Read files, or folders, of labelled sequences.

    - A table with a column `id`: long; rows of one id are a series, and each other column of numbers (or each of
      `features`) is a feature.
    - A table with one column of text beside the label: a text a row.
    - Any other table: a series a row, of one feature; its columns of numbers are the steps, empty ones at the end left
      out.
    - JSON lines: `text`, or `series`: numbers, lists of numbers (a list for each step), or an object of features.
    - A folder: its folders are the classes, and their files texts (.txt) or tables, each a series.

    Raises:
        DataError: a file cannot be read, lacks the label, or holds sequences of another form than the others.
    """
    parts = [_read(path, label, id, features) for path in paths]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise DataError(f"{', '.join(map(str, paths))}: no labelled sequence")
    for path, part in zip(paths, parts, strict=False):
        if part.features != parts[0].features:
            raise DataError(f"{path}: {_form(part)}, but {paths[0]} has {_form(parts[0])}")
    return Labelled(
        [name for part in parts for name in part.labels],
        [sequence for part in parts for sequence in part.sequences],
        parts[0].features,
    )


def _form(part: Labelled) -> str:
    return "texts" if part.is_text else f"series of {', '.join(part.features)}"


def _read(path: Path, label: str, id: str | None, features: Sequence[str]) -> Labelled:
    if path.is_dir():
        return _read_folder(path, features)
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        return _read_lines(path, label)
    table = read_table(path, ReadOptions())
    if isinstance(table, Records):
        raise DataError(f"{path}: a table, or JSON lines in a file .jsonl, is read")
    for name in (label, *([id] if id else []), *features):
        if name not in table.names:
            raise DataError(f"{path}: no column {name!r}; its columns are {', '.join(map(repr, table.names))}")
    labels = [_text(cell) for cell in table.column(label).to_pylist()]
    rest = [name for name in table.names if name not in (label, id)]
    numbers = {name: read_numbers(table.column(name), suggested=table.style()) for name in rest}
    numeric = [name for name in (features or rest) if not len(numbers[name].bad)]
    if id is not None:
        return _long(path, table.column(id).to_pylist(), labels, numeric, numbers)
    texts = [name for name in rest if len(numbers[name].bad)]
    if len(texts) == 1 and len(rest) == 1:
        cells = table.column(texts[0]).to_pylist()
        kept = [i for i, (name, cell) in enumerate(zip(labels, cells, strict=True)) if name and cell]
        return Labelled([labels[i] for i in kept], [str(cells[i]) for i in kept])
    if not numeric:
        raise DataError(f"{path}: beside {label!r} it needs columns of numbers, or one column of text")
    grid = np.stack([numbers[name].values for name in numeric], axis=1)
    rows = [row[: 1 + int(np.flatnonzero(np.isfinite(row)).max(initial=-1))] for row in grid]
    kept = [i for i, name in enumerate(labels) if name and len(rows[i])]
    return Labelled([labels[i] for i in kept], [rows[i][:, None] for i in kept], ("value",))


def _text(cell: Any) -> str:
    """A label as text: 1.0 of a typed column is 1."""
    return "" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell).strip()


def _long(path: Path, ids: list[Any], labels: list[str], numeric: list[str], numbers: dict[str, Any]) -> Labelled:
    if not numeric:
        raise DataError(f"{path}: no column of numbers beside the label and the id")
    grid = np.stack([numbers[name].values for name in numeric], axis=1)
    rows: dict[Any, list[int]] = {}
    for i, key in enumerate(ids):
        rows.setdefault(key, []).append(i)
    names, sequences = [], []
    for key, indices in rows.items():
        found = {labels[i] for i in indices if labels[i]}
        if len(found) != 1:
            raise DataError(f"{path}: the series {key!r} has {len(found)} labels; each needs one, in all its rows")
        names.append(found.pop())
        sequences.append(grid[indices])
    return Labelled(names, sequences, tuple(numeric))


def _read_lines(path: Path, label: str) -> Labelled:
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        records = (
            orjson.loads(content) if content.lstrip()[:1] == b"[" else list(map(orjson.loads, content.splitlines()))
        )
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON lines: {error}") from error
    labels, sequences = [], []
    features: tuple[str, ...] | None = None
    for number, record in enumerate(records, 1):
        place = f"{path}, record {number}"
        if not isinstance(record, dict) or record.get(label) is None:
            raise DataError(f"{place}: needs {label!r}, its label")
        sequence, names = _sequence(place, record)
        if features not in (None, names):
            raise DataError(f"{place}: another form of sequence than the records before")
        features = names
        labels.append(_text(record[label]))
        sequences.append(sequence)
    return Labelled(labels, sequences, features or ())


def _sequence(place: str, record: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    for name in TEXT_FIELDS:
        if isinstance(record.get(name), str):
            return record[name], ()
    series = next((record[name] for name in SERIES_FIELDS if name in record), None)
    try:
        if isinstance(series, dict) and series:
            return np.stack([np.array(values, dtype=np.float64) for values in series.values()], axis=1), tuple(series)
        array = np.array(series, dtype=np.float64)
    except (ValueError, TypeError):
        array = np.empty(0)
    if array.ndim == 1 and len(array):
        return array[:, None], ("value",)
    if array.ndim == 2 and array.size:
        return array, tuple(f"value{i + 1}" for i in range(array.shape[1]))
    raise DataError(f"{place}: needs `text`, or `series`: numbers, a list for each step, or an object of features")


def _read_folder(path: Path, features: Sequence[str]) -> Labelled:
    labels, sequences = [], []
    forms: set[tuple[str, ...]] = set()
    for folder in sorted(each for each in path.iterdir() if each.is_dir()):
        for file in sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")):
            sequence, names = _read_file(file, features)
            forms.add(names)
            labels.append(folder.name)
            sequences.append(sequence)
    if len(forms) > 1:
        raise DataError(f"{path}: its files hold {len(forms)} forms of sequences; all need the same columns")
    return Labelled(labels, sequences, forms.pop() if forms else ())


def _read_file(file: Path, features: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """One text, or one series and its features."""
    if file.suffix == ".txt":
        return file.read_text(encoding="utf-8", errors="replace"), ()
    table = read_table(file, ReadOptions())
    if isinstance(table, Records):
        raise DataError(f"{file}: a text (.txt) or a table is read")
    numbers = {name: read_numbers(table.column(name), suggested=table.style()) for name in table.names}
    names = tuple(name for name in (features or table.names) if not len(numbers[name].bad))
    if not names:
        raise DataError(f"{file}: no column of numbers")
    return np.stack([numbers[name].values for name in names], axis=1), names


def class_names(data: Labelled) -> tuple[str, ...]:
    """The classes, sorted: as numbers, if all are.

    Raises:
        DataError: there is only one, or too many.
    """
    names = set(data.labels)
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{len(names)} classes: 2 to {MAX_CLASSES} can be told apart")
    numeric = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int if numeric else str))


def split_by_class(data: Labelled, shares: Sequence[float], seed: int) -> list[Labelled]:
    """Parts of these shares, and the rest at last; each class is in each part by its share, at least once if it has a
    sequence for each part (stratified)."""
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    labels = np.array(data.labels)
    for name in sorted(set(data.labels)):
        indices = rng.permutation(np.flatnonzero(labels == name)).tolist()
        for part, share in zip(parts, shares, strict=False):
            count = min(len(indices) - 1, max(1, round(share * len(indices)))) if share and len(indices) > 1 else 0
            part += indices[:count]
            indices = indices[count:]
        parts[-1] += indices
    return [data.take(sorted(part)) for part in parts]


@dataclass(frozen=True)
class SequenceStream:
    """Batches of whole sequences of about equal length, as the arguments of `Classifier.forward`.

    sequences: series (T, F), or tokens (T,). labels (N,). weights (C,): of the classes. mask_rate: the share of values
    (or of tokens) that is hidden in training.
    """

    sequences: Sequence[NDArray[Any]]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    rows: int
    smoothing: float = 0.0
    mask_rate: float = 0.0

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.sequences) // self.rows)

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """One pass, in random order with `rng`; without it, nothing is hidden."""
        lengths = np.array([len(sequence) for sequence in self.sequences])
        noise = 1 + 0.2 * rng.random(len(lengths)) if rng is not None else 1.0
        order = np.argsort(lengths * noise, kind="stable")
        batches = [order[first : first + self.rows] for first in range(0, len(order), self.rows)]
        if rng is not None:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        for indices in batches:
            inputs = pad([self.sequences[i] for i in indices])
            if rng is not None and self.mask_rate:
                inputs = _hide(inputs, self.mask_rate, rng)
            arguments = (
                torch.from_numpy(self.labels[indices]),
                torch.from_numpy(self.weights),
                torch.tensor(self.smoothing),
                torch.from_numpy(lengths[indices]),
                *inputs,
            )
            yield Batch(arguments, torch.ones(len(indices), dtype=torch.bool), len(indices))


def pad(sequences: Sequence[NDArray[Any]]) -> tuple[Tensor, ...]:
    """Series as values (B, T, F) and where they are observed (B, T, F); or tokens (B, T). Padded with 0 at the end."""
    longest = max(map(len, sequences))
    first = sequences[0]
    padded = np.full((len(sequences), longest, *first.shape[1:]), np.nan if first.ndim == 2 else 0, dtype=first.dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    if first.ndim == 1:
        return (torch.from_numpy(padded),)
    observed = np.isfinite(padded)
    return torch.from_numpy(np.where(observed, padded, 0.0)), torch.from_numpy(observed.astype(np.float32))


def _hide(inputs: tuple[Tensor, ...], rate: float, rng: np.random.Generator) -> tuple[Tensor, ...]:
    shown = torch.from_numpy(rng.random(inputs[0].shape) >= rate)
    if len(inputs) == 1:
        return (inputs[0] * shown,)
    return inputs[0], inputs[1] * shown

"""Reads labelled sequences, series or texts; splits them by class; makes batches of whole sequences."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from carry.files import (
    DataError,
    Numbers,
    ReadOptions,
    Records,
    Table,
    read_content,
    read_numbers,
    read_table,
    read_text_file,
)
from training.data.tbptt_batches import Batch
from training.progress import counted, say

TEXT_FIELDS, SERIES_FIELDS = ("text", "sentence", "document"), ("series", "values", "target")
"""Columns of texts, and fields of a JSON line that hold its sequence."""
TIME_COLUMN = "ds"
"""No feature, though its cells may be numbers."""
JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
MAX_CLASSES = 1000
MAX_NAMED = 20
"""Names that a message lists."""


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

    @property
    def form(self) -> str:
        """What the sequences are, for a message."""
        return _form(self.features)

    def take(self, indices: Sequence[int] | NDArray[np.intp]) -> "Labelled":
        """Some of the sequences, in this order."""
        return Labelled([self.labels[i] for i in indices], [self.sequences[i] for i in indices], self.features)

    def of_features(self, features: tuple[str, ...], place: str) -> "Labelled":
        """The same sequences as series of these features, in this order; or as texts, if there are none. The only
        feature of a series may have another name. place: of the sequences, for a message.

        Raises:
            DataError: they are of another form, or lack a feature.
        """
        if len(features) == len(self.features) <= 1:
            return Labelled(self.labels, self.sequences, features)
        if not features or not {*features} <= {*self.features}:
            raise DataError(f"{place}: holds {self.form}; needed are {_form(features)}")
        columns = [self.features.index(name) for name in features]
        return Labelled(self.labels, [series[:, columns] for series in self.sequences], features)


def _form(features: Sequence[str]) -> str:
    return f"series of {_listed(features)}" if features else "texts"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(map(repr, names[:MAX_NAMED])) + more


def read_labelled(paths: Sequence[Path], label: str, id: str | None = None, features: Sequence[str] = ()) -> Labelled:
    """Read files, or folders, of labelled sequences.

    - A table with a column `id`: long; rows of one id are a series, and each other column of numbers but `ds` (or each
      of `features`) is a feature.
    - A table with a column of text, of a name in TEXT_FIELDS or the only one beside the label: a text a row.
    - Any other table: a series a row, of one feature; its columns of numbers (or the `features`) are the steps, empty
      ones at the end left out.
    - JSON lines: `text`, or `series`: numbers, lists of numbers (a list for each step), or an object of features. With
      `id`, rows of a long table.
    - A folder: its folders are the classes, and their files texts (.txt) or tables, each a series.

    Sequences without a label, or without a character or number, are left out, and their count is said.

    Raises:
        DataError: a file cannot be read, lacks the label, or holds sequences of another form than the others.
    """
    parts = [_without_gaps(_read(path, label, id, features), path) for path in paths]
    first = next((part for part in parts if len(part)), None)
    if first is None:
        raise DataError(f"{', '.join(map(str, paths))}: no labelled sequence")
    parts = [part.of_features(first.features, str(path)) for path, part in zip(paths, parts, strict=True) if len(part)]
    return Labelled(
        [name for part in parts for name in part.labels],
        [sequence for part in parts for sequence in part.sequences],
        first.features,
    )


def _without_gaps(part: Labelled, path: Path) -> Labelled:
    """The sequences that have a label and something to read."""
    labelled = [i for i, name in enumerate(part.labels) if name]
    if part.is_text:
        content, filled = "a character", [i for i in labelled if part.sequences[i]]
    else:
        content, filled = "a number", [i for i in labelled if np.isfinite(part.sequences[i]).any()]
    for count, what in ((len(part) - len(labelled), "a label"), (len(labelled) - len(filled), content)):
        if count:
            say(f"{path}: {counted(count, 'sequence')} without {what} left out")
    return part.take(filled)


def _read(path: Path, label: str, id: str | None, features: Sequence[str]) -> Labelled:
    if path.is_dir():
        return _read_folder(path, features)
    if id is None and JSON_SUFFIXES.intersection(path.suffixes):
        return _read_lines(path, label)
    table = read_table(path, ReadOptions())
    if isinstance(table, Records):
        raise DataError(f"{path}: a table, or JSON lines in a file .jsonl, is read")
    for name in (label, *([id] if id else []), *features):
        _check_column(path, table, name)
    labels = [_label(cell) for cell in table.column(label).to_pylist()]
    rest = [name for name in table.names if name not in (label, id)]
    if id is not None:
        return _long(path, table, labels, id, features or _numeric(path, table, rest))
    text = _text_column(table, features or rest)
    if text is not None:
        return Labelled(labels, [cell or "" for cell in table.column(text).to_pylist()])
    grid = _grid(path, table, features or rest)
    ends = [1 + int(np.flatnonzero(np.isfinite(row)).max(initial=-1)) for row in grid]
    return Labelled(labels, [row[:end, None] for row, end in zip(grid, ends, strict=True)], ("value",))


def _check_column(path: Path, table: Table, name: str) -> None:
    """Check that a table has a column.

    Raises:
        DataError: it has none of this name.
    """
    if name not in table.names:
        raise DataError(f"{path}: no column {name!r}; its columns are {_listed(table.names)}")


def _text_column(table: Table, names: Sequence[str]) -> str | None:
    """The column whose cells are texts to classify; None if each row is a series."""
    usual = [name for name in names if name in TEXT_FIELDS and table.is_text(name)]
    if usual or len(names) != 1:
        return usual[0] if len(usual) == 1 else None
    return names[0] if len(read_numbers(table.column(names[0])).bad) else None


def _numeric(path: Path, table: Table, names: Sequence[str]) -> list[str]:
    """The features of a long table: all columns that hold numbers but the times."""
    numbers = {name: _numbers(table, name) for name in names if name != TIME_COLUMN}
    features = [name for name, each in numbers.items() if each.count and not len(each.bad)]
    others = [name for name in names if name not in features]
    if others:
        say(f"{path}: the columns {_listed(others)} are no features")
    return features


def _numbers(table: Table, name: str) -> Numbers:
    return read_numbers(table.column(name), suggested=table.style())


def _grid(path: Path, table: Table, names: Sequence[str]) -> NDArray[np.float64]:
    """The numbers of columns, (N, columns).

    Raises:
        DataError: there is none, or a cell of one is no number.
    """
    if not names:
        raise DataError(f"{path}: needs columns of numbers, or a column of text, beside those of labels and ids")
    columns = []
    for name in names:
        _check_column(path, table, name)
        numbers = _numbers(table, name)
        if len(numbers.bad):
            row = int(numbers.bad[0])
            raise DataError(
                f"{path}, {table.place(row)}: {table.cell(name, row)!r} in the column {name!r} is no number; name the "
                "columns of the series, or the one of the texts, by --features"
            )
        columns.append(numbers.values)
    return np.stack(columns, axis=1)


def _label(cell: Any) -> str:
    """A label as text, "" if there is none: 1.0 of a column of numbers is 1."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _long(path: Path, table: Table, labels: list[str], id: str, features: Sequence[str]) -> Labelled:
    grid = _grid(path, table, features)
    rows: dict[Any, list[int]] = {}
    for i, key in enumerate(table.column(id).to_pylist()):
        rows.setdefault(key, []).append(i)
    names = []
    for key, indices in rows.items():
        series_labels = sorted({labels[i] for i in indices if labels[i]})
        if len(series_labels) > 1:
            raise DataError(
                f"{path}: the series {key!r} has the labels {_listed(series_labels)}; each needs one, in all its rows"
            )
        names.append(series_labels[0] if series_labels else "")
    return Labelled(names, [grid[indices] for indices in rows.values()], tuple(features))


def _read_lines(path: Path, label: str) -> Labelled:
    content = read_content(path).removeprefix(b"\xef\xbb\xbf")
    if content.lstrip()[:1] == b"[":
        records = [(f"{path}, item {n}", item) for n, item in enumerate(_json(str(path), content), 1)]
    else:
        lines = [(f"{path}, line {n}", line) for n, line in enumerate(content.splitlines(), 1) if line.strip()]
        records = [(place, _json(place, line)) for place, line in lines]
    fields: dict[str, None] = {}
    labels, sequences, forms = [], [], []
    for place, record in records:
        if not isinstance(record, dict):
            raise DataError(f"{place}: must be an object with {label!r}, its label, and a text or a series")
        fields |= dict.fromkeys(record)
        name = record.get(label)
        if isinstance(name, dict | list):
            raise DataError(f"{place}: {label!r} must be a text or a number, as a label is")
        sequence, features = _sequence(place, record)
        labels.append(_label(name))
        sequences.append(sequence)
        forms.append(features)
    if records and label not in fields:
        raise DataError(f"{path}: no field {label!r}; its fields are {_listed([*fields])}")
    parts = [
        Labelled([name], [sequence], form).of_features(forms[0], place)
        for name, sequence, form, (place, _) in zip(labels, sequences, forms, records, strict=True)
    ]
    return Labelled(labels, [part.sequences[0] for part in parts], forms[0] if forms else ())


def _json(place: str, text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{place}: not readable as JSON: {error}") from error


def _sequence(place: str, record: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The text, or the series and its features, of a JSON line."""
    for name in TEXT_FIELDS:
        if isinstance(record.get(name), str):
            return record[name], ()
    series = next((record[name] for name in SERIES_FIELDS if name in record), None)
    columns = series if isinstance(series, dict) and series else {"": series}
    try:
        arrays = [np.array(values, dtype=np.float64) for values in columns.values()]
    except (ValueError, TypeError):  # a list in a list of another length, or no number
        arrays = []
    if len({array.shape for array in arrays}) > 1:
        raise DataError(f"{place}: the features {_listed([*columns])} have lists of different lengths")
    if not arrays or arrays[0].ndim not in ((1,) if series is columns else (1, 2)):
        raise DataError(
            f"{place}: needs `text`, or `series`: numbers, a list of as many numbers for each step, or an object of "
            "features"
        )
    if series is columns:
        return np.stack(arrays, axis=1), tuple(columns)
    [array] = arrays
    if array.ndim == 1:
        return array[:, None], ("value",)
    return array, tuple(f"value{i + 1}" for i in range(array.shape[1]))


def _read_folder(path: Path, features: Sequence[str]) -> Labelled:
    folders = [each for each in _visible(path) if each.is_dir()]
    if not folders:
        raise DataError(f"{path}: a folder needs a folder of files for each class")
    files = [file for folder in folders for file in _visible(folder) if file.is_file()]
    if not files:
        raise DataError(f"{path}: the folders of its classes have no files")
    parts = [_read_file(file, features) for file in files]
    parts = [part.of_features(parts[0].features, str(file)) for file, part in zip(files, parts, strict=True)]
    return Labelled([part.labels[0] for part in parts], [part.sequences[0] for part in parts], parts[0].features)


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden files such as .DS_Store."""
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _read_file(file: Path, features: Sequence[str]) -> Labelled:
    """One text, or one series and its features."""
    if file.suffix.lower() == ".txt":
        return Labelled([file.parent.name], [read_text_file(file)])
    table = read_table(file, ReadOptions())
    if isinstance(table, Records):
        raise DataError(f"{file}: a text (.txt) or a table is read")
    names = features or _numeric(file, table, table.names)
    return Labelled([file.parent.name], [_grid(file, table, names)], tuple(names))


def class_names(data: Labelled) -> tuple[str, ...]:
    """The classes, sorted: as numbers, if all are.

    Raises:
        DataError: there is only one, or too many.
    """
    names = sorted(set(data.labels))
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(f"2 to {MAX_CLASSES} classes can be told apart; the labels are {len(names)}: {_listed(names)}")
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(names)


def split_by_class(data: Labelled, shares: Sequence[float], seed: int) -> list[Labelled]:
    """Parts of these shares, and the rest at last; each class is in each part by its share, at least once if it has a
    sequence for each part (stratified). The rest has at least one of each class."""
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    labels = np.array(data.labels)
    for name in sorted(set(data.labels)):
        indices = rng.permutation(np.flatnonzero(labels == name)).tolist()
        wanted = [max(1, round(share * len(indices))) if share else 0 for share in shares]
        for part, count in zip(parts, wanted, strict=False):
            taken = min(count, len(indices) - 1)
            part += indices[:taken]
            indices = indices[taken:]
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

"""Files of any size that hold one table: their columns, the hash of their bytes, and their rows as a stream of record
batches, of which memory holds a few. Knows nothing of series.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from service.errors import CarryError

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".ipc": "ipc",
    ".feather": "ipc",
    ".orc": "orc",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
}
"""By the ends of names."""
BATCH_ROWS = 1 << 16
LIST_BATCH_ROWS = 1 << 12
"""Rows of a batch where a row is a whole series."""
DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class SourceFile:
    """A file of a table. path: within the folder."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A table in files of one format, in the order of their names."""

    path: Path
    paths: tuple[Path, ...]
    dataset: ds.Dataset

    @property
    def schema(self) -> pa.Schema:
        """Its columns; a file may lack none of them."""
        return self.dataset.schema

    @cached_property
    def rows(self) -> int | None:
        """How many rows there are, where the files say it."""
        if not isinstance(self.dataset.format, ds.ParquetFileFormat):
            return None
        return sum(int(pq.read_metadata(path).num_rows) for path in self.paths)

    @cached_property
    def files(self) -> tuple[SourceFile, ...]:
        """The files with their hashes. This reads them all once."""
        base = self.path if self.path.is_dir() else self.path.parent
        files = []
        for path in self.paths:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files.append(SourceFile(str(path.relative_to(base)), path.stat().st_size, digest))
        return tuple(files)

    @cached_property
    def sha256(self) -> str:
        """Of the file; of several, of their names and hashes."""
        if len(self.files) == 1:
            return self.files[0].sha256
        names = "".join(f"{file.sha256}  {file.path}\n" for file in self.files)
        return hashlib.sha256(names.encode()).hexdigest()

    def head(self, columns: Sequence[str]) -> pa.RecordBatch | None:
        """The first rows; None if there are none."""
        return next((batch for batch in self.batches(columns) if len(batch)), None)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows, in order. Numbers, texts and times have one type in all files: that of `schema`.

        Raises:
            CarryError: a file is damaged, or has other columns.
        """
        schema = pa.schema([self.schema.field(name) for name in columns])
        lists = any(pa.types.is_nested(field.type) for field in schema)
        size = LIST_BATCH_ROWS if lists else BATCH_ROWS
        for path in self.paths:
            try:
                for batch in self._read(path, columns, size):
                    yield batch if batch.schema == schema else batch.cast(schema)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError, KeyError) as error:
                raise CarryError(f"{path}: cannot be read: {error}") from None

    def _read(self, path: Path, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        if isinstance(self.dataset.format, ds.ParquetFileFormat):
            # Unlike a dataset, this never holds a whole row group, which may be the whole file.
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(size, columns=list(columns))
        else:
            part = ds.dataset(str(path), self.schema, self.dataset.format)
            yield from part.to_batches(columns=list(columns), batch_size=size, batch_readahead=2, fragment_readahead=1)


def open_source(path: Path, id: str, values: str) -> Source:
    """Open a file, or all files of a folder. Text is read with the column `id` as text, so that 007 stays 007, and
    `values` as numbers.

    Raises:
        CarryError: there is no such file, or it is not of a format that is read.
    """
    paths = [path]
    if path.is_dir():
        inside = (file for file in sorted(path.rglob("*")) if file.is_file())
        paths = [file for file in inside if not any(part[0] in "._" for part in file.relative_to(path).parts)]
    elif not path.exists():
        raise CarryError(f"{path}: no such file or folder")
    formats = {_format_name(file) for file in paths}
    accepted = f"accepted are {', '.join(FORMATS)}, and CSV with .gz"
    if not paths:
        raise CarryError(f"{path}: holds no files; {accepted}")
    if len(formats) > 1 or None in formats:
        names = ", ".join(sorted({file.suffix or file.name for file in paths})[:5])
        raise CarryError(f"{path}: the files of a table must be of one format; {accepted}, and here are: {names}")
    [name] = formats
    try:
        kind = _csv_format(paths[0], id, values) if name == "csv" else name
        return Source(path, tuple(paths), ds.dataset([str(file) for file in paths], format=kind))
    except (pa.ArrowInvalid, OSError) as error:
        raise CarryError(f"{path}: cannot be read: {error}") from None


def _format_name(path: Path) -> str | None:
    return FORMATS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def _csv_format(path: Path, id: str, values: str) -> ds.CsvFileFormat:
    with pa.input_stream(str(path), compression="detect") as stream:
        header = stream.read(1 << 16).partition(b"\n")[0].decode("utf-8", "replace")
    delimiter = max(DELIMITERS, key=header.count)
    return ds.CsvFileFormat(
        parse_options=pa_csv.ParseOptions(delimiter=delimiter),
        convert_options=pa_csv.ConvertOptions(column_types={id: pa.string(), values: pa.float64()}),
    )

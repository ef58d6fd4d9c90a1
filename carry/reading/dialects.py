"""Text files of rows and cells: finds their encoding, the separator of their cells, and the line of names; skips what
stands above and below the table, and says so. Knows nothing of dates and series.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from carry.reading.columns import MISSING_WORDS, Decimal, Table
from carry.reading.series import DataError

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_BYTES = 1 << 20
SAMPLE_ROWS = 400
"""Rows that decide on the dialect."""
BLOCK_BYTES = 1 << 24
BLOCK_ROWS = 1 << 16
_NUMBER = re.compile(
    r"[-+\u2212(]?\s*[€$£¥]?\s*(\d{1,3}([ ,.'\u00a0\u202f]\d{2,3})+([.,]\d*)?|\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?"
    r"\s*[%€)]?"
)
_CLOCK = r"\d{1,2}[:.]\d{2}([:.]\d{2}[\d.]*( ?[AaPp]\.?[Mm])?)?"
_DATE = re.compile(
    rf"\d{{1,4}}[-/. ]\d{{1,2}}([-/. ]\d{{1,4}})?([T ].*)?|{_CLOCK}|\d{{4}}[-\s]?[QMWS]\d{{1,2}}(-\d)?"
    r"|\d{1,4}[- /.]?[A-Za-z]{3,9}\.?[- /.,]?(\d{1,4})?.*|[A-Za-z]{3,9}\.?[- /.]\d{1,4}(,? \d{4})?.*"
)
_FOOTER = re.compile(r"source|note|footnote|quelle|copyright|©|\*|\(c\)|.*\s", re.IGNORECASE)
_COMMENT = ("#", "%", "//", "!")


@dataclass(frozen=True)
class Dialect:
    """How a text file separates cells. delimiter: "" if it has one column, " " if cells are padded. quote: of cells."""

    delimiter: str
    quote: str = '"'


def read_text(data: bytes, place: str) -> Table:
    """The table in the bytes of a text file, all columns as text. place: for messages.

    Raises:
        DataError: it is no text, has no rows, or a row has more cells than there are names.
    """
    notes: list[str] = []
    data = as_utf8(data, place, notes)
    if not data.strip():
        raise DataError(f"{place}: the file is empty")
    first_line = 1
    if separator := re.match(rb"sep=(.)\r?\n", data):  # Excel's own
        data, first_line = data[separator.end() :], 2
    lines = _sample_lines(data)
    dialect = _find_dialect(lines, separator[1].decode("utf-8", "replace") if separator else None)
    if dialect.delimiter == " ":
        data = _without_padding(data)
        lines = _sample_lines(data)
        dialect = Dialect("\t")
        notes.append("cells are separated by spaces")
    else:
        named = {";": "semicolons", "\t": "tabs", "|": "bars"}.get(dialect.delimiter)
        if named:
            notes.append(f"cells are separated by {named}")
    rows, ends = _split(lines, dialect)
    if not rows:
        raise DataError(f"{place}: the file is empty")
    header = _find_header(rows, place)
    names = header.names
    if header.skipped:
        texts = " | ".join(text for row in rows[: header.skipped] if (text := " ".join(filter(None, row)).strip()))
        if texts:
            some = "1 line" if header.skipped == 1 else f"{header.skipped} lines"
            notes.append(
                f"{some} above the table {'is' if header.skipped == 1 else 'are'} not read: {_shortened(texts)}"
            )
    start = ends[header.body - 1] if header.body else 0
    offset = _line_offset(data, start)
    table, short = _read_body(data, offset, first_line + start, names, dialect, place, notes)
    if header.note:
        notes.append(header.note)
    table = tidy(table, place)
    short = short[np.isin(short, table.rows)]
    if len(short):
        some = "1 row has" if len(short) == 1 else f"{len(short)} rows have"
        notes.append(
            f"{some} fewer cells than there are columns (line {short[0]} is the first): the others are missing"
        )
    return table


def table_of_rows(rows: Sequence[Sequence[str]], place: str, origin: str = "row") -> Table:
    """The table in rows of cells as text, as a sheet has them: with titles above the names, and empty rows.

    Raises:
        DataError: there are no rows below the names.
    """
    if not any(any(row) for row in rows):
        raise DataError(f"{place}: holds no rows")
    sample = [list(row) for row in rows[:SAMPLE_ROWS]]
    header = _find_header(sample, place)
    width = max(len(row) for row in rows)
    names = [*header.names, *[""] * (width - len(header.names))]
    body = rows[header.body :]
    cells = [[row[i] if i < len(row) else "" for row in body] for i in range(width)]
    columns = [pa.chunked_array([pa.array(column, pa.string())]) for column in cells]
    notes = [header.note] if header.note else []
    texts = " | ".join(text for row in sample[: header.skipped] if (text := " ".join(filter(None, row)).strip()))
    if texts:
        notes.append(f"above the table, not read: {_shortened(texts)}")
    positions = np.arange(header.body + 1, len(rows) + 1)
    return tidy(Table(_unique(names, notes), columns, positions, origin, None, notes), place)


def as_utf8(data: bytes, place: str, notes: list[str]) -> bytes:
    """The text in UTF-8 without a mark of byte order; says which other encoding it had."""
    marks = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe\x00\x00": "utf-32-le", b"\x00\x00\xfe\xff": "utf-32-be"}
    marks |= {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
    encoding = "utf-8"
    for mark, name in marks.items():
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    else:
        head = data[:4096]
        nulls = (head[0::2].count(0), head[1::2].count(0))
        if max(nulls) > len(head) // 4:
            encoding = "utf-16-be" if nulls[0] > nulls[1] else "utf-16-le"
    if encoding == "utf-8":
        if not _is_utf8(data):
            try:
                data = data.decode("cp1252").encode()
                encoding = "Windows-1252"
            except UnicodeDecodeError:
                data = data.decode("latin-1").encode()
                encoding = "Latin-1"
            notes.append(f"the file is not UTF-8; it is read as {encoding}")
    else:
        try:
            data = data.decode(encoding).encode()
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not readable as {encoding.upper()}: {error.reason}") from None
        notes.append(f"the file is {encoding.upper()}")
    if b"\0" in data[:SAMPLE_BYTES]:
        raise DataError(
            f"{place}: not a file of text; accepted are CSV, JSON, JSON lines, Parquet, Arrow and Excel (.xlsx) files, "
            "also compressed by gzip, zstd, bzip2, xz or zip"
        )
    return data


def _is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8, checked in pieces: the text of a large file is not made."""
    view, at = memoryview(data), 0
    while at < len(view):
        end = min(at + BLOCK_BYTES, len(view))
        while end < len(view) and end > at and view[end] & 0xC0 == 0x80:  # not inside a character
            end -= 1
        try:
            str(view[at:end], "utf-8")
        except UnicodeDecodeError:
            return False
        at = end
    return True


def _sample_lines(data: bytes) -> list[str]:
    """The first lines with their ends, whole."""
    size = SAMPLE_BYTES
    while True:
        head = data[:size]
        lines = io.StringIO(head.decode("utf-8", "ignore"), newline="").readlines()
        if size < len(data) and lines:
            lines = lines[:-1]
        if len(lines) >= 3 or size >= len(data):
            return lines[: 10 * SAMPLE_ROWS]
        size *= 4


def _split(lines: Sequence[str], dialect: Dialect) -> tuple[list[list[str]], list[int]]:
    """Rows of cells, and after each row the number of lines up to its end."""
    rows: list[list[str]] = []
    ends: list[int] = []
    reader = csv.reader(lines, delimiter=dialect.delimiter or "\x1f", quotechar=dialect.quote)
    try:
        for row in reader:
            rows.append([cell.strip() for cell in row])
            ends.append(reader.line_num)
            if len(rows) == SAMPLE_ROWS:
                break
    except csv.Error:  # a cell larger than 128 KiB
        pass
    return rows, ends


def _find_dialect(lines: Sequence[str], delimiter: str | None) -> Dialect:
    """The separator whose rows fit their names, and whose cells are numbers and dates."""
    top = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith(_COMMENT)), 0)
    sample = lines[top:]
    quote = '"'
    quoted = [re.match(r"\s*'[^']*'\s*[,;\t|]", line) is not None for line in sample[:20] if line.strip()]
    if quoted and all(quoted):
        quote = "'"
    if delimiter:
        return Dialect(delimiter, quote)
    single = _score(_split(sample, Dialect("", quote))[0])
    best, best_score = "", single
    for candidate in DELIMITERS:
        rows = _split(sample, Dialect(candidate, quote))[0]
        score = _score(rows) if any(len(row) > 1 for row in rows) else 0.0
        if score > best_score + 1e-9 or (not best and score >= best_score and score > 0):
            best, best_score = candidate, score
    if not best and _is_padded(sample):
        return Dialect(" ", quote)
    return Dialect(best, quote)


def _score(rows: list[list[str]]) -> float:
    """How well a separator fits: rows have no more cells than the line of names, and cells are numbers or dates."""
    rows = [row for row in rows if any(row)]
    if not rows:
        return 0.0
    widths = Counter(len(row) for row in rows)
    width = max(widths, key=lambda count: (widths[count], count == len(rows[0]), count))
    top = next((i for i, row in enumerate(rows) if _may_name(row, width)), 0)
    body = rows[top + 1 :] or rows
    limit = max(len(rows[top]), width)
    fitting = sum(len(row) <= limit or not any(row[limit:]) for row in body) / len(body)
    same = sum(len(row) == len(body[0]) for row in body) / len(body)
    if width == 1 and max(widths) > 1:
        return 0.0
    cells = [cell for row in body[:100] for cell in row[:200] if cell]
    good = sum(_kind(cell) != "text" for cell in cells) / max(1, len(cells))
    doubt = 0.02 * min(top, 5) + (0.3 if len(rows[top]) < width else 0.0)
    if max(widths) == 1 and any(delimiter in rows[top][0] for delimiter in DELIMITERS):
        doubt += 0.5  # names hold none
    return (fitting + 0.2 * same) * (0.2 + good) * (1 - doubt)


def _kind(cell: str) -> str:
    """number, date, empty or text."""
    if not cell or cell.lower() in MISSING_WORDS:
        return "empty"
    if _NUMBER.fullmatch(cell):
        return "number"
    if len(cell) <= 40 and re.search(r"^[^;|\t]*\d[^;|\t]*$", cell) and _DATE.fullmatch(cell):
        return "date"
    return "text"


def _is_padded(lines: Sequence[str]) -> bool:
    """Whether cells are separated by spaces: as many words in each line, numbers among them, and in the first line as
    many names."""
    rows = [line.split() for line in lines if line.strip()]
    body = rows[1:]
    if len(body) < 2 or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in body):
        return False
    return any(all(_kind(row[i]) in ("number", "empty") for row in body) for i in range(1, len(rows[0])))


def _without_padding(data: bytes) -> bytes:
    return re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", re.sub(rb"(?<=\S)[ \t]+(?=\S)", b"\t", data))


@dataclass(frozen=True)
class _Header:
    """The names of the columns; `skipped` rows stand above the table; its values begin with row `body`. note: what is
    to be said of it."""

    names: list[str]
    skipped: int
    body: int
    note: str = ""


def _find_header(rows: list[list[str]], place: str) -> _Header:
    """Which row has the names of the columns: the first that is as wide as the table, unless it holds values."""
    filled = [sum(map(bool, row)) for row in rows]
    comments = [bool(row) and row[0].startswith(_COMMENT) for row in rows]
    first = next((i for i, comment in enumerate(comments) if not comment and filled[i]), 0)
    comments = [comment and i < first for i, comment in enumerate(comments)]  # #1 may name a series
    widths = Counter(_width(row) for row, comment in zip(rows, comments, strict=True) if any(row) and not comment)
    if not widths:
        raise DataError(f"{place}: holds no rows")
    width = max(widths, key=lambda count: (widths[count], count))
    top = next(
        (i for i, row in enumerate(rows) if not comments[i] and _may_name(row, width)),
        next(i for i, count in enumerate(filled) if count),
    )
    names = rows[top]
    body = [row for i, row in enumerate(rows) if i > top and any(row) and not comments[i]]
    if not _holds_values(names, body):
        if _may_be_either(names, body):
            raise DataError(
                f"{place}: its first row holds numbers ({_shortened(', '.join(names))}): it must hold the names of the "
                "columns, and these may be values as well"
            )
        below = top + 1
        units = _rows_of_units(names, body)
        if units:
            below = next(i for i in range(top + 1, len(rows)) if rows[i] is body[units - 1]) + 1
            texts = " | ".join(" ".join(filter(None, row)) for row in body[:units])
            note = f"below the names, not read: {_shortened(texts)}"
            return _Header(names, top, below, note)
        widest = max((_width(row) for row in body), default=0)
        # R's write.table gives no name to the column of the names of rows.
        unnamed = len(names) == widest - 1 and all(_width(row) == widest for row in body)
        # But 1,000 without quotation marks is two cells.
        unnamed = unnamed and not all(re.fullmatch(r"\d{3}(\.\d*)?", row[widest - 1]) for row in body)
        return _Header(["", *names] if unnamed else names, top, below)
    if top and comments[top - 1]:
        above = [cell.strip() for cell in rows[top - 1]]
        above[0] = above[0].lstrip("#%/! ").strip()
        above = above if above[0] else above[1:]
        if len(above) == len(names) and all(above) and not _holds_values(above, [names, *body]):
            return _Header(above, top - 1, top)
    numbered = [f"column {i + 1}" for i in range(max(map(len, [names, *body])))]
    return _Header(numbered, top, top, "the first row holds values: the columns have no names, and are numbered")


def _may_name(row: Sequence[str], width: int) -> bool:
    """Whether a row is as wide as the table, and no title."""
    filled = sum(map(bool, row))
    if width == 1:
        return filled > 0
    return len(row) >= max(2, width - 1) and (2 * filled >= min(width, 4) and (filled > 1 or not row[0]))


def _width(row: Sequence[str]) -> int:
    """Cells up to the last that is not empty."""
    return next((i for i in range(len(row), 0, -1) if row[i - 1]), 0)


def _holds_values(names: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether a row holds values as the rows below it do, rather than names."""
    kinds = [_kind(name) for name in names]
    if "number" not in kinds and "date" not in kinds:
        return False
    below = [_kinds_below(body, i) for i in range(len(names))]
    if len(names) == 1:
        return True
    for kind, values in zip(kinds, below, strict=True):
        if kind == "text" and values and values <= {"number", "date"}:
            return False  # a name above numbers
    numbers = [name for name, kind in zip(names, kinds, strict=True) if kind == "number"]
    dates = [(kind, values) for kind, values in zip(kinds, below, strict=True) if kind == "date"]
    if dates and any("date" not in values and values for _, values in dates):
        return False  # dates above numbers: the times of a row for each series
    if dates:
        return True
    if len(set(numbers)) < len(numbers) or any(re.search(r"[.,]\d", number) for number in numbers):
        return True
    texts = [(name, i) for i, (name, kind) in enumerate(zip(names, kinds, strict=True)) if kind == "text"]
    if texts and all(_resembles(name, [row[i] for row in body[:20] if i < len(row)]) for name, i in texts):
        return not _regular(numbers)
    return False


def _may_be_either(names: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether a row of whole numbers may be names or values."""
    if len(names) < 2 or any(_kind(name) not in ("number", "empty") for name in names) or not all(names):
        return False
    return not _regular(list(names)) and bool(body)


def _regular(numbers: Sequence[str]) -> bool:
    """Whether whole numbers rise by one step, as years, shops and steps do."""
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        return False
    steps = set(np.diff([int(number) for number in numbers]).tolist())
    return len(steps) == 1 and steps != {0} and (len(numbers) > 2 or steps == {1})


def _resembles(name: str, values: Sequence[str]) -> bool:
    """Whether a text looks like those below it: H1 above H2, H3."""
    shape = re.sub(r"\d+", "0", name)
    return "0" in shape and any(re.sub(r"\d+", "0", value) == shape for value in values)


def _kinds_below(body: Sequence[Sequence[str]], column: int) -> set[str]:
    return {_kind(row[column]) for row in body[:50] if column < len(row)} - {"empty"}


def _rows_of_units(names: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    """How many rows below the names hold no values: units, or more names."""
    numeric = [i for i in range(len(names)) if len(body) > 4 and _kinds_below(body[4:], i) == {"number"}]
    count = 0
    for row in body[:3]:
        if all(re.fullmatch(r"[-=+:]{2,}", cell) for cell in row if cell):
            count += 1
            continue
        kinds = [_kind(row[i]) if i < len(row) else "empty" for i in numeric]
        if not kinds or "number" in kinds or any(_kind(cell) in ("number", "date") for cell in row):
            break
        texts = [row[i] for i in numeric if i < len(row) and row[i]]
        if "text" not in kinds and not (count and not texts):
            break
        count += 1
    return count


def _line_offset(data: bytes, lines: int) -> int:
    """Where a line begins, after `lines` others."""
    at = 0
    for _ in range(lines):
        match = re.compile(rb"\r\n|\n|\r").search(data, at)
        if match is None:
            return len(data)
        at = match.end()
    return at


def _read_body(
    data: bytes, offset: int, lines_above: int, names: list[str], dialect: Dialect, place: str, notes: list[str]
) -> tuple[Table, NDArray[np.int64]]:
    """The rows below the names, and the lines of those that lack cells."""
    names = _unique(names, notes)
    odd: list[tuple[int, int, str]] = []

    def collect(row: pa_csv.InvalidRow) -> str:
        odd.append((row.number, row.actual_columns, row.text))
        return "skip"

    buffer = pa.py_buffer(data).slice(offset)
    if buffer.size == 0:
        raise DataError(f"{place}: holds no rows below the names of its columns")
    quoted = dialect.quote if dialect.quote.encode() in data else False
    read = pa_csv.ReadOptions(
        column_names=names, use_threads=False, block_size=min(max(1 << 16, buffer.size + 1), BLOCK_BYTES)
    )
    parse = pa_csv.ParseOptions(
        delimiter=dialect.delimiter or "\x1f",
        quote_char=quoted,
        newlines_in_values=bool(quoted),
        ignore_empty_lines=False,
        invalid_row_handler=collect,
    )
    convert = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    try:
        table = pa_csv.read_csv(buffer, read, parse, convert)
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise DataError(f"{place}: not readable as CSV: {error}") from None
        odd.clear()
        read.block_size = min(buffer.size + 1, (1 << 31) - 1)
        table = pa_csv.read_csv(buffer, read, parse, convert)
    _check_quotes(table, names, dialect, place)
    if odd:
        return _read_ragged(data, offset, lines_above, names, dialect, place, notes)
    rows = lines_above + np.arange(table.num_rows)
    return Table(names, table.columns, rows, "line", _suggested(dialect), notes), np.empty(0, np.int64)


def _check_quotes(table: pa.Table, names: Sequence[str], dialect: Dialect, place: str) -> None:
    """Refuse a cell that holds rows: a quotation mark before them is not closed.

    Raises:
        DataError: there is one.
    """
    if not dialect.delimiter:
        return
    for name, column in zip(names, table.columns, strict=True):
        for row in np.flatnonzero(np.asarray(pc.match_substring(column, "\n")))[:100]:
            lines = column[int(row)].as_py().splitlines()[1:]
            if len(lines) > 1 and all(line.count(dialect.delimiter) == len(names) - 1 for line in lines[:-1]):
                raise DataError(
                    f"{place}: a cell of column {name!r}, in row {row + 1} below the names, holds {len(lines)} more "
                    f"rows: a quotation mark {dialect.quote} is not closed"
                )


def _suggested(dialect: Dialect) -> Decimal | None:
    return "," if dialect.delimiter == ";" else None


def _read_ragged(
    data: bytes, offset: int, lines_above: int, names: list[str], dialect: Dialect, place: str, notes: list[str]
) -> tuple[Table, NDArray[np.int64]]:
    """Rows of unequal lengths: what a row lacks is missing, what it has too much is refused. Slower by far."""
    stream = io.TextIOWrapper(io.BytesIO(memoryview(data)[offset:]), "utf-8", newline="")
    reader = csv.reader(stream, delimiter=dialect.delimiter or "\x1f", quotechar=dialect.quote)
    width, short, line = len(names), [], lines_above
    blocks: list[list[pa.Array]] = [[] for _ in names]
    block: list[list[str]] = []
    positions: list[int] = []

    def flush() -> None:
        for parts, cells in zip(blocks, zip(*block, strict=True), strict=True):
            parts.append(pa.array(cells, pa.string()))
        block.clear()

    comments = 0
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))
    try:
        for row in reader:
            at, line = line, lines_above + reader.line_num
            if len(row) > width and any(cell.strip() for cell in row[width:]):
                raise DataError(
                    f"{place}: line {at} has {len(row)} cells, but there are {width} names of columns: "
                    f"{_shortened(dialect.delimiter.join(row))}"
                )
            if len(row) < width and row and row[0].lstrip().startswith("#"):
                comments += 1
                continue
            if len(row) < width and any(row):
                short.append(at)
            block.append((row + [""] * (width - len(row)))[:width])
            positions.append(at)
            if len(block) == BLOCK_ROWS:
                flush()
    except csv.Error as error:
        raise DataError(f"{place}: not readable as CSV near line {line}: {error}") from None
    if block:
        flush()
    if comments:
        notes.append(f"{comments} lines that begin with # are not read")
    columns = [pa.chunked_array(parts, pa.string()) for parts in blocks]
    table = Table(names, columns, np.array(positions, dtype=np.int64), "line", _suggested(dialect), notes)
    return table, np.array(short, dtype=np.int64)


def _unique(names: Sequence[str], notes: list[str]) -> list[str]:
    """The names, each once: a second "y" is "y.1"."""
    result: list[str] = []
    seen: set[str] = set()
    repeated: list[str] = []
    for position, name in enumerate(names):
        unique = name or f"column {position + 1}"
        if unique in seen:
            repeated.append(unique)
            number = next(
                n for n in range(1, len(names) + 1) if f"{unique}.{n}" not in seen and f"{unique}.{n}" not in names
            )
            unique = f"{unique}.{number}"
        seen.add(unique)
        result.append(unique)
    if repeated:
        notes.append(
            f"several columns have the name {', '.join(map(repr, dict.fromkeys(repeated)))}: the second is called "
            f"{repeated[0] + '.1'!r}"
        )
    return result


def tidy(table: Table, place: str) -> Table:
    """The table without empty rows, and without the lines of text below it; says how many there were. Columns without
    a name and without a value are left out.

    Raises:
        DataError: no row is left.
    """
    filled = np.zeros(len(table), dtype=np.int32)
    keep = []
    for position, column in enumerate(table.columns):
        cells = np.asarray(pc.not_equal(pc.utf8_trim_whitespace(column), "")) if len(column) else np.empty(0, bool)
        filled += cells
        if cells.any() or not table.names[position].startswith("column "):
            keep.append(position)
    if not len(table) or not filled.any():
        raise DataError(f"{place}: holds no rows below the names of its columns")
    present = filled > 0
    last = int(np.flatnonzero(present)[-1])
    if len(table.names) > 1:
        footer = []
        while last > 0 and filled[last] == 1 and filled[: last + 1].max() > 1:
            text = next(cell for column in table.columns if (cell := str(column[last].as_py()).strip()))
            if _kind(text) != "text" or not table.columns[0][last].as_py().strip() or not _FOOTER.match(text):
                break
            footer.append(text)
            present[last] = False
            last = int(np.flatnonzero(present)[-1])
        if footer:
            table.notes.append(f"below the table, not read: {_shortened(' | '.join(reversed(footer)))}")
        inner = present
    else:
        inner = np.arange(len(table)) <= last  # in a file of one column, an empty line is a missing value
    empty = int(len(table) - np.count_nonzero(inner)) if len(table.names) > 1 else 0
    names, columns = [table.names[i] for i in keep], [table.columns[i] for i in keep]
    table = Table(names, columns, table.rows, table.origin, table.decimal, table.notes)
    if inner.all():
        return table
    if empty:
        inside = int(np.count_nonzero(~inner[: last + 1]))
        if inside:
            table.notes.append(f"{inside} empty {'row is' if inside == 1 else 'rows are'} left out")
    return table.take(inner)


def _shortened(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[: length - 4] + " ..."

"""Columns of a table, as text or typed, and the numbers in them: decimal points and commas, thousands, currencies,
percent signs, and what stands for a missing value. Knows nothing of files, times and series.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Decimal = Literal[".", ","]
_ONE_WORD = (
    "- -- --- \u2013 \u2014 -.-- -,-- ? ?? . .. ... \u2026 : * \\n na n.a. n.a n/a n/d nd n.d. n.r. n.v. k.a. nan -nan "
    "nat <na> null (null) none nil missing blank (blank) void unknown #na #n/a #n/a! #div/0! #value! #ref! #num! "
    "#name? #null!"
)
MISSING_WORDS = {*_ONE_WORD.split(), "n. a.", "n. v.", "k. a.", "no data", "no value", "not available", "#n/a n/a"}
"""Cells of these texts, in any case, are missing values in a column of numbers. Elsewhere they are text."""
SENTINELS = (-99, -200, -999, -9999, -99999, -999999, -999.9, -999.99, -9999.9, -99.9, -99.99, 999, 9999, 99999, 999999)
"""Numbers that files write for a missing value."""
CURRENCIES = (
    "[€$£¥₹₽₩₺₴₫฿₦]|R\\$|USD|EUR|GBP|JPY|CHF|CNY|INR|BRL|CAD|AUD|SEK|NOK|DKK|PLN|CZK|HUF|RUB|TRY|ZAR|MXN|Kč|kr\\.?|zł"
)
_SPACES = "[ \u00a0\u2009\u202f\u2007'\u2019_]"
_PLAIN = r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_COMMA_GROUPS = r"^-?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$|^-?[1-9]\d?(,\d{2})*,\d{3}(\.\d*)?$"
_POINT_GROUPS = r"^-?[1-9]\d{0,2}(\.\d{3})+(,\d*)?$"
_COMMA_DECIMAL = r"^-?(\d+,\d*|,\d+)([eE][-+]?\d+)?$"
FLAGGED = r"^(-?[\d.,]*\d) ([bcdefnprsuz]{1,3})$"
"""Numbers of statistical offices: estimated (e), provisional (p), ..."""
EVIDENCE = 20_000
"""Cells that decide on a column's decimal mark."""


@dataclass(frozen=True)
class Numbers:
    """A column (N,) read as numbers.

    values (N,): NaN where a cell is missing or no number. bad: the rows that hold neither. words: the texts that stand
    for a missing value, other than empty cells, and how often each occurs. sentinel: the number among them, if any.
    truth: all cells are true or false, read as 1 and 0. notes: sentences for the report.
    """

    values: NDArray[np.float64]
    bad: NDArray[np.intp]
    words: Mapping[str, int] = field(default_factory=dict)
    truth: bool = False
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Cells that hold a number."""
        return int(np.count_nonzero(~np.isnan(self.values)))


@dataclass
class Table:
    """Columns side by side, as a file has them.

    names: unique. columns: text (string, exactly as the file has it) or typed. rows (N,): where each row stands in the
    file, from 1, as a spreadsheet and an editor count. origin: what the numbers of `rows` count, "line" or "row".
    decimal: the mark that the file's separator of cells suggests. notes: sentences for the report.
    """

    names: list[str]
    columns: list[pa.ChunkedArray]
    rows: NDArray[np.int64]
    origin: str = "line"
    decimal: Decimal | None = None
    notes: list[str] = field(default_factory=list)
    _style: Decimal | None = None
    _style_known: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> pa.ChunkedArray:
        """The cells of a column.

        Raises:
            ValueError: there is none of this name.
        """
        return self.columns[self.names.index(name)]

    def is_text(self, name: str) -> bool:
        """Whether the cells of a column are text."""
        return is_text(self.column(name))

    def cell(self, name: str, row: int) -> str:
        """A cell as the file has it."""
        value = self.column(name)[row].as_py()
        return "" if value is None else str(value)

    def place(self, row: int) -> str:
        """Where a row stands in the file: "line 7"."""
        return f"{self.origin} {self.rows[row]}"

    def take(self, rows: NDArray[Any]) -> "Table":
        """The rows of a mask or of indices, in this order."""
        indices = np.flatnonzero(rows) if rows.dtype == bool else rows
        columns = [column.take(pa.array(indices)) for column in self.columns]
        return Table(self.names, columns, self.rows[indices], self.origin, self.decimal, self.notes)

    def style(self) -> Decimal | None:
        """The decimal mark of the file as its columns show it beyond doubt; None if none does."""
        if not self._style_known:
            votes = {".": 0, ",": 0}
            few = self.columns[:: len(self.columns) // 64 + 1]
            for column in few:
                if is_text(column):
                    for mark, count in _evidence(pc.utf8_trim_whitespace(column.slice(0, 1000))).items():
                        votes[mark] += count
            if votes["."] != votes[","]:
                self._style = "." if votes["."] > votes[","] else ","
            self._style_known = True
        return self._style


def is_text(cells: pa.ChunkedArray) -> bool:
    """Whether cells are text."""
    return bool(pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type))


def is_time(cells: pa.ChunkedArray) -> bool:
    """Whether cells are dates or times by their type."""
    return bool(pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type))


def read_numbers(
    cells: pa.ChunkedArray,
    decimal: Decimal | None = None,
    suggested: Decimal | None = None,
    likely: Decimal | None = None,
    missing: tuple[str, ...] = (),
) -> Numbers:
    """Read a column as numbers, if need be cell by cell; `bad` has the cells that are none.

    decimal: the mark, if the caller knows it. suggested: the mark of the file's other columns, for cells that fit
    both; likely: the mark that goes with the file's separator of cells, if nothing else tells. missing: further
    texts, and numbers, that stand for a missing value.
    """
    if not is_text(cells):
        return _typed(cells, missing)
    text = pc.utf8_trim_whitespace(cells)
    words: dict[str, int] = {}
    if missing:
        marked = pc.is_in(text, pa.array(missing, text.type))
        words |= _counts(text.filter(marked))
        text = pc.if_else(marked, pa.scalar("", text.type), text)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
    if "," not in (decimal, suggested, likely):
        try:
            values = _floats(pc.cast(text, pa.float64()))
        except pa.ArrowInvalid:
            pass
        else:
            is_word = np.isnan(values) & np.asarray(text.is_valid())
            words |= {"nan": int(is_word.sum())} if is_word.any() else {}
            return Numbers(values, np.empty(0, np.intp), words)
    elif not _true(pc.match_substring(text, ".")):  # the cells of most files with decimal commas, without delay
        try:
            values = _floats(pc.cast(pc.replace_substring(text, ",", "."), pa.float64()))
        except pa.ArrowInvalid:
            pass
        else:
            example = text.filter(pc.match_substring(text, ","))
            if not len(example):
                return Numbers(values, np.empty(0, np.intp), words)
            groups = pc.all(pc.match_substring_regex(example.slice(0, EVIDENCE), _COMMA_GROUPS)).as_py()
            if decimal == "," or not groups:
                number = float(example[0].as_py().replace(",", "."))
                return Numbers(values, np.empty(0, np.intp), words, notes=(f"{example[0]} is read as {number:.15g}",))
    return _read_cells(text, decimal, suggested, likely, words)


def _read_cells(
    text: pa.ChunkedArray,
    decimal: Decimal | None,
    suggested: Decimal | None,
    likely: Decimal | None,
    words: dict[str, int],
) -> Numbers:
    """Read cells that are not all plain numbers. text: trimmed, null where empty."""
    text = text.combine_chunks()
    unknown = pc.fill_null(pc.invert(pc.match_substring_regex(text, _PLAIN)), False)
    rest = np.flatnonzero(np.asarray(unknown))
    odd = text.take(pa.array(rest))
    lower = pc.utf8_lower(odd)
    is_word = np.asarray(pc.is_in(lower, pa.array(sorted(MISSING_WORDS), odd.type)))
    is_word = is_word | np.asarray(pc.match_substring_regex(lower, "^: [a-z]{1,2}$"))
    words = words | _counts(odd.filter(pa.array(is_word)))
    odd, rest = odd.filter(pa.array(~is_word)), rest[~is_word]
    notes: list[str] = []
    valid = int(np.count_nonzero(np.asarray(text.is_valid()))) - int(is_word.sum())
    if len(odd) and len(odd) == valid and _are_truths(odd):
        values = np.full(len(text), np.nan)
        values[rest] = np.asarray(pc.equal(pc.utf8_lower(odd), "true"), dtype=np.float64)
        return Numbers(values, np.empty(0, np.intp), words, truth=True)
    cleaned = _clean(odd, notes)
    plain = pc.if_else(unknown, pa.scalar(None, text.type), text)
    mark, why = _decimal_mark(cleaned, plain, decimal, suggested, likely)
    if mark == ",":  # then 1.234 is no plain number: its point separates thousands
        pointed = np.flatnonzero(np.asarray(pc.fill_null(pc.match_substring(plain, "."), False)))
        plain = (
            plain if not len(pointed) else pc.if_else(pc.match_substring(plain, "."), pa.scalar(None, text.type), plain)
        )
        cleaned = pa.concat_arrays([cleaned, text.take(pa.array(pointed))])
        rest = np.concatenate([rest, pointed])
    values = _floats(pc.cast(plain, pa.float64()))
    numbers = _to_points(cleaned, mark)
    known = np.asarray(pc.match_substring_regex(numbers, _PLAIN), dtype=bool)
    infinite = np.asarray(pc.match_substring_regex(pc.utf8_lower(numbers), "^-?inf(inity)?$"), dtype=bool)
    known |= infinite
    values[rest[known]] = _floats(pc.cast(numbers.filter(pa.array(known)), pa.float64()))
    bad = np.sort(rest[~known])
    shown = (
        pc.match_substring_regex(cleaned, "[.,].*[.,]|,|[eE]")
        if mark == "."
        else pc.match_substring_regex(cleaned, "[.,]")
    )
    examples = rest[known & np.asarray(shown, dtype=bool)]
    if not len(examples) and why:
        examples = np.flatnonzero(np.asarray(pc.fill_null(pc.match_substring(text, "."), False)))
    if len(examples):
        row = int(examples[0])
        notes.append(f"{text[row].as_py()} is read as {values[row]:.15g}{why}")
    return Numbers(values, bad, words, notes=tuple(notes))


def _are_truths(text: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.is_in(pc.utf8_lower(text), pa.array(["true", "false"], text.type))).as_py())


def _clean(text: pa.Array, notes: list[str]) -> pa.Array:
    """Without currencies, percent signs, spaces between thousands; (5) and 5- are -5."""
    special = pc.match_substring_regex(text, r"[^-0-9.,]|.-")
    if not pc.any(special).as_py():
        return text
    if not pc.all(special).as_py():  # these expressions take long
        return pc.replace_with_mask(text, special, _clean(text.filter(special), notes))
    cleaned = pc.replace_substring_regex(text, "^[\u2212\u2013]", "-")
    cleaned = pc.replace_substring_regex(cleaned, r"^\+", "")
    cleaned = pc.replace_substring_regex(cleaned, r"^\((.*\d.*)\)$", r"-\1")
    percent = pc.match_substring_regex(cleaned, r"\d\s*%$")
    if pc.any(percent).as_py():
        notes.append("percent signs are left out: 12% is read as 12")
        cleaned = pc.replace_substring_regex(cleaned, r"\s*%$", "")
    currency = rf"^(-?)\s*(?:{CURRENCIES})\s*(-?[.,]?\d)"
    after = rf"(\d[.,]?)\s*(?:{CURRENCIES})$"
    before = cleaned
    cleaned = pc.replace_substring_regex(cleaned, currency, r"\1\2")
    cleaned = pc.replace_substring_regex(cleaned, after, r"\1")
    if not cleaned.equals(before):
        notes.append("signs of currencies are left out")
    spaced = rf"^-?\d{{1,3}}({_SPACES}\d{{3}})+([.,]\d*)?$"
    has_spaces = pc.match_substring_regex(cleaned, spaced)
    if pc.any(has_spaces).as_py():
        cleaned = pc.if_else(has_spaces, pc.replace_substring_regex(cleaned, _SPACES, ""), cleaned)
    for letters, power in (("[kK]", 3), ("M|Mio\\.?|mn", 6), ("B|bn|Mrd\\.?", 9)):
        cleaned = pc.replace_substring_regex(cleaned, rf"^(-?[\d.,]*\d)\s?(?:{letters})$", rf"\1e{power}")
    if _true(pc.match_substring_regex(cleaned, FLAGGED)):
        notes.append("letters after numbers, such as p and e, are left out")
        cleaned = pc.replace_substring_regex(cleaned, FLAGGED, r"\1")
    return pc.replace_substring_regex(cleaned, r"^(\d[\d.,]*)-$", r"-\1")


def _evidence(text: pa.ChunkedArray) -> dict[Decimal, int]:
    """How many cells show beyond doubt that the decimal mark is a point, or a comma."""
    groups = pc.match_substring_regex(text, _COMMA_GROUPS)
    comma_decimal = pc.and_not(pc.match_substring_regex(text, _COMMA_DECIMAL), groups)
    point_groups = pc.match_substring_regex(text, r"^-?[1-9]\d{0,2}(\.\d{3})+,\d*$|^-?[1-9]\d{0,2}(\.\d{3}){2,}$")
    points = pc.match_substring_regex(text, r"^-?(\d*\.\d{1,2}|\d*\.\d{4,}|0+\.\d+|\d{4,}\.\d+)([eE][-+]?\d+)?$")
    comma_groups = pc.match_substring_regex(text, r"^-?[1-9]\d{0,2}(,\d{3})+\.\d*$|^-?[1-9]\d{0,2}(,\d{3}){2,}$")
    return {
        ",": _true(comma_decimal) + _true(point_groups),
        ".": _true(points) + _true(comma_groups),
    }


def _decimal_mark(
    odd: pa.Array,
    plain: pa.Array,
    decimal: Decimal | None,
    suggested: Decimal | None,
    likely: Decimal | None,
) -> tuple[Decimal, str]:
    """The decimal mark of a column, and a clause that says why, if another is possible."""
    if decimal is not None:
        return decimal, ""
    in_odd, in_plain = _evidence(odd[:EVIDENCE]), _evidence(plain.drop_null()[:EVIDENCE])
    comma, point = in_odd[","] + in_plain[","], in_odd["."] + in_plain["."]
    if comma != point:
        return ("," if comma > point else "."), ""
    commas = _true(pc.match_substring(odd, ","))
    if commas:
        mark: Decimal = suggested or likely or "."
        other = "--decimal , if the comma begins decimals" if mark == "." else "--decimal . if it separates thousands"
        return mark, f" ({other})"
    if "," in (suggested, likely):
        pointed = _true(pc.match_substring(plain, "."))
        grouped = _true(pc.match_substring_regex(plain, _POINT_GROUPS))
        whole = _true(pc.match_substring_regex(plain, r"^-?\d{1,3}$"))
        # 980, 1.020, 12.340: points separate thousands if every number from a thousand on has one.
        all_grouped = pointed == grouped > 0 and pointed + whole == len(plain) - plain.null_count
        if all_grouped and (suggested == "," or whole):
            return ",", " (--decimal . if the point begins decimals)"
        if all_grouped:
            return ".", " (--decimal , if the point separates thousands)"
    return ".", ""


def _to_points(text: pa.Array, mark: Decimal) -> pa.Array:
    """Numbers with a decimal point and without separators of thousands; other text as it is."""
    if mark == ".":
        groups = pc.match_substring_regex(text, _COMMA_GROUPS)
        return pc.if_else(groups, pc.replace_substring(text, ",", ""), text)
    groups = pc.match_substring_regex(text, _POINT_GROUPS)
    text = pc.if_else(
        groups,
        pc.replace_substring(text, ".", ""),
        pc.if_else(
            pc.match_substring(text, "."), pc.binary_join_element_wise(text, pa.scalar("?", text.type), ""), text
        ),
    )
    decimals = pc.match_substring_regex(text, _COMMA_DECIMAL)
    return pc.if_else(decimals, pc.replace_substring(text, ",", "."), text)


def _typed(cells: pa.ChunkedArray, missing: tuple[str, ...]) -> Numbers:
    kind = cells.type
    nothing = np.empty(0, np.intp)
    if pa.types.is_null(kind):
        return Numbers(np.full(len(cells), np.nan), nothing)
    if pa.types.is_boolean(kind):
        return Numbers(_floats(pc.cast(pc.cast(cells, pa.int8()), pa.float64())), nothing, truth=True)
    if not is_number_type(kind):
        return Numbers(np.full(len(cells), np.nan), np.flatnonzero(np.asarray(cells.is_valid())))
    values = _floats(pc.cast(cells, pa.float64(), safe=False))
    words: dict[str, int] = {}
    for word in missing:
        try:
            marked = values == float(word)
        except ValueError:
            continue
        if marked.any():
            words[word] = int(marked.sum())
            values[marked] = np.nan
    return Numbers(values, nothing, words)


def is_number_type(kind: pa.DataType) -> bool:
    """Whether a type of cells is one of numbers."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def find_sentinel(values: NDArray[np.float64], others: frozenset[float] = frozenset()) -> tuple[float, int] | None:
    """The number of `SENTINELS` that stands for missing values, and how often: it repeats, and lies further from all
    other values than these lie apart, or is below 0 where no other is. others: sentinels of other columns of the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN
        extremes = [float(np.nanmin(values)), float(np.nanmax(values))] if len(values) else []
    if not any(extreme in SENTINELS for extreme in extremes):
        return None
    known = values[np.isfinite(values)]
    if len(known) < 3:
        return None
    for sentinel in extremes:
        rest = known[known != sentinel]
        if sentinel not in SENTINELS or not len(rest):
            continue
        low, high = float(rest.min()), float(rest.max())
        gap = max(low - sentinel, sentinel - high)
        count = len(known) - len(rest)
        far = gap > high - low and gap > max(abs(low), abs(high)) / 2
        negative = sentinel < 0 <= low
        sure = sentinel in others or (negative and sentinel <= -999)
        if (count > 1 and (far or negative)) or (sure and (far or negative)):
            return sentinel, count
    return None


def _floats(numbers: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """A copy, NaN where null."""
    return np.array(
        numbers.to_numpy(zero_copy_only=False) if isinstance(numbers, pa.Array) else numbers.to_numpy(),
        dtype=np.float64,
    )


def _true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _counts(text: pa.ChunkedArray) -> dict[str, int]:
    return {str(item["values"]): int(item["counts"]) for item in pc.value_counts(text).to_pylist()}

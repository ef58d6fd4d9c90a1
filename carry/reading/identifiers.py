"""Which columns of a table name its series, and the series of each row."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from carry.reading.columns import is_text, is_time
from carry.reading.placing import time_text
from carry.reading.series import DataError
from carry.reading.tables import Reader, as_pandas, category_names

ID_NAMES = ("unique_id", "item_id", "series_id")
"""Columns of these names always name series."""

_LIKELY_IDS = re.compile(
    r".*(_|\b)(id|ids|key|code|no|nr|number|num)|id|store|shop|item|product|sku|article|symbol|ticker|name|station|site"
    r"|sensor|device|meter|machine|country|region|state|city|province|zone|area|location|county|district|geo|iso|series"
    r"|group|category|class|type|dept|department|family|brand|customer|client|user|channel|page|entity|variable|metric"
    r"|indicator|filiale|artikel|produkt|land|stadt|ort|name|kategorie|magasin|produit|pays|tienda|producto|pais",
    re.IGNORECASE,
)


def named_ids(reader: Reader) -> tuple[str, ...]:
    if reader.options.id:
        return reader.options.id
    return next(((name,) for name in ID_NAMES if name in reader.table.names), ())


def find_ids(reader: Reader, stamps: "pd.Index[Any]", taken: Sequence[str]) -> tuple[str, ...]:
    """The columns whose values repeat over the same times, and tell the rows of a time apart.

    Raises:
        DataError: there are none.
    """
    times = pd.factorize(stamps)[0].astype(np.int64)
    count, moments = len(times), int(times.max()) + 1
    codes: dict[str, NDArray[np.int64]] = {}
    likely: dict[str, bool] = {}
    for name in reader.table.names:
        cells = reader.table.column(name)
        if name in taken or reader.is_nested(name) or pa.types.is_floating(cells.type) or is_time(cells):
            continue
        named = _LIKELY_IDS.fullmatch(name.strip()) is not None
        text = is_text(cells) and not reader.is_numeric(name)
        if not text and not named:
            values = reader.numbers(name).values
            if (values[np.isfinite(values)] % 1 != 0).any() or (not is_text(cells) and np.isnan(values).any()):
                continue
        encoded = cells.combine_chunks().dictionary_encode()
        distinct = len(encoded.dictionary)
        if not 1 < distinct <= max(2, count // 2) or (encoded.null_count and not text):
            continue
        codes[name] = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
        likely[name] = text or named
    names = sorted(codes, key=lambda name: not likely[name])[:10]
    for size in (1, 2, 3):
        best: tuple[float, tuple[str, ...]] | None = None
        for chosen in itertools.combinations(sorted(names, key=reader.table.names.index), size):
            joint = np.zeros(count, dtype=np.int64)
            for name in chosen:
                joint = pd.factorize(joint * (codes[name].max() + 2) + codes[name] + 1)[0].astype(np.int64)
            groups = int(joint.max()) + 1
            filled = count / (groups * moments)
            sure = all(likely[name] for name in chosen)
            if groups > count // 2 or filled < (0.02 if sure else 0.5):
                continue
            if len(np.unique(joint * moments + times)) == count and (best is None or filled > best[0]):
                best = (filled, chosen)
        if best is not None:
            return best[1]
    return _resolve_repeats(reader, stamps)


def _resolve_repeats(reader: Reader, stamps: "pd.Index[Any]") -> tuple[str, ...]:
    """Refuse times that repeat, unless the rows repeat as a whole.

    Raises:
        DataError: rows of the same time differ.
    """
    repeated = np.flatnonzero(stamps.duplicated(keep=False))
    first = int(repeated[0])
    rows = [row for row in map(int, repeated) if stamps[row] == stamps[first]][:2]
    columns = [reader.table.column(name) for name in reader.table.names]
    frame = pd.DataFrame({str(i): as_pandas(column) for i, column in enumerate(columns)}).iloc[repeated]
    if len(frame.drop_duplicates()) == len(np.unique(stamps[repeated])):
        return ()
    hint = "several series need a column that names them: --id NAME"
    if isinstance(stamps, pd.DatetimeIndex) and stamps.tz is None and stamps[first].hour:
        hint += "; an hour that clocks repeat needs its offset, such as +02:00"
    raise DataError(
        f"{reader.place}: the time {time_text(stamps[first])} is in {reader.table.place(rows[0])} and "
        f"{reader.table.place(rows[1])}; each series has one value a time; {hint}"
    )


def number_rows(reader: Reader, ids: tuple[str, ...]) -> tuple[NDArray[np.int64], list[tuple[Any, ...]], list[str]]:
    """The number of each row's series, in the order of the file; of each series, its cells and its name.

    Raises:
        DataError: a row has no name of a series.
    """
    joint = np.zeros(len(reader.table), dtype=np.int64)
    parts, texts = [], []
    blank = np.ones(len(reader.table), dtype=bool)
    for name in ids:
        cells = reader.table.column(name)
        if is_text(cells):
            trimmed = pc.utf8_ltrim_whitespace(cells)
            cells = trimmed if pc.all(pc.not_equal(trimmed, cells)).as_py() else cells
            cells = pc.if_else(pc.equal(pc.utf8_trim_whitespace(cells), ""), pa.scalar(None, cells.type), cells)
        encoded = cells.combine_chunks().dictionary_encode()
        codes = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
        blank &= codes < 0
        parts.append(codes)
        values = encoded.dictionary.to_pylist()
        texts.append((values, values if is_text(cells) else category_names(pa.chunked_array([encoded.dictionary]))))
        joint = pd.factorize(joint * (len(encoded.dictionary) + 1) + codes + 1)[0].astype(np.int64)
    if blank.any():
        row = int(np.flatnonzero(blank)[0])
        raise DataError(
            f"{reader.place}: {reader.table.place(row)} names no series: {', '.join(map(repr, ids))} has empty cells"
        )
    first = np.unique(joint, return_index=True)[1]
    keys, labels = [], []
    for row in first:
        cells_of = [
            None if part[row] < 0 else values[part[row]] for part, (values, _) in zip(parts, texts, strict=True)
        ]
        names_of = [texts_[part[row]] for part, (_, texts_) in zip(parts, texts, strict=True) if part[row] >= 0]
        keys.append(tuple(cells_of))
        labels.append("/".join(str(name) for name in names_of))
    return joint, keys, labels

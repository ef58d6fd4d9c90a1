"""Data frames of sequences, and their classes as frames of the same kind. All of it by narwhals, as carry/tables.py."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from carry.calls import Response
from carry.tables import SkippedSeriesWarning, codes_of, frame_of, numbers_of
from service.errors import CarryError, InvalidRequestError

TEXT, TIME, LABEL = "text", "ds", "label"


class SequenceTable:
    """A data frame of sequences: with a column `text`, a text a row; else a row for each step of a series."""

    def __init__(self, data: Any, id_column: str) -> None:
        """Raises:
        InvalidRequestError: it has no row, no column of numbers, or texts and a column that the answer has, too.
        """
        self._frame = frame = frame_of(data)
        self._id = id_column
        if not len(frame):
            raise InvalidRequestError("the data frame has no row", id_column)
        self._reads_text = TEXT in frame.columns
        self._keys: list[Any] = [None]
        self._codes: NDArray[np.int64] | None = None
        if self._reads_text:
            _check_new([LABEL], frame.columns)
            self._keys = list(range(len(frame)))
            return
        if id_column in frame.columns:
            self._keys, self._codes = codes_of(frame, id_column)
        names = [name for name in frame.columns if name not in (id_column, TIME)]
        if not names:
            raise InvalidRequestError("has no column of numbers beside the ids and the times", id_column)
        self._columns = {name: numbers_of(frame[name], name) for name in names}

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The sequence of each request, as JSON."""
        if self._reads_text:
            for text in self._frame[TEXT].to_list():
                yield {"text": "" if text is None else str(text)}
            return
        codes = np.zeros(len(self._frame), np.int64) if self._codes is None else self._codes
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(self._keys)))
        for rows in np.split(order, ends[:-1]):
            series = {name: _json(numbers[rows]) for name, numbers in self._columns.items()}
            yield {"series": series if len(series) > 1 else next(iter(series.values()))}

    def classes(self, responses: Sequence[Response | CarryError]) -> Any:
        """A row for each sequence that has a class. Warns of the others.

        Raises:
            CarryError: all are refused, with the first one's reason.
            InvalidRequestError: a class has the name of a column.
        """
        errors = {key: each for key, each in zip(self._keys, responses, strict=True) if isinstance(each, CarryError)}
        kept = [i for i, each in enumerate(responses) if isinstance(each, Response)]
        if not kept:
            raise next(iter(errors.values()))
        if errors:
            import warnings

            warnings.warn(SkippedSeriesWarning(errors, len(self._keys)), stacklevel=4)
        bodies = [responses[i].body for i in kept]  # type: ignore[union-attr]  # those that are kept are answers
        names = sorted({name for body in bodies for name in body["probabilities"]})
        columns: dict[str, list[Any]] = {}
        if self._reads_text:
            cells = {name: self._frame[name].to_list() for name in self._frame.columns}
            columns = {name: [column[i] for i in kept] for name, column in cells.items()}
        elif self._codes is not None:
            columns = {self._id: [self._keys[i] for i in kept]}
        columns[LABEL] = [body["label"] for body in bodies]
        _check_new(names, columns)
        columns |= {name: [body["probabilities"].get(name) for body in bodies] for name in names}
        return nw.from_dict(columns, backend=nw.get_native_namespace(self._frame)).to_native()


def _check_new(names: Sequence[str], columns: Collection[str]) -> None:
    """Check that new columns of the answer have other names than those that there are.

    Raises:
        InvalidRequestError: one has not.
    """
    both = next((name for name in names if name in columns), None)
    if both is not None:
        raise InvalidRequestError(f"the answer has a column {both!r} of its own, so no other may have this name", both)


def _json(numbers: Any) -> list[float | None]:
    return [None if number != number else number for number in numbers.tolist()]

"""One series, as files and models hand it to each other; and the error of a file that cannot be used."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class DataError(ValueError):
    """A file cannot be used; the message names the file, what is wrong and what is accepted."""


@dataclass(frozen=True)
class Series:
    """One series: values (T, F), NaN = missing; feature 0 is the target, whose last value is known. season: values per
    season, 1 = none known. times (T,): without gaps, at the frequency `freq` (pandas' name, or one of
    carry/times/frequencies.py); JSON lines may have a frequency and no times. future (K, F): the rows after the
    target's last value, with the features known ahead. source: the collection that the series is from. steps (T,): the
    whole numbers that count the values, where the file has those in place of times. key: the cells that name the
    series, as the file's types have them, if columns name it."""

    id: str
    values: NDArray[np.float64]
    times: pd.DatetimeIndex | None = None
    season: int = 1
    freq: str | None = None
    future: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 1)))
    source: str = ""
    steps: "pd.Index[Any] | None" = None
    key: tuple[Any, ...] = ()

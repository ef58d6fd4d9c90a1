"""The range that the values of a series are known to lie in. Knows nothing of series or models."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """lower < upper."""

    lower: float = -math.inf
    upper: float = math.inf

    def clip(self, numbers: Floats) -> Floats:
        """The numbers, raised to `lower` and lowered to `upper`; NaN stays. Clipped quantiles of a variable are the
        quantiles of the clipped variable."""
        if self == UNBOUNDED:
            return numbers
        # Unlike np.clip, this makes 0.0 of -0.0 where `lower` is 0.
        clipped: Floats = np.minimum(np.maximum(numbers, self.lower), self.upper)
        return clipped


UNBOUNDED = Bounds()
NON_NEGATIVE = Bounds(lower=0.0)

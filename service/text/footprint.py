"""How many bytes the parts of a request about texts hold until it is answered: upper estimates."""

TOKEN_BYTES = 64
"""A token: as a string, as an id, in lists and in the answer."""
ROW_BYTES = 4096
"""A text, however short."""
CANDIDATE_BYTES = 120
"""A candidate and its probability in an answer, as JSON, twice."""
SCORES_BYTES = 128
"""An array of scores, beside its data."""


def scores_bytes(positions: int, vocabulary: int) -> int:
    """The scores of every token of the vocabulary at each of these positions."""
    return positions * (4 * vocabulary + SCORES_BYTES)

"""Limits of requests about texts, beyond those of single fields."""

from service.errors import LimitExceededError
from service.kind import Model
from service.settings import Settings
from service.text.manifest import TextManifest


def check_length(text: str, settings: Settings, path: str) -> None:
    """Check a text's length.

    Raises:
        LimitExceededError: the text is too long.
    """
    if len(text) > settings.max_text_length:
        raise LimitExceededError(f"at most {settings.max_text_length} characters are read at once", path)


def check_candidates(positions: int, count: int, settings: Settings, path: str) -> None:
    """Check how many candidates an answer has: `count` at each of the positions.

    Raises:
        LimitExceededError: they are too many.
    """
    limit = settings.max_answer_items
    if positions * count > limit:
        raise LimitExceededError(
            f"at most {limit} candidates in one answer: ask for fewer candidates or fewer characters", path
        )


MAX_SCORES = 50_000_000
"""Scores that one request may hold, of every token of the vocabulary at each of its positions: 200 MB."""


def check_scores(positions: int, model: Model[TextManifest], path: str) -> None:
    """Check how many positions a request holds scores of.

    Raises:
        LimitExceededError: they are too many.
    """
    tokenizer = model.manifest.tokenizer
    if positions * tokenizer.size > MAX_SCORES:
        limit = MAX_SCORES // tokenizer.size
        raise LimitExceededError(f"this model scores at most {limit} {tokenizer.level}s in one request", path)

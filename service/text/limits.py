"""Limits of a request about texts, beyond those of its fields."""

from service.errors import LimitExceededError
from service.http.state import AppState
from service.kind import Model
from service.text.manifest import TextManifest


def check_length(text: str, app: AppState, path: str) -> None:
    """Refuse a text that is too long.

    Raises:
        LimitExceededError: it is.
    """
    if len(text) > app.settings.max_text_length:
        raise LimitExceededError(f"at most {app.settings.max_text_length} characters are read at once", path)


def check_candidates(positions: int, count: int, app: AppState, path: str) -> None:
    """Refuse an answer of too many candidates.

    Raises:
        LimitExceededError: it has.
    """
    limit = app.settings.max_answer_items
    if positions * count > limit:
        raise LimitExceededError(
            f"at most {limit} candidates in one answer: ask for fewer, or for fewer characters", path
        )


MAX_SCORES = 50_000_000
"""Most scores, of every piece of a vocabulary at every position, that are held for one request: 200 MB."""


def check_scores(positions: int, model: Model[TextManifest], path: str) -> None:
    """Refuse a request for the scores of too many positions.

    Raises:
        LimitExceededError: it is one.
    """
    if positions * model.manifest.tokenizer.size > MAX_SCORES:
        limit = MAX_SCORES // model.manifest.tokenizer.size
        raise LimitExceededError(
            f"with this model, at most {limit} {model.manifest.tokenizer.level}s are looked at so closely", path
        )

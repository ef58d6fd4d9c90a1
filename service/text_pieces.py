"""Texts that continue the text of an earlier call: whether they may, and the end that a later one has to fit. Knows
nothing of kinds of models."""

from dataclasses import replace

from service.engine.sequence import SequenceState
from service.errors import InvalidRequestError
from service.unicode import changes_end, unstable_end


def check_follows(start: SequenceState, text: str, path: str) -> None:
    """Refuse a text whose first characters change how the end of the text before it is read: that was read already.

    Raises:
        InvalidRequestError: names both characters.
    """
    if changes_end(start.text_end, text):
        last, first = start.text_end[-1], text[0]
        raise InvalidRequestError(
            f"begins with U+{ord(first):04X}, which changes how the text before it is read, whose last character is "
            f"U+{ord(last):04X}: send the two in one text",
            path,
        )


def with_text_end(state: SequenceState, start: SequenceState, text: str) -> SequenceState:
    """The state, reached from `start` by reading a composed text, with the end of that text."""
    return replace(state, text_end=unstable_end(start.text_end + text))

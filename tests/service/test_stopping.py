"""Stop texts, against the plain definition."""

from hypothesis import given
from hypothesis import strategies as st

from service.text.stopping import StopTexts


@given(texts=st.lists(st.text("ab", min_size=1, max_size=6), max_size=5), text=st.text("abc", max_size=40))
def test_a_state_is_the_longest_beginning_and_tells_the_longest_text_that_is_complete(
    texts: list[str], text: str
) -> None:
    stops, state = StopTexts(texts), 0
    for end, character in enumerate(text, 1):
        state = stops.advance(state, character)
        suffixes = [text[at:end] for at in range(end)]
        begun = (len(suffix) for suffix in suffixes if any(stop.startswith(suffix) for stop in texts))
        assert stops.depth[state] == max(begun, default=0)
        assert stops.completed[state] == max((len(suffix) for suffix in suffixes if suffix in texts), default=0)


class Counted(dict[str, int]):
    """A dictionary that counts how often it is asked."""

    asked = 0

    def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
        Counted.asked += 1
        return super().get(key, default)


def test_a_character_costs_the_same_however_many_and_long_the_texts_are() -> None:
    """Two look-ups at most, over a whole text: of sixteen texts of a hundred equal characters, too."""
    stops = StopTexts(["a" * 99 + chr(98 + i) for i in range(16)])
    stops._next = [Counted(found) for found in stops._next]
    text, state = ("a" * 99 + "x") * 50 + "a" * 5000, 0
    for character in text:
        state = stops.advance(state, character)
    assert Counted.asked <= 2 * len(text) + 1

"""Stop texts, against the plain definition."""

from hypothesis import given
from hypothesis import strategies as st

from service.text.stopping import StopTexts


@given(texts=st.lists(st.text("ab", min_size=1, max_size=6), max_size=5), text=st.text("abc", max_size=40))
def test_a_state_is_the_longest_prefix_and_has_the_longest_complete_stop_text(texts: list[str], text: str) -> None:
    stops, state = StopTexts(texts), 0
    for end, character in enumerate(text, 1):
        state = stops.advance(state, character)
        suffixes = [text[begin:end] for begin in range(end)]
        begun = (len(suffix) for suffix in suffixes if any(stop.startswith(suffix) for stop in texts))
        assert stops.depth[state] == max(begun, default=0)
        assert stops.completed[state] == max((len(suffix) for suffix in suffixes if suffix in texts), default=0)


class Counted(dict[str, int]):
    """A dictionary that counts its look-ups."""

    lookups = 0

    def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
        Counted.lookups += 1
        return super().get(key, default)


def test_the_cost_of_a_character_does_not_depend_on_the_stop_texts() -> None:
    """At most two look-ups a character on average, also with sixteen stop texts of a hundred equal characters."""
    stops = StopTexts(["a" * 99 + chr(98 + i) for i in range(16)])
    stops.transitions = [Counted(states) for states in stops.transitions]
    text, state = ("a" * 99 + "x") * 50 + "a" * 5000, 0
    for character in text:
        state = stops.advance(state, character)
    assert Counted.lookups <= 2 * len(text) + 1

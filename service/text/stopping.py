"""Finds stop texts in a growing text. The cost of a character does not depend on the number and length of the stop
texts (Aho and Corasick, "Efficient string matching", 1975). Knows nothing of models."""

from collections import deque
from collections.abc import Sequence


class StopTexts:
    """An automaton over stop texts, none of them empty. A state is a prefix of a stop text: the longest one that the
    text read so far ends with."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.depth = [0]
        """By state: the length of the prefix. State 0 is the empty prefix."""
        self.completed = [0]
        """By state: the length of the longest stop text that the prefix ends with; 0: none."""
        self.transitions: list[dict[str, int]] = [{}]
        """By state: the longer prefixes by their last character."""
        self._shorter = [0]
        """By state: the longest shorter prefix that it ends with."""
        for text in texts:
            self._add(text)
        self._link()

    def advance(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (after := self.transitions[state].get(character)) is None:
            if not state:
                return 0
            state = self._shorter[state]
        return after

    def read(self, state: int, token: str) -> tuple[int, int]:
        """The state after a token's characters, or after those that complete a stop text; and how many characters are
        from where the stop text begins to the token's end, 0 if none is complete."""
        for count, character in enumerate(token, 1):
            state = self.advance(state, character)
            if self.completed[state]:
                return state, self.completed[state] + len(token) - count
        return state, 0

    def _add(self, text: str) -> None:
        state = 0
        for character in text:
            after = self.transitions[state].get(character)
            if after is None:
                after = len(self.transitions)
                self.transitions[state][character] = after
                self.transitions.append({})
                self.depth.append(self.depth[state] + 1)
                self.completed.append(0)
                self._shorter.append(0)
            state = after
        self.completed[state] = len(text)

    def _link(self) -> None:
        """Shorter prefixes first: the links of a longer one build on them."""
        waiting = deque(self.transitions[0].values())
        while waiting:
            state = waiting.popleft()
            self.completed[state] = self.completed[state] or self.completed[self._shorter[state]]
            for character, after in self.transitions[state].items():
                self._shorter[after] = self.advance(self._shorter[state], character)
                waiting.append(after)

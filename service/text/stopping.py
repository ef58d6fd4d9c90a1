"""Finds stop texts in a text that is being written, at a cost a character that does not depend on how many they are or
how long (Aho and Corasick, "Efficient string matching", 1975). Knows nothing of models."""

from collections import deque
from collections.abc import Sequence


class StopTexts:
    """An automaton of some texts, none of them empty. Its states are the texts' beginnings; that of a text which was
    read is the longest beginning that the text ends with."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.depth = [0]
        """By state: how many characters it is long. State 0 is the empty beginning."""
        self.completed = [0]
        """By state: how long the longest of the texts is that it ends with; 0: it ends with none."""
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]
        """By state: the longest other one that it ends with."""
        for text in texts:
            self._add(text)
        self._link()

    def advance(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (after := self._next[state].get(character)) is None:
            if not state:
                return 0
            state = self._shorter[state]
        return after

    def _add(self, text: str) -> None:
        state = 0
        for character in text:
            after = self._next[state].get(character)
            if after is None:
                after = len(self._next)
                self._next[state][character] = after
                self._next.append({})
                self.depth.append(self.depth[state] + 1)
                self.completed.append(0)
                self._shorter.append(0)
            state = after
        self.completed[state] = len(text)

    def _link(self) -> None:
        """Shorter states first, since each builds on shorter ones."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            self.completed[state] = self.completed[state] or self.completed[self._shorter[state]]
            for character, after in self._next[state].items():
                self._shorter[after] = self.advance(self._shorter[state], character)
                waiting.append(after)

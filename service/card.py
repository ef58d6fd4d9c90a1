"""The pictures of a model's card: those that CARD.md shows, with their captions. Training writes both into the model
folder. Knows nothing of what a model is."""

import re
from dataclasses import dataclass
from pathlib import Path

from service.folders import reason_not_regular

CARD_FILE = "CARD.md"
MAX_CARD_BYTES = 2**20
MAX_PICTURE_BYTES = 8 * 2**20
PNG = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""
_PICTURE = re.compile(r"!\[([^\]]*)\]\(pictures/([A-Za-z0-9_-]{1,64}\.png)\)")


@dataclass(frozen=True)
class Picture:
    """A picture of a card."""

    path: Path
    caption: str

    def read(self) -> bytes | None:
        """Its content; None if it was removed, is too large, or is no PNG, such as a link to another file."""
        content = _read(self.path, MAX_PICTURE_BYTES)
        return content if content is not None and content.startswith(PNG) else None


def pictures_of(folder: Path) -> tuple[Picture, ...]:
    """The pictures of the card of a model folder, in its order. A folder without a readable card has none."""
    card = (_read(folder / CARD_FILE, MAX_CARD_BYTES) or b"").decode(errors="replace")
    captions = {name: caption for caption, name in _PICTURE.findall(card)}
    return tuple(Picture(folder / "pictures" / name, caption) for name, caption in captions.items())


def _read(path: Path, max_bytes: int) -> bytes | None:
    try:
        if reason_not_regular(path) is not None:
            return None
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError:
        return None
    return content if len(content) <= max_bytes else None

"""Where model folders are, and what in them may be read. Knows nothing of what a model is."""

import os
import stat
from pathlib import Path

IGNORED = "lost+found"
"""In the root of a volume."""


def model_folders(models_dir: Path) -> tuple[list[Path], dict[Path, str]]:
    """Each <name>/<version>/; and the folders <name>/ that cannot be looked into, with the reason."""
    try:
        names = _inside(models_dir)
    except OSError:  # perhaps only just removed
        return [], {}
    versions: list[Path] = []
    unreadable: dict[Path, str] = {}
    for name in names:
        try:
            versions += _inside(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unreadable[name] = f"the folder cannot be read: {error.strerror}"
    return versions, unreadable


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder; what begins with a dot is an export at work."""
    return sorted(
        path for path in folder.iterdir() if path.name != IGNORED and not path.name.startswith(".") and path.is_dir()
    )


def printable(name: str) -> str:
    """The name of a file as text: whatever is no UTF-8 in it as an escape."""
    return os.fsencode(name).decode(errors="backslashreplace")


def reason_not_regular(path: Path) -> str | None:
    """Why it may not be opened: to read a pipe or a device could take for ever. None if it is a file.

    Raises:
        OSError: it is not there, or may not be looked at.
    """
    return None if stat.S_ISREG(path.stat().st_mode) else "is not a file"

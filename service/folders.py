"""Finds the model folders, and says which files in them may be read. Knows nothing of what a model is."""

import os
import stat
from pathlib import Path

IGNORED = "lost+found"
"""A folder in the root of a volume."""


def model_folders(models_dir: Path) -> tuple[list[Path], dict[Path, str]]:
    """Each folder <name>/<version>/; and each folder <name>/ that cannot be read, with the reason."""
    try:
        names = _subfolders(models_dir)
    except OSError:  # it does not exist, or was removed just now
        return [], {}
    versions: list[Path] = []
    unreadable: dict[Path, str] = {}
    for name in names:
        try:
            versions += _subfolders(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unreadable[name] = f"the folder cannot be read: {error.strerror}"
    return versions, unreadable


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, except those of running exports, whose names begin with a dot."""
    return sorted(
        path for path in folder.iterdir() if path.name != IGNORED and not path.name.startswith(".") and path.is_dir()
    )


def printable(name: str) -> str:
    """The name of a file as text, with escapes for bytes that are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def reason_not_regular(path: Path) -> str | None:
    """Why a path may not be opened; None if it is a file. Reading a pipe or a device could take for ever.

    Raises:
        OSError: it does not exist, or may not be accessed.
    """
    return None if stat.S_ISREG(path.stat().st_mode) else "is not a file"

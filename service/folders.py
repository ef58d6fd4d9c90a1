"""Finds the model folders, and says which files in them may be read. Knows nothing of what a model is."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "models"
"""The models that come with Carry: the wheel has them beside this package, as the checkout does."""

IGNORED = "lost+found"
"""A folder in the root of a volume."""


def model_folders(models_dirs: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Each folder <name>/<version>/; and each folder <name>/ that cannot be read, with the reason. A name in an earlier
    folder of `models_dirs` hides the same name in a later one."""
    versions: list[Path] = []
    unreadable: dict[Path, str] = {}
    for models_dir in models_dirs:
        hidden = {path.parent.name for path in versions} | {path.name for path in unreadable}
        try:
            names = [path for path in _subfolders(models_dir) if path.name not in hidden]
        except OSError:  # it does not exist, or was removed just now
            continue
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

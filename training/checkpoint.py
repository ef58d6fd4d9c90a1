"""The checkpoint of a run: what it belongs to, whether a command may go on from it, and which model it became.

An identity is all that the weights follow from, each part under the name that a person knows: options, the sha256 of
files, versions of libraries. Weights never go on under another identity.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from service.manifest import MANIFEST_FILE, DataSource

CHECKPOINT_FILE = "checkpoint.pt"
LOG_FILE = "log.csv"
LIBRARIES = ("carry", "numpy", "torch")
"""Another version of these may train to other weights."""

Identity = Mapping[str, str]


class RunError(Exception):
    """A run cannot begin or go on; the message says why and what to do."""


@dataclass(frozen=True)
class Written:
    """The model folder that a finished run became, and the options that only its card and its measures follow from."""

    folder: str
    options: dict[str, str]


def library_versions() -> dict[str, str]:
    """Of the libraries that weights depend on, without the build (a GPU goes on where a CPU stopped)."""
    return {name: version(name).split("+")[0] for name in LIBRARIES}


def describe_files(files: Sequence[DataSource]) -> str:
    """The files of an option, in their order, as a part of an identity."""
    return json.dumps([[file.file, file.sha256] for file in files])


def load_checkpoint(run: Path, device: torch.device | None = None) -> dict[str, Any] | None:
    """The checkpoint in the folder of a run; None if there is none.

    Raises:
        RunError: it cannot be read, or an earlier version of Carry wrote it.
    """
    path = run / CHECKPOINT_FILE
    try:
        saved = torch.load(path, map_location=device or "cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # of a torn or foreign file the unpickler raises whatever it stumbles over
        raise RunError(f"{path} cannot be read ({error}); {_WAYS_OUT}") from error
    if not isinstance(saved, dict) or "identity" not in saved:
        raise RunError(f"{path} does not say which command and data it belongs to; {_WAYS_OUT}")
    return saved


def resumable(run: Path, identity: Identity, device: torch.device | None = None) -> dict[str, Any] | None:
    """The checkpoint to go on from: that of this identity, finished or not. None: the run begins anew, since there is
    no checkpoint, or a finished one of another identity.

    Raises:
        RunError: as `load_checkpoint`, or the folder holds an unfinished run of another identity.
    """
    saved = load_checkpoint(run, device)
    if saved is None or saved["identity"] == dict(identity):
        return saved
    if saved["wrote"] is None:
        what = "; ".join(differences(saved["identity"], identity))
        raise RunError(f"{run} holds an unfinished run of another command or other data: {what}. {_WAYS_OUT}")
    return None


def differences(before: Identity, now: Identity) -> list[str]:
    """What has changed from one identity to the other, in words."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [_difference(name, before.get(name), now.get(name)) for name in changed]


def written(saved: Mapping[str, Any]) -> Written | None:
    """What the run of a checkpoint became, if it is finished and the model is still there."""
    if saved["wrote"] is None:
        return None
    found = Written(**saved["wrote"])
    return found if (Path(found.folder) / MANIFEST_FILE).is_file() else None


def note_written(run: Path, wrote: Written) -> None:
    """Note in the checkpoint that the run is finished, and what it became."""
    saved = load_checkpoint(run)
    if saved is not None:
        save_checkpoint(run, saved | {"wrote": asdict(wrote)})


def save_checkpoint(run: Path, saved: Mapping[str, Any]) -> None:
    """Write the checkpoint, whole or not at all."""
    path = run / CHECKPOINT_FILE
    torch.save(dict(saved), path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def forget(run: Path) -> None:
    """Delete the files of a run, and nothing else of what its folder holds."""
    path = run / CHECKPOINT_FILE
    path.with_suffix(".new").unlink(missing_ok=True)
    if path.is_file():
        (run / LOG_FILE).unlink(missing_ok=True)
        path.unlink()


_WAYS_OUT = "--restart forgets it, --run-dir names another folder"


def _difference(name: str, before: str | None, now: str | None) -> str:
    if before is None or now is None:
        return f"{name} is {now or 'not given'}, was {before or 'not given'}"
    if now.startswith('[["') or before.startswith('[["'):
        old, new = (
            [tuple(file) for file in json.loads(text)] if text.startswith("[") else [] for text in (before, now)
        )
        changed = [file for (file, hash), (was, other) in zip(new, old, strict=False) if file == was and hash != other]
        if [file for file, _ in old] == [file for file, _ in new]:
            return f"{', '.join(changed)} has changed" if len(changed) == 1 else f"{', '.join(changed)} have changed"
        return f"{name} names other files"
    return f"{name} is {now}, was {before}"

"""The checkpoint of a run: its identity, whether a command may resume it, and the model folder that it wrote.

The identity of a run is everything that decides its weights, by the names that users know: options, the sha256 of
files, versions of libraries. A run is never resumed under another identity.
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
LIBRARIES = {"carry": "carry-rnn", "numpy": "numpy", "torch": "torch"}
"""Other versions of these distributions may train other weights."""

Identity = Mapping[str, str]


class RunError(Exception):
    """A run cannot begin or be resumed; the message says why and what to do."""


@dataclass(frozen=True)
class WrittenModel:
    """The model folder that a finished run wrote, and the options that decide only its card and its measures."""

    folder: str
    options: dict[str, str]


def library_versions() -> dict[str, str]:
    """The versions of LIBRARIES without the build: a GPU may resume where a CPU stopped."""
    return {name: version(distribution).split("+")[0] for name, distribution in LIBRARIES.items()}


def describe_files(files: Sequence[DataSource]) -> str:
    """The files of an option, in order, as a part of an identity."""
    return json.dumps([[file.file, file.sha256] for file in files])


def load_checkpoint(run: Path, device: torch.device | None = None) -> dict[str, Any] | None:
    """The checkpoint in the folder of a run, or None.

    Raises:
        RunError: the checkpoint cannot be read, or an earlier version of Carry wrote it.
    """
    path = run / CHECKPOINT_FILE
    try:
        saved = torch.load(path, map_location=device or "cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # the unpickler raises anything for a torn or foreign file
        raise RunError(f"{path} cannot be read ({error}); {_OPTIONS}") from error
    if not isinstance(saved, dict) or "identity" not in saved:
        raise RunError(f"{path} does not say which command and data it belongs to; {_OPTIONS}")
    return saved


def resumable_checkpoint(run: Path, identity: Identity, device: torch.device | None = None) -> dict[str, Any] | None:
    """The checkpoint of this identity, finished or not; None if there is none, or a finished one of another identity:
    then the run begins anew.

    Raises:
        RunError: as `load_checkpoint`, or the folder holds an unfinished run of another identity.
    """
    saved = load_checkpoint(run, device)
    if saved is None or saved["identity"] == dict(identity):
        return saved
    if saved["wrote"] is None:
        changes = "; ".join(differences(saved["identity"], identity))
        raise RunError(f"{run} holds an unfinished run of another command or other data: {changes}. {_OPTIONS}")
    return None


def differences(before: Identity, now: Identity) -> list[str]:
    """The differences between two identities, in words."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [_difference(name, before.get(name), now.get(name)) for name in changed]


def written_model(saved: Mapping[str, Any]) -> WrittenModel | None:
    """The model that the run of a checkpoint wrote, if the run is finished and the model still exists."""
    if saved["wrote"] is None:
        return None
    model = WrittenModel(**saved["wrote"])
    return model if (Path(model.folder) / MANIFEST_FILE).is_file() else None


def record_model(run: Path, model: WrittenModel) -> None:
    """Record in the checkpoint that the run is finished and wrote this model."""
    saved = load_checkpoint(run)
    if saved is not None:
        save_checkpoint(run, saved | {"wrote": asdict(model)})


def save_checkpoint(run: Path, saved: Mapping[str, Any]) -> None:
    """Write the checkpoint, whole or not at all."""
    path = run / CHECKPOINT_FILE
    torch.save(dict(saved), path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def how_to_go_on(run: Path, epochs: int) -> str:
    """What to tell a person who stopped a run."""
    return f"{run} holds {epochs} whole epoch{'' if epochs == 1 else 's'}: the same command goes on from there"


def delete_run(run: Path) -> None:
    """Delete the files of a run; keep all other files of its folder."""
    path = run / CHECKPOINT_FILE
    path.with_suffix(".new").unlink(missing_ok=True)
    if path.is_file():
        (run / LOG_FILE).unlink(missing_ok=True)
        path.unlink()


_OPTIONS = "--restart deletes it, --run-dir names another folder"


def _difference(name: str, before: str | None, now: str | None) -> str:
    if before is None or now is None:
        return f"{name} is {now or 'not given'}, was {before or 'not given'}"
    if now.startswith('[["') or before.startswith('[["'):
        old, new = (
            [tuple(file) for file in json.loads(text)] if text.startswith("[") else [] for text in (before, now)
        )
        if [file for file, _ in old] != [file for file, _ in new]:
            return f"{name} names other files"
        changed = [file for (file, sha256), (_, old_sha256) in zip(new, old, strict=True) if sha256 != old_sha256]
        return f"{', '.join(changed)} has changed" if len(changed) == 1 else f"{', '.join(changed)} have changed"
    return f"{name} is {now}, was {before}"

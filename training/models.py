"""Finds model folders by the names that people give them. Reads manifests; opens no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.folders import SHIPPED
from service.kinds import KINDS
from service.manifest import MANIFEST_FILE, Manifest, read_manifest

SHIPPED_NAMES = {"forecast": "forecast", "text": "text-fast"}
"""By kind, the model that comes with Carry in every installation, if there is one: others are compared with it."""

MANIFESTS: tuple[type[Manifest], ...] = tuple(kind.manifest for kind in KINDS)


@dataclass(frozen=True)
class ModelFolder:
    """A model folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        """name@version."""
        return f"{self.manifest.name}@{self.manifest.version}"


def find_model(name: str, models_dir: Path | None) -> ModelFolder:
    """The model of a path (models/sales/2, or models/sales for its newest version) or of a name (sales, sales@2) in
    `models_dir`, ./models if it is None, or among the models of Carry.

    Raises:
        ValueError: there is none, or its manifest cannot be used.
    """
    folders = [models_dir or Path("models"), SHIPPED]
    found = _find(name, folders)
    if found is None:
        raise ValueError(f"{name}/{MANIFEST_FILE}: no such file, and no model of this name is in {folders[0]}")
    return found


def shipped_model(kind: str) -> ModelFolder | None:
    """The newest version of the model of a kind that comes with Carry, or None where this installation lacks it."""
    return _find(SHIPPED_NAMES[kind], [SHIPPED]) if kind in SHIPPED_NAMES else None


def _find(name: str, models_dirs: Sequence[Path]) -> ModelFolder | None:
    label, _, version = name.partition("@")
    for place in (Path(name), *(folder / label for folder in models_dirs)):
        for path in [place / version] if version else [place, *_versions(place)]:
            if (path / MANIFEST_FILE).is_file():
                return ModelFolder(path, read_manifest(path, *MANIFESTS))
    return None


def _versions(folder: Path) -> list[Path]:
    """The versions of a model, the newest first."""
    try:
        versions = [path for path in folder.iterdir() if path.name.isdecimal()]
    except OSError:
        return []
    return sorted(versions, key=lambda path: int(path.name), reverse=True)

"""How a model was trained: the part of a manifest that lets anyone train the model again."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from torch import nn

from service.manifest import DataSource, Provenance
from training.checkpoint import Identity, library_versions
from training.loop import Epoch

Item = TypeVar("Item")


@dataclass(frozen=True)
class Run:
    """One training command: the name of the model, the folders of models and of the checkpoint, the data as they were
    at its start, the command line, what decides the weights (`identity`), and what decides only the card and the
    measures (`options`)."""

    name: str
    description: str
    models: Path
    folder: Path
    data: tuple[DataSource, ...]
    command: str
    identity: Identity
    options: Mapping[str, str] = field(default_factory=dict)


def provenance(
    run: Run, network: nn.Module, history: Sequence[Epoch], seed: int, cell: str, layers: int, hidden: int
) -> Provenance:
    """The manifest's entry of the run. Its duration is that of all epochs, also of those before a resume."""
    libraries = library_versions()
    packages = {"torch": libraries["torch"], "onnx": version("onnx"), "carry": libraries["carry"]}
    return Provenance(
        command=run.command,
        seed=seed,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_seconds=round(sum(epoch.seconds for epoch in history), 1),
        data=run.data,
        cell=cell,
        layers=layers,
        hidden=hidden,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        versions={"python": platform.python_version(), **packages},
    )


def is_first_process() -> bool:
    """Whether this process writes the model: the only process, or the first that `torchrun` started."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_and_world_size() -> tuple[int, int]:
    """The index of this process, and how many train together."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def share_of_this_process(items: Sequence[Item]) -> list[Item]:
    """Every n-th item, if n processes train together."""
    rank, processes = rank_and_world_size()
    return list(items[rank::processes])

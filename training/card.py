"""Writes CARD.md, what a person should know of a model before using it, from its manifest and its training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from service.manifest import Int8, Manifest
from training.loop import Epoch, kept_epoch

CARD_FILE = "CARD.md"


def markdown_table(scores: Mapping[str, Mapping[str, float]], digits: int = 4) -> str:
    """A Markdown table: a line for each method, a column for each measure, to `digits` significant digits. A number
    with more digits before the point is rounded to a whole one."""
    measures = list(dict.fromkeys(name for line in scores.values() for name in line))
    rows = [["", *measures], ["---", *["---:"] * len(measures)]]
    rows += [
        [name, *(_number(line[m], digits) if m in line else "" for m in measures)] for name, line in scores.items()
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _number(value: float, digits: int) -> str:
    return f"{value:,.0f}" if 10**digits <= abs(value) < 10**15 else f"{value:.{digits}g}"


def int8_text(int8: Int8, measure: str) -> str:
    """What the card says of the int8 graph."""
    loss = "was not measured: there was no test part" if int8.loss is None else f"is {100 * int8.loss:+.3f} %"
    served = "It is what is served." if int8.default else "Served is the one in float32."
    return (
        f"`{int8.graph.file}` is the same network with its products in int8. Its loss of quality ({measure} on the "
        f"test part, relative to float32) {loss}. For a batch of 16, on one thread of the machine that exported it, "
        f"float32 takes {int8.speedup:.2f} times as long. {served}"
    )


class ModelCard:
    """Collects a card's sections while the model is measured."""

    def __init__(self, history: Sequence[Epoch]) -> None:
        self._history = history
        self._sections: list[str] = []
        self._pictures: list[str] = []

    def section(self, title: str, text: str) -> None:
        """Add a section."""
        self._sections.append(f"## {title}\n\n{text}")

    def picture(self, name: str, caption: str) -> None:
        """Add `pictures/<name>.png`, whose data is `pictures/<name>.csv`."""
        self._pictures.append(f"![{caption}](pictures/{name}.png)\n\n{caption} Data: `pictures/{name}.csv`.")

    def losses(self) -> None:
        """Add the picture of the losses."""
        validated = kept_epoch(self._history).valid_loss is not None
        self.picture("loss", "Training and validation loss by epoch." if validated else "Training loss by epoch.")

    def write(self, folder: Path, manifest: Manifest, what_it_does: str) -> None:
        """Write the card into the model folder."""
        provenance = manifest.provenance
        kept = kept_epoch(self._history)
        if kept.valid_loss is None:
            choice = "Nothing was held out to choose among the epochs: kept are the last weights"
        else:
            choice = f"Kept are the weights of epoch {kept.epoch}, validation loss {kept.valid_loss:.4f}"
        data = "\n".join(f"- `{source.file}`, sha256 `{source.sha256}`" for source in provenance.data)
        parts = [
            f"# {manifest.name}, version {manifest.version}",
            manifest.description,
            what_it_does,
            f"## How it was made\n\n```\n{provenance.command}\n```\n\n"
            f"Cell: {provenance.cell}, layers: {provenance.layers}, units per layer: {provenance.hidden}, parameters: "
            f"{provenance.parameters:,}. Trained for {len(self._history)} epochs in "
            f"{provenance.duration_seconds:,.0f} s (seed {provenance.seed}, {provenance.created_at}, "
            f"{', '.join(f'{name} {version}' for name, version in provenance.versions.items())}). {choice}, "
            f"training loss {kept.train_loss:.4f}.\n\nData:\n\n{data}",
            *self._sections,
            "## Pictures\n\n" + "\n\n".join(self._pictures) if self._pictures else "",
        ]
        (folder / CARD_FILE).write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")

"""Options that the verbs of training share, and what their text means. Importable without PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carry.options import SERIES_HELP, split_names

if TYPE_CHECKING:
    from training.loop import LoopConfig
    from training.nets.cells import Cell as CellName

Data = Annotated[list[Path], typer.Argument(help=SERIES_HELP, show_default=False)]
Texts = Annotated[
    list[Path] | None,
    typer.Argument(help="UTF-8 text files, or .jsonl with a field `text`, gzipped or not.", show_default=False),
]
Name = Annotated[str, typer.Option(help="Name of the model; a new version of it is written.", show_default=False)]
Description = Annotated[str, typer.Option(help="A sentence for the card and for GET /models.")]
Cell = Annotated[str, typer.Option(help="elman, jordan, lstm or gru.")]
Layers = Annotated[int, typer.Option(min=1, help="Recurrent layers.")]
Hidden = Annotated[int, typer.Option(min=1, help="Units per layer.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.95, help="Between layers; for text also after the last.")]
Epochs = Annotated[int, typer.Option(min=1, help="Most passes over the training part.")]
LearningRate = Annotated[float, typer.Option(min=0, help="At its highest, after the warm-up.")]
WeightDecay = Annotated[float, typer.Option(min=0, help="AdamW's weight decay.")]
Patience = Annotated[
    int, typer.Option(min=0, help="Stop after so many epochs without a better validation loss; 0: never.")
]
Rows = Annotated[int, typer.Option(min=1, help="Sequences read side by side (batch size).")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
ModelsDir = Annotated[Path, typer.Option(help="Folder to write the model folder to.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
RunDir = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint and log; the same command on the same data resumes a run there.", show_default="runs/NAME"
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget a run (its checkpoint and log) and train anew.")]
Valid = Annotated[float, typer.Option(min=0, max=0.5, help="Share held out to choose the weights.")]
Test = Annotated[float, typer.Option(min=0, max=0.5, help="Share at the end held out to measure.")]
Baselines = Annotated[bool, typer.Option(help="Measure fitted baselines on the same test part.")]


def check_choice(option: str, value: str, accepted: tuple[str, ...]) -> None:
    """Refuse a value that is not accepted, naming those that are."""
    if value not in accepted:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(accepted)}", param_hint=option)


def parse_cell(name: str) -> "CellName":
    """The cell that --cell names."""
    from training.nets.cells import CELLS

    check_choice("--cell", name, CELLS)
    return name  # type: ignore[return-value]  # mypy does not narrow str to Literal


def parse_quantile_levels(text: str) -> tuple[float, ...]:
    """The levels of --quantiles, ascending."""
    try:
        levels = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        levels = ()
    if 0.5 not in levels or not 0 < levels[0] <= levels[-1] < 1:
        raise typer.BadParameter("numbers in (0, 1) separated by commas, 0.5 among them", param_hint="--quantiles")
    return levels


def parse_widening(text: str) -> dict[int, float]:
    """The factors of --widening by kind of season."""
    from training.data.forking_batches import KINDS

    try:
        factors = {int(kind): float(factor) for kind, factor in (part.split(":") for part in split_names(text))}
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not like 1:1.1,12:1.05", param_hint="--widening") from error
    if not factors.keys() <= KINDS.keys():
        raise typer.BadParameter(f"the kinds of seasons are {sorted(KINDS)}", param_hint="--widening")
    if not all(0.3 <= factor <= 3 for factor in factors.values()):
        raise typer.BadParameter("a factor is from 0.3 to 3", param_hint="--widening")
    return factors


def loop_config(
    epochs: int,
    learning_rate: float,
    patience: int,
    weight_decay: float,
    seed: int,
    precision: str,
    average: float = 0.0,
    muon: bool = False,
    schedule: str = "cosine",
    device: str = "auto",
) -> "LoopConfig":
    """What the options say of the training loop."""
    from training.loop import LoopConfig

    check_choice("--precision", precision, ("auto", "float32", "bfloat16"))
    check_choice("--schedule", schedule, ("cosine", "wsd"))
    check_choice("--device", device, ("auto", "cpu", "cuda"))
    return LoopConfig(
        epochs=epochs,
        learning_rate=learning_rate,
        patience=patience,
        weight_decay=weight_decay,
        seed=seed,
        precision=precision,  # type: ignore[arg-type]  # mypy does not narrow str to Literal
        average=average,
        muon=muon,
        schedule=schedule,  # type: ignore[arg-type]  # as above
        device=device,  # type: ignore[arg-type]  # as above
    )

"""One call of `carry train`: its name, its folders, and all that its model follows from. A call that repeats a finished
run does nothing; one that repeats an unfinished run goes on.
"""

import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import typer

from carry.files import DataError
from service.errors import CarryError
from service.manifest import NAME_PATTERN, DataSource, read_manifest, sha256_of
from training.checkpoint import (
    RunError,
    WrittenModel,
    delete_run,
    describe_files,
    differences,
    how_to_go_on,
    library_versions,
    load_checkpoint,
    record_model,
    resumable_checkpoint,
    written_model,
)
from training.loop import StoppedError
from training.models import MANIFESTS
from training.progress import say, to_stderr
from training.provenance import Run, is_first_process

PLACES = ("name", "models_dir", "run_dir", "restart", "device")
"""Parameters that say where things go: nothing in a model follows from them."""
MEASURES = ("description", "baselines", "windows", "private", "widening")
"""Parameters from which only the card, the measures and the export follow, not the weights."""


def describe_run(
    command: typer.Context, data: Mapping[str, Sequence[Path]], weights: Mapping[str, Sequence[Path]] | None = None
) -> Run:
    """The run that a command asks for. Its identity holds all parameters and, by the option that names them, the sha256
    of the files of `data` and `weights`. The command in the provenance names the data without their folders.

    Raises:
        BadParameter: the name is none for a model, or a file of `data` cannot be read.
    """
    parameters = command.params
    name: str = parameters["name"]
    if not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter("lower-case letters, digits, _ and -, at most 64", param_hint="--name")
    sources = {option: [_source(option, path) for path in paths] for option, paths in data.items()}
    # The recipe that reads the weights reports a file that is missing.
    start = {
        option: [_source(option, path) for path in paths if path.is_file()] for option, paths in (weights or {}).items()
    }
    hashes = {option: describe_files(files) for option, files in (sources | start).items() if files}
    options = {
        f"--{key.replace('_', '-')}": str(value)
        for key, value in parameters.items()
        if key not in PLACES and value is not None
    }
    measures = {key: value for key, value in options.items() if key[2:].replace("-", "_") in MEASURES}
    paths = {"--data", "--texts", "--pairs", "--benchmarks", "--valid-on", "--test-on", "--start-from", *measures}
    identity = {key: value for key, value in options.items() if key not in paths}
    identity |= hashes | library_versions() | {"processes": os.environ.get("WORLD_SIZE", "1")}
    names = {str(path): path.name for paths in data.values() for path in paths}
    arguments = (",".join(names.get(part, part) for part in argument.split(",")) for argument in sys.argv[1:])
    return Run(
        name,
        parameters["description"],
        parameters["models_dir"],
        parameters["run_dir"] or Path("runs") / name,
        tuple(dict.fromkeys(source for files in sources.values() for source in files)),
        shlex.join(["carry", *arguments]),
        identity,
        measures,
    )


def _source(option: str, path: Path) -> DataSource:
    try:
        return DataSource(file=path.name, sha256=sha256_of(path))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        message = "no such file" if missing else f"cannot be read: {error.strerror}"
        raise typer.BadParameter(f"{path}: {message}", param_hint=option) from error


def train_once(run: Run, restart: bool, work: Callable[[], Path | None], data_option: str) -> None:
    """Run `work`, which trains and returns the model folder, unless the run is finished; say on standard error what
    happens and why. `data_option` is named where the data cannot be used."""
    with to_stderr() if is_first_process() else nullcontext():
        try:
            if restart and is_first_process():
                delete_run(run.folder)
            if not restart and _is_finished(run):
                return
            folder = work()
            if folder is not None:
                record_model(run.folder, WrittenModel(str(folder), dict(run.options)))
        except DataError as error:
            raise typer.BadParameter(str(error), param_hint=data_option) from error
        except RunError as error:
            raise CarryError(str(error)) from error
        except KeyboardInterrupt as error:
            say(str(error) if isinstance(error, StoppedError) else _stopped(run))
            raise typer.Exit(130) from None
        if folder is not None:
            if not read_manifest(folder, *MANIFESTS).metrics:
                say("not measured: nothing was held out; the card says why")
            typer.echo(f"wrote {folder}; `carry serve` loads it")


def _stopped(run: Run) -> str:
    """What to say to a person who stopped the command before or after the epochs."""
    saved = load_checkpoint(run.folder)
    if saved is None or saved["identity"] != dict(run.identity):
        return "stopped; nothing was trained yet"
    return f"stopped; {how_to_go_on(run.folder, len(saved['history']))}"


def _is_finished(run: Run) -> bool:
    """Whether the run's folder holds this run, finished, and its model is there; says why not, or that it is."""
    checkpoint = load_checkpoint(run.folder)
    if checkpoint is None:
        return False
    saved = resumable_checkpoint(run.folder, run.identity)
    if saved is None:
        changed = "; ".join(differences(checkpoint["identity"], run.identity))
        say(f"{changed}: training anew ({run.folder} holds the finished run of {checkpoint['wrote']['folder']})")
        return False
    wrote = written_model(saved)
    if (
        wrote is not None
        and wrote.options == run.options
        and Path(wrote.folder).parent.resolve() == (run.models / run.name).resolve()
    ):
        say(f"nothing to do: this command made {wrote.folder} of the same data. --restart trains anew")
        return True
    return False

"""The command line `carry`. A verb imports what it needs when it runs: `carry serve` needs neither pandas nor training,
and a verb whose extra is not installed says which extra that is.
"""

import json
import os
import re
import secrets
import shutil
import sys
import textwrap
from datetime import UTC, datetime
from importlib import metadata
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from carry.forecast_verb import forecast
from carry.keys_verb import keys
from carry.options import ModelOption, ModelsDir, settings_with
from service import DISTRIBUTION
from service.errors import CarryError
from service.settings import Settings

FOR_PEOPLE = 80
"""Columns of text that is not printed on a terminal."""

app = typer.Typer(name="carry", no_args_is_help=True, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"carry {metadata.version(DISTRIBUTION)}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def carry(version: Version = False) -> None:
    """Trains recurrent networks and serves their predictions: forecasts of series, continuations of text."""


def main() -> None:
    """Run the command line."""
    needs_training = sys.argv[1:2] not in (["serve"], ["models"], ["generate"], ["forecast"], ["keys"])
    if needs_training:
        from training.cli import evaluate, train

        app.add_typer(train, name="train")
        app.command("evaluate")(evaluate)
    try:
        app()
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name or "")
        if extra is None:
            raise
        extra = "training" if needs_training else extra  # it includes the others
        _fail(f"this command needs {error.name}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'")
    except CarryError as error:
        _fail(error.detail)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        # The message about several settings together names them itself.
        _fail(f"CARRY_{'_'.join(map(str, first['loc'])).upper()}: {message}" if first["loc"] else message)


def _extra_with(module: str) -> str | None:
    """The first extra of this distribution that installs a module; None if none does."""
    for requirement in metadata.requires(DISTRIBUTION) or ():
        named = re.fullmatch(r"([\w.-]+).*;.*extra == ['\"](\w+)['\"].*", requirement)
        if named is not None and named[1].replace("-", "_") == module.partition(".")[0]:
            return named[2]
    return None


@app.command()
def serve(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; 0: any free one.", show_default="CARRY_PORT, else 8000"),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address; 0.0.0.0: all networks.", show_default="CARRY_HOST, else 127.0.0.1"),
    ] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Serve the models over HTTP, with a page at /, until Ctrl-C.

    Environment variables set up everything else: CARRY_API_KEYS, CARRY_PROCESSES, CARRY_SESSION_STORE, ...
    """
    from service.serve import StartError
    from service.serve import serve as serve_models

    try:
        serve_models(settings_with(port=port, host=host, models_dir=models_dir))
    except StartError as error:
        _fail(str(error))


@app.command()
def models(models_dir: ModelsDir = None, as_json: Json = False) -> None:
    """List the models, with the metrics of each, or the reason why a folder is refused.

    This checks manifests and files; only `carry serve` also runs the graphs.
    """
    from service.kinds import KINDS
    from service.registry import list_models

    settings = settings_with(models_dir=models_dir)
    folders = list_models(settings, KINDS)
    if not folders.models and not folders.rejected:
        typer.echo(f"carry: no model folders in {' and '.join(map(str, settings.models_dirs))}", err=True)
    if as_json:
        loaded = [model.manifest.model_dump(mode="json", include=_SHOWN) for model in folders.models]
        typer.echo(json.dumps({"models": loaded, "refused": [vars(refused) for refused in folders.rejected]}, indent=1))
        return
    columns = shutil.get_terminal_size((FOR_PEOPLE, 24)).columns
    for model in folders.models:
        typer.echo(f"{model.label}  {model.kind.name}  {model.path}")
        metrics = ", ".join(f"{name}\N{NO-BREAK SPACE}{value:.4g}" for name, value in model.manifest.metrics.items())
        for text in filter(None, (model.manifest.description, metrics)):
            lines = textwrap.fill(
                text, columns, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
            )
            typer.echo(lines.replace("\N{NO-BREAK SPACE}", " "))
    for refused in folders.rejected:
        typer.echo(f"{refused.name}@{refused.version}: refused: {refused.reason}")


_SHOWN = {"name", "version", "kind", "description", "metrics"}


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    max_length: Annotated[int, typer.Option(min=1, help="Characters to generate, at most.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, max=10, help="0 takes the most probable character.")] = 0.8,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same text.", show_default="a random one")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text before which to stop. May be repeated.", show_default=False)
    ] = None,
    model: ModelOption = None,
    models_dir: ModelsDir = None,
) -> None:
    """Continue a text, without a server.

    Example: carry generate "The old house " --stop .
    """
    from service.kinds import KINDS
    from service.metrics import Metrics
    from service.registry import open_model
    from service.text.kind import TEXT
    from service.text.sampling import SamplingParams
    from service.text.task import GenerateRequest
    from service.text.task import generate as generate_on

    if "" in (stop or ()):
        raise typer.BadParameter("a text of at least one character", param_hint="--stop")
    text_model = open_model(settings_with(models_dir=models_dir), KINDS, Metrics(), model, TEXT)
    seed = secrets.randbits(53) if seed is None else seed
    request = GenerateRequest(prompt, max_length, SamplingParams(temperature=temperature), seed, tuple(stop or ()))
    [row], task = generate_on(text_model.manifest.tokenizer, request)
    text_model.engine.submit(task, request.cost_steps).result()
    text_model.engine.close()
    typer.echo(prompt + row.text)


app.command()(forecast)
app.add_typer(keys, name="keys")


def _fail(message: str) -> NoReturn:
    """Print the error in one line and exit with status 2."""
    if os.environ.get("CARRY_LOG_FORMAT") == "json":  # a collector of logs reads nothing else
        line = {"event": message, "level": "critical", "timestamp": datetime.now(UTC).isoformat()}
        typer.echo(json.dumps(line), err=True)
    else:
        typer.echo(f"carry: {message}", err=True)
    raise SystemExit(2)

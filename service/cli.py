"""The command line `carry`. The verbs `train`, `evaluate` and `forecast` are entry points: the service runs without
them."""

import asyncio
import json
import os
import secrets
import signal
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from service.errors import CarryError
from service.machine import available_cores
from service.settings import Settings, port_of_kubernetes, unknown_settings

app = typer.Typer(
    name="carry",
    help="Trains recurrent networks and serves their predictions: forecasts of series, continuations of text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str | None, typer.Option(help="name or name@version. If absent, the default model.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"carry {metadata.version('carry')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def carry(version: Version = False) -> None:
    """Trains recurrent networks and serves their predictions: forecasts of series, continuations of text."""


def main() -> None:
    """Run the command line."""
    # Imports cost each process of the service memory, and time at the start.
    serves = sys.argv[1:2] == ["serve"]
    for verb in () if serves else metadata.entry_points(group="carry.verbs"):
        try:
            loaded = verb.load()
        except ModuleNotFoundError:
            app.command(verb.name, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(_absent)
            continue
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=verb.name)
        else:
            app.command(verb.name)(loaded)
    try:
        app()
    except ModuleNotFoundError as error:
        _fail(f"this command needs {error.name}, which is not installed: pip install 'carry[training]'")
    except CarryError as error:
        _fail(error.detail)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        # The message about several settings together names them itself.
        _fail(f"CARRY_{'_'.join(map(str, first['loc'])).upper()}: {message}" if first["loc"] else message)


def _absent() -> None:
    """Not installed: pip install 'carry[training]'."""
    _fail("this command is not installed: pip install 'carry[training]'")


@app.command()
def serve() -> None:
    """Serve the models over HTTP. Environment variables set it up: CARRY_PORT, CARRY_MODELS_DIR, ..."""
    # Nothing is open yet, so end at once. An exception from a handler could be swallowed, and for process 1 of a
    # container, the system ignores SIGTERM by default.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: os._exit(0))
    # Importing NumPy would start threads. A process with threads cannot fork safely, and the service does not use them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    settings = Settings()

    from service.workers.trials import Trials

    trials = Trials(settings)
    trials.begin()  # during the imports

    import structlog

    from service.app import try_store
    from service.logs import configure_logs
    from service.sessions.store import StoreError
    from service.workers.board import Board
    from service.workers.shared_metrics import SharedMetrics
    from service.workers.supervisor import CAN_FORK, Supervisor, listen
    from service.workers.worker import run_worker

    processes = settings.processes if CAN_FORK else 1
    configure_logs(settings)
    log = structlog.get_logger()
    _warn(settings)
    with ExitStack() as failed:
        failed.callback(trials.abandon)
        try:
            asyncio.run(try_store(settings))
        except StoreError as error:
            _fail(str(error))
        try:
            sockets = listen(settings.host, settings.port, processes)
        except OSError as error:
            _fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
        failed.pop_all()
    # Clients that connect before the models are loaded wait.
    port = sockets[0].getsockname()[1]
    log.info("listening", host=settings.host, port=port, processes=processes, keys=len(settings.api_keys))

    trials.finish()
    board, shared_metrics = Board(processes), SharedMetrics(processes)
    run = partial(run_worker, settings, board, shared_metrics, trials)
    if processes == 1:
        board.enter(0, os.getpid())
        run(sockets[0], 0)
    else:
        Supervisor(sockets, board, run, settings.shutdown_grace).run()


def _warn(settings: Settings) -> None:
    """Warn of settings that are probably mistakes."""
    import structlog

    log = structlog.get_logger()
    for name, nearest in unknown_settings(os.environ).items():
        log.warning("unknown setting", setting=name, did_you_mean=nearest)
    if (address := port_of_kubernetes(os.environ)) is not None:
        log.warning("CARRY_PORT is the address of a Kubernetes Service; it is ignored", value=address)
    cores = available_cores()
    if "processes" not in settings.model_fields_set and settings.processes < cores:
        log.warning("memory suffices for fewer processes than cores", processes=settings.processes, cores=cores)
    if not settings.api_keys and settings.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("the service needs no API key: CARRY_API_KEYS is not set", host=settings.host)


@app.command()
def models(as_json: Json = False) -> None:
    """List the model folders, with the metrics of each, or the reason why it is refused. This checks manifests and
    files; only `carry serve` also runs the graphs."""
    from service.kinds import KINDS
    from service.registry import list_models

    settings = Settings()
    folders = list_models(settings, KINDS)
    if not folders.models and not folders.rejected:
        typer.echo(f"carry: no model folders in {settings.models_dir}", err=True)
    if as_json:
        loaded = [model.manifest.model_dump(mode="json", include=_SHOWN) for model in folders.models]
        typer.echo(json.dumps({"models": loaded, "refused": [vars(refused) for refused in folders.rejected]}, indent=1))
    else:
        for model in folders.models:
            metrics = ", ".join(f"{name} {value:.4g}" for name, value in model.manifest.metrics.items())
            typer.echo(f"{model.label:16} {model.manifest.kind:9} {model.manifest.description} [{metrics}]")
        for refused in folders.rejected:
            typer.echo(f"{refused.name}@{refused.version}: refused: {refused.reason}")


_SHOWN = {"name", "version", "kind", "description", "metrics"}


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    max_length: Annotated[int, typer.Option(min=1, help="Characters to generate, at most.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, max=10, help="0 takes the most probable character.")] = 0.8,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    model: ModelOption = None,
) -> None:
    """Continue a text, without a server."""
    from service.kinds import KINDS
    from service.metrics import Metrics
    from service.registry import open_model
    from service.text.kind import TEXT
    from service.text.sampling import SamplingParams
    from service.text.task import GenerateRequest
    from service.text.task import generate as generate_on

    text_model = open_model(Settings(), KINDS, Metrics(), model, TEXT)
    seed = secrets.randbits(53) if seed is None else seed
    request = GenerateRequest(prompt, max_length, SamplingParams(temperature=temperature), seed)
    [row], task = generate_on(text_model.manifest.tokenizer, request)
    text_model.engine.submit(task, request.cost_steps).result()
    text_model.engine.close()
    typer.echo(prompt + row.text)


def _fail(message: str) -> NoReturn:
    """Print the error in one line and exit with status 2."""
    if os.environ.get("CARRY_LOG_FORMAT") == "json":  # a collector of logs reads nothing else
        line = {"event": message, "level": "critical", "timestamp": datetime.now(UTC).isoformat()}
        typer.echo(json.dumps(line), err=True)
    else:
        typer.echo(f"carry: {message}", err=True)
    raise SystemExit(2)

"""`carry keys`: the file of API keys that CARRY_API_KEYS_FILE names. It makes secrets, and writes only their sha256."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn, get_args

import typer
from pydantic import ValidationError

from service.keys_file import (
    MAX_SECRETS,
    KeyEntry,
    KeysFileError,
    Scope,
    as_json,
    hash_of_secret,
    read_keys,
    write_keys,
)

PREFIX = "carry_"
"""Of secrets: by it, people and scanners of repositories recognise one."""
SECRET_BYTES = 32

keys = typer.Typer(no_args_is_help=True, help="Make and remove API keys in the file of CARRY_API_KEYS_FILE.")

Name = Annotated[str, typer.Argument(help="Who uses the key: letters, digits, dots, dashes and underscores.")]
File = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="The file of keys.", envvar="CARRY_API_KEYS_FILE", show_default=False),
]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help=f"{', '.join(get_args(Scope))}. May be repeated.", show_default="use"),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Model that it may use. May be repeated.", show_default="all")
]


@keys.command()
def new(
    name: Name,
    file: File = None,
    scope: Scopes = None,
    model: Models = None,
    steps_per_minute: Annotated[
        int | None, typer.Option(help="Values and characters to read and to predict.", show_default="no limit")
    ] = None,
    queue_share: Annotated[
        float | None, typer.Option(help="How much of a model's queue it may fill, up to 1.", show_default="1")
    ] = None,
    sessions: Annotated[
        int | None, typer.Option(help="Live sessions.", show_default="CARRY_MAX_SESSIONS_PER_OWNER")
    ] = None,
    stored_bytes: Annotated[
        int | None, typer.Option(help="Bytes of sessions.", show_default="CARRY_MAX_SESSION_BYTES_PER_OWNER")
    ] = None,
) -> None:
    """Make a key, and print its secret: this once, since the file has only its sha256.

    Without a file, print the entry for one. A running service reads the file within a second or two.
    """
    limits = {
        "steps_per_minute": steps_per_minute,
        "queue_share": queue_share,
        "sessions": sessions,
        "stored_bytes": stored_bytes,
    }
    secret = _secret()
    fields = {
        "name": name,
        "sha256": (hash_of_secret(secret),),
        "limits": {field: limit for field, limit in limits.items() if limit is not None},
        **({"scopes": frozenset(scope)} if scope else {}),
        **({"models": frozenset(model)} if model else {}),
    }
    try:
        entry = KeyEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        _fail(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
    if file is not None:
        entries = _read(file) if file.exists() else ()
        if any(each.name == name for each in entries):
            _fail(f"{file} has a key {name}: `carry keys rotate {name}` gives it another secret")
        _write(file, [*entries, entry])
    typer.echo(secret)
    if file is None:
        typer.echo('The entry for the file of CARRY_API_KEYS_FILE, {"keys": [...]}:', err=True)
        typer.echo(as_json(entry), err=True)


@keys.command()
def rotate(name: Name, file: File = None) -> None:
    """Give a key another secret, and print it. The secrets before stay valid, until `carry keys remove NAME --old`.

    The key keeps its sessions.
    """
    path, entries, entry = _find(file, name)
    if len(entry.sha256) == MAX_SECRETS:
        _fail(f"{name} has {MAX_SECRETS} secrets: end the change before with `carry keys remove {name} --old`")
    secret = _secret()
    changes = {"owner": entry.store_owner, "sha256": (*entry.sha256, hash_of_secret(secret))}
    _replace(path, entries, entry, entry.model_copy(update=changes))
    typer.echo(secret)


@keys.command()
def remove(
    name: Name,
    file: File = None,
    old: Annotated[bool, typer.Option("--old", help="Only the secrets before the last.")] = False,
) -> None:
    """Remove a key, or with --old all its secrets but the last. They end within a second or two.

    The sessions of a removed key stay in the store until they expire.
    """
    path, entries, entry = _find(file, name)
    if not old:
        _replace(path, entries, entry)
        return
    if len(entry.sha256) == 1:
        _fail(f"{name} has one secret only: `carry keys rotate {name}` gives it another one")
    _replace(path, entries, entry, entry.model_copy(update={"sha256": entry.sha256[-1:], "owner": entry.store_owner}))


@keys.command("list")
def list_keys(file: File = None) -> None:
    """List the keys, with what they may do. The file has no secrets."""
    for entry in _read(_path(file)):
        limits = entry.limits.model_dump(exclude_defaults=True)
        parts = [
            f"scopes: {', '.join(sorted(entry.scopes))}",
            f"models: {', '.join(sorted(entry.models)) if entry.models else 'all'}",
            *(f"{field}: {limit}" for field, limit in limits.items()),
            *([f"{len(entry.sha256)} secrets"] if len(entry.sha256) > 1 else []),
        ]
        typer.echo(f"{entry.name}  {'; '.join(parts)}")


def _secret() -> str:
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def _path(file: Path | None) -> Path:
    if file is None:
        _fail("name the file of keys: --file, or CARRY_API_KEYS_FILE")
    return file


def _find(file: Path | None, name: str) -> tuple[Path, Sequence[KeyEntry], KeyEntry]:
    path = _path(file)
    entries = _read(path)
    entry = next((entry for entry in entries if entry.name == name), None)
    if entry is None:
        _fail(f"{path} has no key {name}; its keys are: {', '.join(each.name for each in entries) or 'none'}")
    return path, entries, entry


def _replace(path: Path, entries: Sequence[KeyEntry], entry: KeyEntry, *by: KeyEntry) -> None:
    _write(path, [other for each in entries for other in (by if each is entry else (each,))])


def _read(path: Path) -> Sequence[KeyEntry]:
    try:
        return read_keys(path)
    except KeysFileError as error:
        _fail(str(error))


def _write(path: Path, entries: Sequence[KeyEntry]) -> None:
    try:
        write_keys(path, entries)
    except OSError as error:
        _fail(f"{path}: {error.strerror}")


def _fail(message: str) -> NoReturn:
    typer.echo(f"carry: {message}", err=True)
    raise typer.Exit(2)

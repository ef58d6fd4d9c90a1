"""The file that CARRY_API_KEYS_FILE names: JSON with each API key's name, the sha256 of its secret, and what it may do.
It holds no secret."""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

Scope = Literal["use", "admin", "metrics"]
"""use: predictions and sessions. admin: reload the models. metrics: GET /metrics."""
MAX_KEYS = 10_000
MAX_BYTES = 16 * 2**20
MAX_SECRETS = 8
"""Secrets of one key."""

_Part = ConfigDict(frozen=True, extra="forbid", strict=True)
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class KeysFileError(Exception):
    """The file cannot be used. The message names the file, the key and the field."""


class KeyLimits(BaseModel):
    """What a key may use: steps a minute, over all processes of a machine; a share of a model's queue; live sessions;
    bytes of sessions and stored answers. None: no limit beyond the service's settings."""

    model_config = _Part

    steps_per_minute: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    queue_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    sessions: _Count | None = None
    stored_bytes: _Count | None = None


NO_LIMITS = KeyLimits()


class KeyEntry(BaseModel):
    """A key. `sha256`: of its secret, or of several secrets, which are all valid. `owner`: whose its sessions are, once
    the first secret is gone. `models`: the names of those that it may use; None: all."""

    model_config = _Part

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[
        tuple[_Sha256, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
        Field(min_length=1, max_length=MAX_SECRETS, strict=False),
    ]
    owner: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    scopes: Annotated[frozenset[Scope], Field(min_length=1)] = frozenset({"use"})
    limits: KeyLimits = NO_LIMITS
    models: Annotated[frozenset[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None

    @property
    def store_owner(self) -> str:
        """The owner of its sessions in the store: that of its first secret, in whichever setting that was."""
        return self.owner or owner_of_hash(self.sha256[0])


class _KeysFile(BaseModel):
    model_config = _Part

    keys: Annotated[tuple[KeyEntry, ...], Field(max_length=MAX_KEYS)]


def hash_of_secret(secret: str) -> str:
    """The sha256 of a secret, in hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def owner_of_hash(sha256: str) -> str:
    """The owner of the sessions of a key with this secret, so that the store never sees the secret."""
    return sha256[:32]


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Read and check the keys of a file.

    Raises:
        KeysFileError: the file cannot be read, or something in it is not valid.
    """
    content = _content(path)
    try:
        keys = _KeysFile.model_validate_json(content).keys
    except ValidationError as error:
        raise KeysFileError(f"{path}: {_explained(error, content)}") from None
    names = dict[str, str]()  # by what no two keys may have: the key that has it
    for key in keys:
        for its in (f"name {key.name}", f"owner {key.store_owner}", *(f"sha256 {sha256}" for sha256 in key.sha256)):
            if its in names:
                raise KeysFileError(f"{path}: the keys {names[its]} and {key.name} both have the {its}")
            names[its] = key.name
    return keys


def write_keys(path: Path, keys: Iterable[KeyEntry]) -> None:
    """Replace the file at once, so that no reader sees half of it. A new file can be read by its owner only; one that
    exists keeps its mode and its owner.

    Raises:
        OSError: it cannot be written.
    """
    path = path.resolve()  # a link stays
    entries = [_without_defaults(key) for key in keys]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            json.dump({"keys": entries}, file, indent=2)
            file.write("\n")
            file.flush()
            if path.exists():
                before = path.stat()
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def as_json(key: KeyEntry) -> str:
    """A key as it stands in the file."""
    return json.dumps(_without_defaults(key), indent=2)


def _without_defaults(key: KeyEntry) -> dict[str, Any]:
    entry = key.model_dump(mode="json", exclude_defaults=True)
    if len(key.sha256) == 1:
        entry["sha256"] = key.sha256[0]
    for field in ("scopes", "models"):
        if field in entry:
            entry[field] = sorted(entry[field])
    return entry


def _content(path: Path) -> bytes:
    try:
        # A pipe without a writer would block for ever.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KeysFileError(f"{path} is no regular file")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeysFileError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise KeysFileError(f"{path} has more than {MAX_BYTES} bytes")
    return content


def _explained(error: ValidationError, content: bytes) -> str:
    """The first thing that is not valid, with the name of its key."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"is not JSON: {first['ctx']['error']}"
    location = first["loc"]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    if location[:1] == ("keys",) and len(location) > 1 and isinstance(location[1], int):
        entry = json.loads(content)["keys"][location[1]]
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            where += f" (of the key {entry['name']!r})"
    return f"{where or 'the file'}: {first['msg'][:1].lower()}{first['msg'][1:]}"

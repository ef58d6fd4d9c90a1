"""The API keys that are valid now: those of CARRY_API_KEYS, which may do all, and those of the file of
CARRY_API_KEYS_FILE, which each process reads again when it changes. Knows nothing of HTTP."""

import asyncio
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import structlog

from service.errors import ForbiddenError, LimitExceededError, NotReadyError, StepsPerMinuteError
from service.keys_file import (
    NO_LIMITS,
    KeyEntry,
    KeyLimits,
    KeysFileError,
    Scope,
    hash_of_secret,
    owner_of_hash,
    read_keys,
)
from service.metrics import KeyMetrics
from service.settings import Settings
from service.workers.allowances import MINUTE, Allowance, Allowances, NoRoomError

POLL_SECONDS = 1.0
"""Seconds between two looks at the file."""
ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Key:
    """Who calls. `owner`: of the sessions. `models`: the names of those that the key may use; None: all. `allowance`:
    of steps; None: no limit."""

    name: str
    owner: str
    scopes: frozenset[Scope] = ALL_SCOPES
    limits: KeyLimits = NO_LIMITS
    models: frozenset[str] | None = None
    allowance: Allowance | None = None

    def check_scope(self, scope: Scope) -> None:
        """Check that the key may make calls of this scope.

        Raises:
            ForbiddenError: it may not.
        """
        if scope not in self.scopes:
            scopes = ", ".join(f"`{each}`" for each in sorted(self.scopes))
            raise ForbiddenError(f"needs a key with the scope `{scope}`; the key {self.name} has {scopes}", scope)

    def take(self, steps: int) -> None:
        """Take steps from those that the key may still take this minute.

        Raises:
            LimitExceededError: the key may never take so many at once.
            StepsPerMinuteError: it may take them in `retry_after` seconds.
        """
        limit = self.limits.steps_per_minute
        if self.allowance is None or limit is None:
            return
        if steps > limit:
            raise LimitExceededError(
                f"takes {steps} steps (values or characters to read and to predict), and the key {self.name} may take "
                f"{limit} a minute: send it in parts",
                "$",
            )
        if seconds := self.allowance.take(steps * MINUTE / limit):
            raise StepsPerMinuteError(f"the key {self.name} may take {limit} steps a minute", math.ceil(seconds))

    def give_back(self, steps: int) -> None:
        """Give back steps that were taken and did not run."""
        limit = self.limits.steps_per_minute
        if self.allowance is not None and limit is not None:
            self.allowance.give_back(steps * MINUTE / limit)


@dataclass(frozen=True)
class _Ring:
    """All keys at one moment. `keys`: by the digests of their secrets. `limits`: of the keys of the file, by owner.
    `closes_metrics`: whether a key of the file has the scope `metrics`."""

    keys: Mapping[bytes, Key] = field(default_factory=dict)
    limits: Mapping[str, KeyLimits] = field(default_factory=dict)
    closes_metrics: bool = False

    def __len__(self) -> int:
        return len({key.name for key in self.keys.values()})


def check_keys(settings: Settings) -> int:
    """How many keys there are.

    Raises:
        KeysFileError: the file cannot be used.
    """
    path = settings.api_keys_file
    return len(_ring(settings, () if path is None else read_keys(path)))


def _ring(
    settings: Settings, entries: Sequence[KeyEntry], allowance_of: Callable[[str], Allowance] | None = None
) -> _Ring:
    """The keys of CARRY_API_KEYS and of these entries of the file.

    Raises:
        KeysFileError: they do not go together.
    """
    keys, limits = dict[bytes, Key](), dict[str, KeyLimits]()
    for i, key in enumerate(settings.api_keys, 1):
        sha256 = hash_of_secret(key.get_secret_value())
        keys[bytes.fromhex(sha256)] = Key(f"key-{i}", owner_of_hash(sha256))
    taken = {key.name for key in keys.values()}
    for entry in entries:
        if entry.name in taken:
            raise KeysFileError(f"{settings.api_keys_file}: {entry.name} is the name of a key of CARRY_API_KEYS")
        owner, most = entry.store_owner, entry.limits
        allowance = allowance_of(owner) if allowance_of is not None and most.steps_per_minute else None
        limits[owner] = most
        key_of_file = Key(entry.name, owner, entry.scopes, most, entry.models, allowance)
        # One with a secret of CARRY_API_KEYS replaces that key.
        keys.update((bytes.fromhex(sha256), key_of_file) for sha256 in entry.sha256)
    return _Ring(keys, limits, any("metrics" in entry.scopes for entry in entries))


class KeyRing:
    """The keys that are valid now. While the file cannot be used, the keys that it had before stay valid. If it could
    not be used since this process started, requests are refused, and the process is not ready.

    `allowances`: made before the fork. `worker_index`: this process's index in them.
    """

    def __init__(
        self, settings: Settings, allowances: Allowances, worker_index: int = 0, metrics: KeyMetrics | None = None
    ) -> None:
        self._settings = settings
        self._path = settings.api_keys_file
        self._allowances = allowances
        self._worker_index = worker_index
        self._metrics = metrics
        self.required = bool(settings.api_keys) or self._path is not None
        """Whether requests need a key."""
        self._ring = _ring(settings, ())
        self._was_read = self._path is None
        self._reason = ""
        self._seen: tuple[int, ...] | None = None
        if metrics is not None:
            metrics.last_read_successful.set(1)
        if self._path is not None:
            self.refresh()

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def reason_not_ready(self) -> str:
        """Why requests cannot be checked; "" if they can."""
        return "" if self._was_read else "cannot read its API keys; see the log"

    @property
    def closes_metrics(self) -> bool:
        """Whether /metrics needs a key with the scope `metrics`: if a key of the file has it, or may have it."""
        return self._ring.closes_metrics or not self._was_read

    def find(self, secret: str) -> Key | None:
        """The key with this secret.

        Raises:
            NotReadyError: the file could not be used since this process started.
        """
        # The time of the search may tell about digests. That tells nothing about secrets: similar ones have others.
        key = self._ring.keys.get(hashlib.sha256(secret.encode()).digest())
        if key is None and not self._was_read:
            raise NotReadyError("the service cannot read its API keys")
        return key

    def limits(self, owner: str) -> KeyLimits | None:
        """The limits of the key of the file with this owner."""
        return self._ring.limits.get(owner)

    async def watch(self) -> None:
        """Read the file again whenever it changes, until cancelled."""
        while self._path is not None:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:  # a fault of ours must not end the loop: revoked keys would stay valid
                structlog.get_logger().exception("the keys file was not read")

    def refresh(self) -> None:
        """Read the file if it has changed: if another file has its name now, or it has another size or time.

        A rename over it changes it, and so does the change of a link on its path, as Kubernetes makes it.
        """
        assert self._path is not None
        try:
            status = os.stat(self._path)
        except OSError as error:
            self._seen = None
            self._report(f"{self._path}: {error.strerror}")
            return
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == self._seen:
            return
        self._seen = seen  # of before the reading: a change meanwhile is seen at the next look
        try:
            self._ring = self._load()
        except KeysFileError as error:
            self._report(str(error))
        else:
            self._was_read = True
            self._report("")

    def _load(self) -> _Ring:
        assert self._path is not None
        try:
            return _ring(
                self._settings, read_keys(self._path), lambda owner: self._allowances.of(owner, self._worker_index)
            )
        except NoRoomError as error:
            raise KeysFileError(f"{self._path}: {error}") from error

    def _report(self, reason: str) -> None:
        log = structlog.get_logger()
        if self._metrics is not None:
            self._metrics.last_read_successful.set(not reason)
        if not reason:
            log.info("keys read", file=str(self._path), keys=len(self))
        elif reason != self._reason:
            log.error("the keys file cannot be used; the keys before stay valid", reason=reason, keys=len(self))
        self._reason = reason

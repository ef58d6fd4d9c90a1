"""Finds, checks and opens the model folders. A folder that fails its checks is rejected, without harm to other models.

The registry knows the protocol of a kind of model (`service/kind.py`), but no kind by name.
"""

import gc
import mmap
import queue
import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from pydantic import ValidationError

from service.card import pictures_of
from service.engine.engine import Engine
from service.engine.prefill import CHUNK
from service.engine.runner import GraphMismatchError, int8_is_exact
from service.errors import CarryError, ForbiddenError, ModelNotFoundError, ModelRefusedError, WrongModelKindError
from service.events import log
from service.folders import model_folders, printable, reason_not_regular
from service.kind import Kind, Model, OpenGraphs
from service.manifest import MANIFEST_FILE, Graph, Graphs, M, Manifest, read_manifest, sha256_of
from service.settings import Settings

if TYPE_CHECKING:
    from service.metrics import EngineMetrics

Kinds = Sequence[Kind[Any]]
Trial = Callable[[Sequence[Path]], Mapping[Path, str | None]]
"""Tries model folders in another process. Returns the reason to reject each folder, or None."""


class Instruments(Protocol):
    """What measures engines: `service.metrics.Metrics`."""

    def engine(self, model: str) -> "EngineMetrics":
        """The instruments of one model's engine."""


@dataclass(frozen=True)
class RejectedModel:
    """A model folder that failed its checks, and why."""

    name: str
    version: str
    reason: str


class _RejectedError(Exception):
    """The folder is rejected, for this reason."""


@dataclass(frozen=True)
class ModelFolder(Generic[M]):
    """A model that is not opened: its folder, kind and manifest."""

    path: Path
    kind: Kind[M]
    manifest: M

    @property
    def label(self) -> str:
        """name@version."""
        return self.manifest.label


AnyModel = TypeVar("AnyModel", Model[Any], ModelFolder[Any])


@dataclass(frozen=True)
class ModelSet(Generic[AnyModel]):
    """The models at one moment, by name with the newest version first, and the rejected folders. `defaults`: for each
    kind, the name of the default model. `allowed`: the names of the models that the caller may use; None: all."""

    models: tuple[AnyModel, ...]
    rejected: tuple[RejectedModel, ...]
    defaults: Mapping[str, str]
    allowed: Set[str] | None = None

    def restricted(self, allowed: Set[str]) -> "ModelSet[AnyModel]":
        """The models with these names: of other names, not even whether such a model exists is told."""
        models = tuple(model for model in self.models if model.manifest.name in allowed)
        rejected = tuple(folder for folder in self.rejected if folder.name in allowed)
        return replace(self, models=models, rejected=rejected, allowed=allowed)

    def default(self, kind: Kind[Any]) -> str | None:
        """The name of the model for requests that name none: the kind's default if it is loaded, else the only model of
        the kind."""
        return self._loaded_defaults.get(kind.name)

    @cached_property
    def _loaded_defaults(self) -> dict[str, str]:
        names: dict[str, set[str]] = {}
        for model in self.models:
            names.setdefault(model.kind.name, set()).add(model.manifest.name)
        defaults = {kind: self.defaults[kind] for kind in names if self.defaults[kind] in names[kind]}
        return {kind: min(names) for kind, names in names.items() if len(names) == 1} | defaults

    def of_kind(self, kind: Kind[Any]) -> list[AnyModel]:
        """The models of one kind."""
        return [model for model in self.models if model.kind is kind]

    def find(self, name: str) -> AnyModel:
        """The model "name" (its newest version) or "name@version".

        Raises:
            ModelNotFoundError: no model has this name and version.
            ModelRefusedError: the model was refused.
            ForbiddenError: the caller may not use models of this name.
        """
        base_name, _, version = name.partition("@")
        if self.allowed is not None and base_name not in self.allowed:
            raise self._forbidden(f"the model {printable(base_name)}")
        for model in self.models:
            if model.manifest.name == base_name and version in ("", str(model.manifest.version)):
                return model
        for rejected in self.rejected:
            if rejected.name == base_name and version in ("", rejected.version):
                reason = f"{rejected.name}@{rejected.version} was refused: {rejected.reason}"
                raise ModelRefusedError(f"model {reason}", "$.model")
        raise ModelNotFoundError(f"no such model; the loaded models are: {labels(self.models)}", "$.model")

    def find_kind(self, name: str | None, kind: Kind[Any]) -> AnyModel:
        """The model of this name and kind; without a name, the kind's default.

        Raises:
            ModelNotFoundError, ModelRefusedError, ForbiddenError: as `find`.
            WrongModelKindError: the model is of another kind.
        """
        name = name or self.default(kind)
        if name is None and self.allowed is not None and not self.of_kind(kind):
            raise self._forbidden(f"any {kind.name} model")
        if name is None:
            choices = labels(self.of_kind(kind))
            raise ModelNotFoundError(f"no default {kind.name} model; name a loaded one: {choices}", "$.model")
        model = self.find(name)
        if model.kind is not kind:
            choices = labels(self.of_kind(kind))
            message = f"{model.label} is a {model.kind.name} model; the loaded {kind.name} models are: {choices}"
            raise WrongModelKindError(message, "$.model")
        return model

    def _forbidden(self, what: str) -> ForbiddenError:
        return ForbiddenError(f"this API key may not use {what}; it may use: {', '.join(sorted(self.allowed or ()))}")


def labels(models: "Sequence[Model[Any] | ModelFolder[Any]]") -> str:
    """The labels of the models, for a message."""
    return ", ".join(model.label for model in models) or "none"


@dataclass(frozen=True)
class Changes:
    """The changes of a reload. `unloaded` has labels: a reference to a model would keep it alive."""

    loaded: tuple[Model[Any], ...]
    unloaded: tuple[str, ...]
    rejected: tuple[RejectedModel, ...]


class LoadedModels(ABC):
    """The loaded models. Read `current` once if you need two answers from the same set."""

    @property
    @abstractmethod
    def current(self) -> ModelSet[Model[Any]]:
        """The models at this moment."""

    @property
    def models(self) -> tuple[Model[Any], ...]:
        """The loaded models."""
        return self.current.models

    @property
    def rejected(self) -> tuple[RejectedModel, ...]:
        """The folders that failed their checks."""
        return self.current.rejected

    def find(self, name: str) -> Model[Any]:
        """`ModelSet.find` in the current set."""
        return self.current.find(name)

    def find_kind(self, name: str | None, kind: Kind[M]) -> Model[M]:
        """`ModelSet.find_kind` in the current set."""
        return cast(Model[M], self.current.find_kind(name, kind))


class AllowedModels(LoadedModels):
    """The loaded models that a caller may use, by their names."""

    def __init__(self, models: LoadedModels, allowed: Set[str]) -> None:
        self._models = models
        self._allowed = allowed

    @property
    def current(self) -> ModelSet[Model[Any]]:
        """As in the superclass."""
        return self._models.current.restricted(self._allowed)


class Registry(LoadedModels):
    """All loaded models. A reload replaces the whole `current` set, so that each thread sees either the old set or the
    new one."""

    def __init__(self, settings: Settings, kinds: Kinds, metrics: Instruments, trial: Trial | None = None) -> None:
        """`trial`: tries new folders in another process before this one opens them."""
        self._settings = settings
        self._kinds = kinds
        self._metrics = metrics
        self._trial = trial
        self._current: ModelSet[Model[Any]] = ModelSet((), (), _defaults(settings, kinds))
        self.reload()

    @property
    def current(self) -> ModelSet[Model[Any]]:
        """As in the superclass."""
        return self._current

    def reload(self) -> Changes:
        """Read the folders again. A model whose folder has not changed keeps running; an unloaded model ends when no
        request holds it any more. Call it from one thread at a time."""
        old = self._current
        models: list[Model[Any]] = []
        folders, unreadable = model_folders(self._settings.models_dirs)
        rejected = _unreadable(unreadable)
        unchanged = {path: self._unchanged(path, old.models) for path in folders}
        new = [path for path in folders if unchanged[path] is None]
        reasons = self._trial(new) if self._trial is not None else {}
        for path in folders:
            try:
                if (reason := reasons.get(path)) is not None:
                    raise _RejectedError(reason)
                models.append(unchanged[path] or _load(path, self._settings, self._kinds, self._metrics))
            except _RejectedError as error:
                rejected.append(_rejected(path, error))
            except Exception as error:  # a bug of ours must not harm other models
                log().exception("a model folder could not be opened", folder=printable(str(path)))
                reason = f"unexpected {type(error).__name__}; the log has the details"
                rejected.append(RejectedModel(printable(path.parent.name), printable(path.name), reason))
        models.sort(key=_newest_first)
        self._current = ModelSet(tuple(models), tuple(rejected), old.defaults)
        unloaded = [model for model in old.models if model not in models]
        for model in unloaded:
            _retire(model, self._settings.request_timeout)
        return Changes(
            loaded=tuple(model for model in models if model not in old.models),
            unloaded=tuple(model.label for model in unloaded),
            rejected=tuple(folder for folder in rejected if folder not in old.rejected),
        )

    def _unchanged(self, path: Path, loaded: tuple[Model[Any], ...]) -> Model[Any] | None:
        """The loaded model of this folder, if the folder has not changed. The manifest has the sha256 of all files, so
        the same manifest means the same model."""
        if not loaded:
            return None
        try:
            folder = _read_folder(path, self._kinds)
            _check_all_files(folder, self._settings.precision)
        except _RejectedError:
            return None
        return next((model for model in loaded if model.manifest == folder.manifest), None)

    def close(self) -> None:
        """End the engines."""
        for model in self.models:
            model.engine.close()


def list_models(settings: Settings, kinds: Kinds) -> ModelSet[ModelFolder[Any]]:
    """List the models without opening them. This checks their manifests and the sha256 of their files."""
    folders = _read_folders(settings, kinds)
    models, rejected = [], list(folders.rejected)
    for folder in folders.models:
        try:
            _check_all_files(folder, settings.precision)
            models.append(folder)
        except _RejectedError as error:
            rejected.append(_rejected(folder.path, error))
    return ModelSet(tuple(models), tuple(rejected), folders.defaults)


def open_model(settings: Settings, kinds: Kinds, metrics: Instruments, name: str | None, kind: Kind[M]) -> Model[M]:
    """Open only the model that a registry would find under this name (`ModelSet.find_kind`).

    Raises:
        ModelNotFoundError, ModelRefusedError, WrongModelKindError: as `ModelSet.find_kind`.
    """

    def load(folder: ModelFolder[Any]) -> Model[M]:
        return _load(folder.path, settings, kinds, metrics)

    return _first_good(settings, kinds, lambda models: models.find_kind(name, kind), load)


def find_model(settings: Settings, kinds: Kinds, name: str | None, kind: Kind[M]) -> M:
    """The manifest of the model that `open_model` would open. This checks its files, but does not open them.

    Raises:
        ModelNotFoundError, ModelRefusedError, WrongModelKindError: as `ModelSet.find_kind`.
    """

    def check(folder: ModelFolder[Any]) -> M:
        _check_all_files(folder, settings.precision)
        return cast(M, folder.manifest)

    return _first_good(settings, kinds, lambda models: models.find_kind(name, kind), check)


def find_folder(settings: Settings, kinds: Kinds, name: str) -> ModelFolder[Any]:
    """The folder of the model of this name, of any kind; or of the default model of the kind of this name. This checks
    its files, but does not open them: `open_folder` does.

    Raises:
        ModelNotFoundError, ModelRefusedError: as `ModelSet.find`.
    """
    kind = next((kind for kind in kinds if kind.name == name), None)

    def find(models: ModelSet[ModelFolder[Any]]) -> ModelFolder[Any]:
        return models.find(name) if kind is None else models.find_kind(None, kind)

    def check(folder: ModelFolder[Any]) -> ModelFolder[Any]:
        _check_all_files(folder, settings.precision)
        return folder

    return _first_good(settings, kinds, find, check)


def open_folder(folder: ModelFolder[Any], settings: Settings, kinds: Kinds, metrics: Instruments) -> Model[Any]:
    """Open the model of a folder.

    Raises:
        ModelRefusedError: it fails a check.
    """
    try:
        return _load(folder.path, settings, kinds, metrics)
    except _RejectedError as error:
        raise ModelRefusedError(f"model {folder.label} was refused: {error}", "$.model") from error


Result = TypeVar("Result")


def _first_good(
    settings: Settings,
    kinds: Kinds,
    find: Callable[[ModelSet[ModelFolder[Any]]], ModelFolder[Any]],
    attempt: Callable[[ModelFolder[Any]], Result],
) -> Result:
    """The result of the attempt on the model that is found. If the attempt rejects the folder, try the next one."""
    models = _read_folders(settings, kinds)
    while True:
        try:
            folder = find(models)
        except ModelNotFoundError as error:
            searched = " and ".join(str(path.absolute()) for path in settings.models_dirs)
            hint = f"searched {searched}; models_dir (--models-dir, CARRY_MODELS_DIR) names another folder"
            raise ModelNotFoundError(f"{error.detail}; {hint}", error.path) from None
        try:
            return attempt(folder)
        except _RejectedError as error:
            others = tuple(other for other in models.models if other is not folder)
            models = ModelSet(others, (_rejected(folder.path, error), *models.rejected), models.defaults)


def reason_to_reject(path: Path, kinds: Kinds, precision: str, threads: int) -> str | None:
    """The reason to reject a model folder; None if it passes all checks."""
    try:
        _open(path, kinds, precision, threads)
    except _RejectedError as error:
        return str(error)
    return None


def _read_folders(settings: Settings, kinds: Kinds) -> ModelSet[ModelFolder[Any]]:
    models: list[ModelFolder[Any]] = []
    folders, unreadable = model_folders(settings.models_dirs)
    rejected = _unreadable(unreadable)
    for path in folders:
        try:
            models.append(_read_folder(path, kinds))
        except _RejectedError as error:
            rejected.append(_rejected(path, error))
    return ModelSet(tuple(sorted(models, key=_newest_first)), tuple(rejected), _defaults(settings, kinds))


def _load(path: Path, settings: Settings, kinds: Kinds, metrics: Instruments) -> Model[Any]:
    folder, graphs, opened, smoke_test = _open(path, kinds, settings.precision, settings.threads)
    kind, manifest = folder.kind, folder.manifest
    engine = Engine(
        manifest.label,
        opened.runner,
        opened.decode_graph,
        kind.split_invariant,
        max_waiting_steps=settings.max_waiting_steps,
        metrics=metrics.engine(manifest.label),
        chunk=min(CHUNK, graphs.graph.max_steps),
        smoke_test=smoke_test,
    )
    return Model(kind, manifest, graphs.precision, engine, pictures_of(path))


def _defaults(settings: Settings, kinds: Kinds) -> dict[str, str]:
    return {kind.name: kind.default_model(settings) for kind in kinds}


def _newest_first(model: Model[Any] | ModelFolder[Any]) -> tuple[str, int]:
    return model.manifest.name, -model.manifest.version


def _unreadable(folders: Mapping[Path, str]) -> list[RejectedModel]:
    return [RejectedModel(printable(name.name), "", reason) for name, reason in folders.items()]


def _rejected(path: Path, error: _RejectedError) -> RejectedModel:
    return RejectedModel(printable(path.parent.name), printable(path.name), str(error))


def _retire(model: Model[Any], timeout: float) -> None:
    """End a model's engine when no request holds the model any more: a request may have found it, and submit its task
    later. After `timeout` seconds, all such requests have passed their deadlines."""
    released: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an event, safe in a finalizer
    weakref.finalize(model, released.put, None)
    threading.Thread(target=_end, args=([model.engine], released, timeout), daemon=True).start()


def _end(engines: list[Engine], released: "queue.SimpleQueue[None]", timeout: float) -> None:
    gc.collect()  # the exceptions of past requests may hold the model
    with suppress(queue.Empty):
        released.get(timeout=timeout)
    engines.pop().close()
    gc.collect()  # the engine and its scheduler form a cycle, which holds the memory of the graph


def _read_folder(path: Path, kinds: Kinds) -> ModelFolder[Any]:
    """Read and check a folder's manifest."""
    try:
        manifest: Manifest = read_manifest(path, *(kind.manifest for kind in kinds))
    except OSError as error:
        raise _RejectedError(f"{MANIFEST_FILE} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise _RejectedError(f"{MANIFEST_FILE}: {where}: {first['msg']}") from None
    if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
        raise _RejectedError(f"the manifest names {manifest.label}, the folder {path.parent.name}/{path.name}")
    return ModelFolder(path, next(kind for kind in kinds if kind.name == manifest.kind), manifest)


def _open(
    path: Path, kinds: Kinds, precision: str, threads: int
) -> tuple[ModelFolder[Any], Graphs, OpenGraphs, Callable[[], None]]:
    """Open a folder's graphs and run the smoke test. Returns the smoke test, too, to run it again."""
    folder = _read_folder(path, kinds)
    graphs = select_graphs(folder.manifest, precision)
    _check_all_files(folder, precision)
    try:
        opened = folder.kind.open(path, folder.manifest, graphs, threads)
        smoke_test = partial(folder.kind.smoke_test, folder.manifest, graphs, opened)
        smoke_test()
    except (GraphMismatchError, CarryError) as error:
        raise _RejectedError(str(error)) from error
    except (ValueError, MemoryError) as error:  # NumPy raises it for impossible shapes
        raise _RejectedError(f"{MANIFEST_FILE} describes tensors of impossible shapes") from error
    return folder, graphs, opened, smoke_test


def select_graphs(manifest: Manifest, precision: str) -> Graphs:
    """The graphs to use. "auto" follows the measurement of the export if this processor multiplies int8 exactly, else
    float32. A model without int8 is always served in float32."""
    int8 = manifest.int8
    if int8 is not None and (precision == "int8" or (precision == "auto" and int8.default and int8_is_exact())):
        return manifest.graphs("int8")
    return manifest.graphs("float32")


def _check_all_files(folder: ModelFolder[Any], precision: str) -> None:
    for graph in select_graphs(folder.manifest, precision).files:
        _check_files(folder.path, graph)


def _check_files(path: Path, graph: Graph) -> None:
    for part in (graph, graph.weights):
        if part is None:
            continue
        try:
            if (reason := reason_not_regular(path / part.file)) is not None:
                raise _RejectedError(f"{part.file} {reason}")
            digest = sha256_of(path / part.file)
        except OSError as error:
            raise _RejectedError(f"{part.file} cannot be read: {error.strerror}") from None
        if digest != part.sha256:
            raise _RejectedError(
                f"{part.file} is not the file that was exported: its sha256 is {digest}, not {part.sha256}"
            )
    listed = {graph.weights.file} if graph.weights is not None else set()
    others = _external_files(path / graph.file) - listed
    if others:
        raise _RejectedError(
            f"{graph.file} has weights in files that the manifest does not list: {', '.join(sorted(others))}"
        )


def _external_files(graph: Path) -> set[str]:
    """The files of an ONNX file's external data: the entries "location" of its tensors, in protobuf's encoding."""
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {
            content[match.end() : match.end() + match[1][0]].decode(errors="backslashreplace")
            for match in re.finditer(rb"\x0a\x08location\x12(.)", content, re.DOTALL)
        }

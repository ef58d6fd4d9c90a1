"""Finds the model folders, checks them, opens them. A folder that fails its checks is refused and harms no other."""

import gc
import mmap
import queue
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import structlog
from pydantic import ValidationError

from service.engine.decoding import Decoding
from service.engine.engine import Engine
from service.engine.reading import CHUNK
from service.engine.runner import Array, GraphMismatchError, Runner, States, int8_is_exact
from service.errors import CarryError, ModelNotFoundError, ModelRefusedError, WrongModelKindError
from service.folders import model_folders, printable, reason_not_regular
from service.manifest import MANIFEST_FILE, ForecastManifest, Graph, TextManifest, read_manifest, sha256_of
from service.metrics import Metrics
from service.sessions.state import StateCodec
from service.settings import Settings
from service.text.sampling import SamplingParams, controls
from service.text.task import CharacterDecoder
from service.text.tokenizer import Tokenizer
from service.workers.trials import Trials

Kind = Literal["forecast", "text"]
Precision = Literal["float32", "int8"]


@dataclass(frozen=True)
class Model:
    """A model that answers."""

    manifest: ForecastManifest | TextManifest
    precision: Precision
    engine: Engine

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of a text model."""
        assert isinstance(self.manifest, TextManifest)
        return Tokenizer.of(self.manifest)

    @cached_property
    def codec(self) -> StateCodec:
        """Writes and reads the states of its sequences."""
        graph, decode, _ = _chosen(self.manifest, self.precision)
        return StateCodec(self.manifest, graph, decode)

    @cached_property
    def state_bytes(self) -> int:
        """Of where one of its sequences stands."""
        graph, decode, _ = _chosen(self.manifest, self.precision)
        return (decode or graph).state_bytes

    @property
    def label(self) -> str:
        """name@version."""
        return f"{self.manifest.name}@{self.manifest.version}"


@dataclass(frozen=True)
class Refused:
    """A model folder that failed its checks, and why."""

    name: str
    version: str
    reason: str


class _RefusalError(Exception):
    """Why a folder is refused."""


@dataclass(frozen=True)
class ModelFolder:
    """A model that is not opened: its folder and what it says of itself."""

    path: Path
    manifest: ForecastManifest | TextManifest

    @property
    def label(self) -> str:
        """name@version."""
        return f"{self.manifest.name}@{self.manifest.version}"


AnyModel = TypeVar("AnyModel", Model, ModelFolder)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Catalogue(Generic[AnyModel]):
    """The models there are at one moment, the newest version of each name first, and the folders refused."""

    models: tuple[AnyModel, ...]
    refused: tuple[Refused, ...]
    defaults: Mapping[Kind, str]

    def default(self, kind: Kind) -> str | None:
        """The name of the model that answers where a request names none."""
        return self._chosen_defaults[kind]

    @cached_property
    def _chosen_defaults(self) -> dict[Kind, str | None]:
        chosen: dict[Kind, str | None] = {}
        for kind, wanted in self.defaults.items():
            names = {model.manifest.name for model in self.models if model.manifest.kind == kind}
            chosen[kind] = wanted if wanted in names else names.pop() if len(names) == 1 else None
        return chosen

    def find(self, name: str) -> AnyModel:
        """The model "name" (its newest version that loaded) or "name@version".

        Raises:
            ModelNotFoundError: there is none.
            ModelRefusedError: there is only one that was refused.
        """
        wanted, _, version = name.partition("@")
        for model in self.models:
            if model.manifest.name == wanted and version in ("", str(model.manifest.version)):
                return model
        for refused in self.refused:
            if refused.name == wanted and version in ("", refused.version):
                reason = f"{refused.name}@{refused.version} was refused: {refused.reason}"
                raise ModelRefusedError(f"model {reason}", "$.model")
        there = ", ".join(model.label for model in self.models) or "none"
        raise ModelNotFoundError(f"no such model; those loaded are: {there}", "$.model")

    def find_kind(self, name: str | None, kind: Kind) -> AnyModel:
        """As `find`, of one kind; without a name, the kind's default.

        Raises:
            ModelNotFoundError, ModelRefusedError: as `find`.
            WrongModelKindError: it is of the other kind.
        """
        name = name or self.default(kind)
        if name is None:
            choices = ", ".join(model.label for model in self.models if model.manifest.kind == kind) or "none"
            raise ModelNotFoundError(f"no default {kind} model; name one of those loaded: {choices}", "$.model")
        model = self.find(name)
        if model.manifest.kind != kind:
            there = ", ".join(m.label for m in self.models if m.manifest.kind == kind) or "none"
            raise WrongModelKindError(
                f"{model.label} is a {model.manifest.kind} model; {kind} models loaded: {there}", "$.model"
            )
        return model


@dataclass(frozen=True)
class Changes:
    """What a reload has changed. `unloaded` are labels: to hold a model would keep it from ending."""

    loaded: tuple[Model, ...]
    unloaded: tuple[str, ...]
    refused: tuple[Refused, ...]


class Registry:
    """The models of one folder. Its catalogue is replaced whole, so that readers on any thread see an old one or a new
    one; who reads twice takes `current` once."""

    def __init__(self, settings: Settings, metrics: Metrics, trials: Trials | None = None) -> None:
        """`trials`: where new folders are tried out before they are opened here; nowhere, if there are none."""
        self._settings = settings
        self._metrics = metrics
        self._trials = trials
        self.current: Catalogue[Model] = Catalogue((), (), _defaults(settings))
        self.reload()

    @property
    def models(self) -> tuple[Model, ...]:
        """Those that answer."""
        return self.current.models

    @property
    def refused(self) -> tuple[Refused, ...]:
        """The folders that failed their checks."""
        return self.current.refused

    def default(self, kind: Kind) -> str | None:
        """As `Catalogue.default`, now."""
        return self.current.default(kind)

    def find(self, name: str) -> Model:
        """As `Catalogue.find`, now."""
        return self.current.find(name)

    def find_kind(self, name: str | None, kind: Kind) -> Model:
        """As `Catalogue.find_kind`, now."""
        return self.current.find_kind(name, kind)

    def reload(self) -> Changes:
        """Look at the folders again; what is found then is what a new registry would find. A model whose folder has
        not changed goes on undisturbed; one that goes, ends when nobody holds it any more. One thread at a time."""
        old = self.current
        models: list[Model] = []
        refused: list[Refused] = []
        folders, unreadable = model_folders(self._settings.models_dir)
        refused += _unreadable(unreadable)
        unchanged = {path: self._unchanged(path, old.models) for path in folders}
        new = [path for path in folders if unchanged[path] is None]
        reasons = self._trials.reasons(new) if self._trials is not None else {}
        for path in folders:
            try:
                if (reason := reasons.get(path)) is not None:
                    raise _RefusalError(reason)
                models.append(unchanged[path] or self._load(path))
            except _RefusalError as refusal:
                refused.append(_refused(path, refusal))
            except Exception as error:  # of our own making; it must take no other model down
                structlog.get_logger().exception("a model folder could not be opened", folder=printable(str(path)))
                reason = f"unexpected {type(error).__name__}; the log says more"
                refused.append(Refused(printable(path.parent.name), printable(path.name), reason))
        models.sort(key=_newest_first)
        self.current = Catalogue(tuple(models), tuple(refused), old.defaults)
        gone = [model for model in old.models if model not in models]
        for model in gone:
            _retire(model, self._settings.request_timeout)
        return Changes(
            loaded=tuple(model for model in models if model not in old.models),
            unloaded=tuple(model.label for model in gone),
            refused=tuple(one for one in refused if one not in old.refused),
        )

    def _unchanged(self, path: Path, loaded: tuple[Model, ...]) -> Model | None:
        """The model that is loaded from this folder already: the manifest holds the sha256 of its files, so the same
        manifest is the same model."""
        if not loaded:
            return None
        try:
            manifest = _checked_manifest(path)
            _check_all_files(path, manifest, self._settings.precision)
        except _RefusalError:
            return None
        return next((model for model in loaded if model.manifest == manifest), None)

    def _load(self, path: Path) -> Model:
        return _load(path, self._settings, self._metrics)

    def close(self) -> None:
        """End the engines."""
        for model in self.models:
            model.engine.close()


def describe_models(settings: Settings) -> Catalogue[ModelFolder]:
    """The model folders there are, none of them opened: their manifests and the sha256 of their files are checked."""
    found = _described(settings)
    models, refused = [], list(found.refused)
    for model in found.models:
        try:
            _check_all_files(model.path, model.manifest, settings.precision)
            models.append(model)
        except _RefusalError as refusal:
            refused.append(_refused(model.path, refusal))
    return Catalogue(tuple(models), tuple(refused), found.defaults)


def open_model(settings: Settings, metrics: Metrics, name: str | None, kind: Kind) -> Model:
    """Open the model that a registry finds under this name (`Catalogue.find_kind`), and no other.

    Raises:
        ModelNotFoundError, ModelRefusedError, WrongModelKindError: as `Catalogue.find_kind`.
    """
    return _first_good(settings, name, kind, lambda folder: _load(folder.path, settings, metrics))


def find_model(settings: Settings, name: str | None, kind: Kind) -> ForecastManifest | TextManifest:
    """What the model that `open_model` opens says of itself; its files are checked, but not opened.

    Raises:
        ModelNotFoundError, ModelRefusedError, WrongModelKindError: as `Catalogue.find_kind`.
    """

    def check(folder: ModelFolder) -> ForecastManifest | TextManifest:
        _check_all_files(folder.path, folder.manifest, settings.precision)
        return folder.manifest

    return _first_good(settings, name, kind, check)


def _first_good(settings: Settings, name: str | None, kind: Kind, attempt: Callable[[ModelFolder], Result]) -> Result:
    """What an attempt makes of the model that is found; where it refuses it, of the one that is found without it."""
    catalogue = _described(settings)
    while True:
        found = catalogue.find_kind(name, kind)
        try:
            return attempt(found)
        except _RefusalError as refusal:
            others = tuple(model for model in catalogue.models if model is not found)
            refused = _refused(found.path, refusal), *catalogue.refused
            catalogue = Catalogue(others, refused, catalogue.defaults)


def _described(settings: Settings) -> Catalogue[ModelFolder]:
    models: list[ModelFolder] = []
    folders, unreadable = model_folders(settings.models_dir)
    refused = _unreadable(unreadable)
    for path in folders:
        try:
            models.append(ModelFolder(path, _checked_manifest(path)))
        except _RefusalError as refusal:
            refused.append(_refused(path, refusal))
    return Catalogue(tuple(sorted(models, key=_newest_first)), tuple(refused), _defaults(settings))


def _load(path: Path, settings: Settings, metrics: Metrics) -> Model:
    opened = _opened(path, settings.precision, settings.threads)
    return Model(opened.manifest, opened.precision, _started(opened, settings, metrics))


def _defaults(settings: Settings) -> dict[Kind, str]:
    return {"forecast": settings.default_forecast_model, "text": settings.default_text_model}


def _newest_first(model: Model | ModelFolder) -> tuple[str, int]:
    return model.manifest.name, -model.manifest.version


def _unreadable(folders: Mapping[Path, str]) -> list[Refused]:
    return [Refused(printable(name.name), "", reason) for name, reason in folders.items()]


def _refused(path: Path, refusal: _RefusalError) -> Refused:
    return Refused(printable(path.parent.name), printable(path.name), str(refusal))


def _retire(model: Model, patience: float) -> None:
    """End its engine once nobody holds the model, since a request that found it may have yet to submit its work; or
    after so many seconds, when no such request has any time left."""
    released: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an event, can be told amid a garbage collection
    weakref.finalize(model, released.put, None)
    threading.Thread(target=_end, args=([model.engine], released, patience), daemon=True).start()


def _end(engines: list[Engine], released: "queue.SimpleQueue[None]", patience: float) -> None:
    gc.collect()  # the errors of past requests hold whatever those requests held
    with suppress(queue.Empty):
        released.get(timeout=patience)
    engines.pop().close()
    gc.collect()  # an engine and its scheduler hold each other, and the memory of the graph


def _checked_manifest(path: Path) -> ForecastManifest | TextManifest:
    try:
        manifest = read_manifest(path)
    except OSError as error:
        raise _RefusalError(f"{MANIFEST_FILE} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise _RefusalError(f"{MANIFEST_FILE}: {where}: {first['msg']}") from None
    if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
        raise _RefusalError(
            f"the manifest is of {manifest.name}@{manifest.version}, the folder {path.parent.name}/{path.name}"
        )
    return manifest


@dataclass(frozen=True)
class _Opened:
    """A model's graphs, which have been tried out."""

    manifest: ForecastManifest | TextManifest
    precision: Precision
    graph: Graph
    runner: Runner
    decoding: Decoding | None

    def smoke_test(self) -> None:
        """A few real steps.

        Raises:
            GraphMismatchError: they give what they should not.
            ModelFailedError: they fail.
        """
        states = _try_out(self.runner, self.manifest, self.graph)
        if self.decoding is not None:
            assert isinstance(self.manifest, TextManifest)
            _try_out_decoding(self.decoding, states, len(self.manifest.vocabulary))


def reason_to_refuse(path: Path, precision: str, threads: int) -> str | None:
    """Why a model folder is refused; None if it is not."""
    try:
        _opened(path, precision, threads)
    except _RefusalError as refusal:
        return str(refusal)
    return None


def _opened(path: Path, wanted: str, threads: int) -> _Opened:
    manifest = _checked_manifest(path)
    graph, decode, precision = _chosen(manifest, wanted)
    _check_all_files(path, manifest, wanted)
    if decode is not None:
        _check_controls(decode)
    decoding = None
    try:
        runner = Runner(path, graph, threads)
        if isinstance(manifest, TextManifest) and decode is not None:
            decoding = Decoding(Runner(path, decode, threads), CharacterDecoder(manifest.vocabulary))
        opened = _Opened(manifest, precision, graph, runner, decoding)
        opened.smoke_test()
    except (GraphMismatchError, CarryError) as error:
        raise _RefusalError(str(error)) from error
    except (ValueError, MemoryError) as error:  # NumPy's, of a shape that no array can have
        raise _RefusalError(f"{MANIFEST_FILE} describes tensors that cannot be made") from error
    return opened


def _started(opened: _Opened, settings: Settings, metrics: Metrics) -> Engine:
    manifest = opened.manifest
    return Engine(
        manifest.name,
        opened.runner,
        opened.decoding,
        any_split=isinstance(manifest, TextManifest),  # a forecaster's running sums round by where they were cut
        most_work=settings.max_waiting_steps,
        metrics=metrics.engine(f"{manifest.name}@{manifest.version}"),
        chunk=min(CHUNK, opened.graph.max_steps),
        smoke_test=opened.smoke_test,
    )


def _check_all_files(path: Path, manifest: ForecastManifest | TextManifest, wanted: str) -> None:
    graph, decode, _ = _chosen(manifest, wanted)
    for file in (graph, decode):
        if file is not None:
            _check_files(path, file)


def _check_files(path: Path, graph: Graph) -> None:
    for part in (graph, graph.weights):
        if part is None:
            continue
        try:
            if (reason := reason_not_regular(path / part.file)) is not None:
                raise _RefusalError(f"{part.file} {reason}")
            found = sha256_of(path / part.file)
        except OSError as error:
            raise _RefusalError(f"{part.file} cannot be read: {error.strerror}") from None
        if found != part.sha256:
            raise _RefusalError(
                f"{part.file} is not the file that was exported: its sha256 is {found}, not {part.sha256}"
            )
    named = {graph.weights.file} if graph.weights is not None else set()
    others = _external_files(path / graph.file) - named
    if others:
        raise _RefusalError(
            f"{graph.file} has weights in files that the manifest does not name: {', '.join(sorted(others))}"
        )


def _check_controls(decode: Graph) -> None:
    """An earlier version of Carry may have exported a graph without the newest controls."""
    missing = controls([SamplingParams()], vocabulary=1).keys() - {tensor.name for tensor in decode.inputs}
    if missing:
        raise _RefusalError(
            f"{decode.file} does not take {', '.join(sorted(missing))}: an earlier version of Carry exported it; train "
            "it anew, `--start-from` goes on from its weights"
        )


def _external_files(graph: Path) -> set[str]:
    """The files that hold an ONNX file's external data: entries "location" of its tensors, as protobuf writes them."""
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {
            content[match.end() : match.end() + match[1][0]].decode(errors="backslashreplace")
            for match in re.finditer(rb"\x0a\x08location\x12(.)", content, re.DOTALL)
        }


def _chosen(manifest: ForecastManifest | TextManifest, wanted: str) -> tuple[Graph, Graph | None, Precision]:
    """The graphs to serve: as wanted, else ("auto") as the export judged, if this processor multiplies int8 exactly."""
    if manifest.int8 is not None and (
        wanted == "int8" or (wanted == "auto" and manifest.int8.default and int8_is_exact())
    ):
        return manifest.int8.graph, manifest.int8.decode, "int8"
    return manifest.graph, manifest.decode if isinstance(manifest, TextManifest) else None, "float32"


def _try_out(runner: Runner, manifest: ForecastManifest | TextManifest, graph: Graph) -> States:
    """Two real steps, so that a graph which cannot run, or answers in another shape, is refused and not ready."""
    inputs: dict[str, Array]
    outputs: dict[str, tuple[int, ...]]
    if isinstance(manifest, ForecastManifest):
        inputs = {
            tensor.name: np.ones((1, *(2 if size == "T" else int(size) for size in tensor.shape)), dtype=tensor.dtype)
            for tensor in graph.inputs
            if tensor.name not in ("lengths", "per_step")
        }
        outputs = {
            "quantiles": (1, manifest.horizon, len(manifest.quantile_levels)),
            "one_step": (1, 2, len(manifest.quantile_levels)),
        }
    else:
        inputs = {"tokens": np.zeros((1, 2), dtype=np.int64)}
        outputs = {"logits": (1, len(manifest.vocabulary)), "logits_all": (1, 2, len(manifest.vocabulary))}
    found, states = runner.read(inputs, np.array([2]), runner.fresh(1), list(outputs))
    for array, (name, expected) in zip(found, outputs.items(), strict=True):
        if array.shape != expected:
            raise GraphMismatchError(f"{graph.file}: {name} has the shape {array.shape}, not {expected}")
        if not np.isfinite(array).all():
            raise GraphMismatchError(f"{graph.file}: {name} is not finite for ordinary input")
    return states


def _try_out_decoding(decoding: Decoding, states: States, vocabulary: int) -> None:
    """As `_try_out`, of two characters."""
    params = controls([SamplingParams()], vocabulary)
    steps = {"uniforms": np.full((2, 1), 0.5, dtype=np.float32), "given_tokens": np.array([[0], [-1]])}
    found, _ = decoding.runner.run({**params, **steps}, decoding.runner.fresh(1) | states, decoding.decoder.outputs)
    if [array.shape for array in found] != [(2, 1), (2, 1, vocabulary)]:
        raise GraphMismatchError(f"the graph that decodes gives the shapes {[array.shape for array in found]}")
    if not ((found[0] >= 0) & (found[0] < vocabulary)).all():
        raise GraphMismatchError("the graph that decodes gives tokens that are not in the vocabulary")

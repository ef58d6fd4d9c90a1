"""Models in this process, without a server: answers the requests of the interface by the service's own code below HTTP,
on the service's own engine. So its answers are the service's, to the bit. Knows no HTTP and no data frames.
"""

import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from pydantic import BaseModel, ValidationError

from carry.calls import Call, Request, Response
from carry.interface import Interface
from carry.local_sessions import LocalSessions, Start
from service.engine.sequence import EMPTY_STATE, SequenceState
from service.errors import (
    CarryError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelRefusedError,
    NotReadyError,
    WrongModelKindError,
)
from service.forecast.kind import FORECAST
from service.kind import Kind, Model
from service.manifest import Manifest
from service.registry import ModelFolder, find_folder, open_folder
from service.settings import Settings
from service.validation import as_invalid_request

if TYPE_CHECKING:
    from carry.local_texts import LocalEvents
    from service.metrics import EngineMetrics

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)
Finish = Callable[[], Response]
"""Waits for the engine, and makes the answer."""
Route = Callable[["LocalPlace", Request], Finish]
"""Validates a request and submits its task. It raises a CarryError if the request is refused."""


class LocalModel(Interface):
    """A model in this process. Any thread may call it. Close it when done, or use it as a context manager."""

    def __init__(self, place: "LocalPlace") -> None:
        super().__init__(place)
        self._local = place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<carry model {self.name}>"

    @property
    def name(self) -> str:
        """name@version."""
        return self._local.manifest.label

    @property
    def manifest(self) -> Manifest:
        """What the model's folder says: its features and levels, or its vocabulary; its training and metrics."""
        return self._local.manifest

    def close(self) -> None:
        """End the engine, once it has finished what it runs. The model's sessions end with it."""
        self._local.close()


def load(name: str = "forecast", models_dir: str | os.PathLike[str] | None = None) -> LocalModel:
    """A model in this process: "name" (its newest version), "name@version", or the kind, "forecast" or "text", for its
    default model.

    models_dir: the folder of model folders, <name>/<version>/; if absent, CARRY_MODELS_DIR, else `models` in the
    current directory and the models that come with Carry.

    The graph opens in the background; the first call waits for it.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelRefusedError: its folder fails a check of the manifest or of the files. (If the graph itself cannot be
            opened, it is the first call that raises it.)
    """
    settings = Settings() if models_dir is None else Settings(models_dir=Path(models_dir))
    # All series of a data frame wait at once.
    settings = settings.model_copy(update={"max_waiting_steps": sys.maxsize})
    folder, kinds = _find(settings, name)
    opening: Future[Model[Any]] = Future()

    def open_model() -> None:
        try:
            opening.set_result(open_folder(folder, settings, kinds, _Unmeasured()))
        except BaseException as error:
            opening.set_exception(error)

    # No daemon: an interpreter that ends while ONNX Runtime opens a graph would abort, so that it waits.
    threading.Thread(target=open_model, name=f"open {folder.label}").start()
    return LocalModel(LocalPlace(folder.manifest, folder.kind, opening, settings))


def _find(settings: Settings, name: str) -> tuple[ModelFolder[Any], Sequence[Kind[Any]]]:
    """The folder of a model, and the kinds of model that were looked for. The code of texts takes a fifth of the time
    in which a forecaster loads, so it is imported only if no forecaster has the name."""
    try:
        return find_folder(settings, (FORECAST,), name), (FORECAST,)
    except (ModelNotFoundError, ModelRefusedError):
        from service.kinds import KINDS

        return find_folder(settings, KINDS, name), KINDS


_MODULES = {"forecast": "carry.local_series", "text": "carry.local_texts", "classify": "carry.local_classes"}
"""What answers calls, by the kind of model."""


class _Unmeasured:
    """Instruments that nobody reads. Those of Prometheus take time to import."""

    def engine(self, model: str) -> "EngineMetrics":
        """Instruments for an engine."""
        return cast("EngineMetrics", self)

    def __getattr__(self, name: str) -> Self:
        return self

    def inc(self, amount: float = 1) -> None:
        """Count nothing."""

    def set(self, value: float) -> None:
        """Record nothing."""

    def observe(self, amount: float) -> None:
        """Record nothing."""


class LocalPlace:
    """Answers requests by one model, whose graph may be opening yet."""

    def __init__(self, manifest: Manifest, kind: Kind[Any], opening: "Future[Model[Any]]", settings: Settings) -> None:
        self.manifest = manifest
        self.settings = settings
        self._kind = kind
        self._opening = opening
        self._sessions = LocalSessions(manifest, settings)
        self._closed = False
        # A model that nobody holds ends by itself; so does every model at the end of the process, where a thread that
        # still runs the graph would abort it.
        self._end = weakref.finalize(self, _end, opening)

    @property
    def model(self) -> Model[Any]:
        """The model, once its graph is open.

        Raises:
            ModelRefusedError: the graph cannot be opened.
            NotReadyError: the model is closed.
        """
        if self._closed:
            raise NotReadyError("the model is closed")
        return self._opening.result()

    def close(self) -> None:
        """As `LocalModel.close`."""
        self._closed = True
        self._sessions.clear()
        self._end()

    def run(self, call: Call[T]) -> T:
        """As `Place.run`."""
        try:
            requests = next(call)
            while True:
                requests = call.send(self._answer(requests))
        except StopIteration as result:
            value: T = result.value
            return value

    def stream(self, request: Request) -> "LocalEvents":
        """As `Place.stream`."""
        self._route("generate")
        from carry.local_texts import stream

        return stream(self, request)

    def start(self, request: Request) -> Start:
        """Where a call starts, as `LocalSessions.start`."""
        self.check_name((request.body or {}).get("model"))
        return self._sessions.start(request, self.model.codec)

    def end(self, start: Start, after: SequenceState) -> dict[str, Any]:
        """Where a call ends, as `LocalSessions.end`."""
        return self._sessions.end(start, after, self.model.codec)

    def check_name(self, name: str | None) -> None:
        """Check that a request names this model, or none.

        Raises:
            InvalidRequestError: it names another one.
        """
        if name not in (None, self.manifest.name, self.manifest.label):
            detail = f"this model is {self.manifest.label}: name that one, or leave `model` out"
            raise InvalidRequestError(detail, "$.model")

    def _answer(self, requests: Sequence[Request]) -> list[Response | CarryError]:
        """The answers to independent requests, in their order. All of them wait in the engine at once, those of equal
        length together, so that it batches them."""
        pending: dict[int, Finish] = {}
        answers: dict[int, Response | CarryError] = {}
        for i in sorted(range(len(requests)), key=lambda i: -_length(requests[i])):
            try:
                pending[i] = self._begin(requests[i])
            except CarryError as error:
                answers[i] = _noted(error)
        for i, finish in pending.items():
            try:
                answers[i] = finish()
            except CarryError as error:
                answers[i] = _noted(error)
        return [answers[i] for i in range(len(requests))]

    def _begin(self, request: Request) -> Finish:
        match request.path.split("/")[1:]:
            case ["sessions"]:
                return self._create(request)
            case ["sessions", *_]:
                answer = self._sessions.answer(request, self.model)
            case ["models", *name]:
                answer = self._describe(*name)
            case [route]:
                return self._route(route)(self, request)
            case _:
                raise AssertionError(f"the interface makes no such request: {request.method} {request.path}")
        return lambda: Response(answer)

    def _route(self, name: str) -> Route:
        """What answers requests to a path.

        Raises:
            WrongModelKindError: models of another kind do.
        """
        # Imported late: it imports this module, and the code of its kind.
        module = import_module(_MODULES[self._kind.name])
        routes: Mapping[str, Route] = module.ROUTES
        if name not in routes:
            detail = f"{self.manifest.label} is a {self._kind.name} model, which answers: {', '.join(routes)}"
            raise WrongModelKindError(detail, "$.model")
        return routes[name]

    def _create(self, request: Request) -> Finish:
        """A new session: with an input, from an exported state, or empty."""
        body = dict(request.body or {})
        self.check_name(body.pop("model", None))
        model, state = self.model, body.pop("state", None)
        if not model.graphs.state:
            raise InvalidRequestError(f"{model.label} reads whole sequences only: it has no sessions", "$.model")
        wrong = next((name for name in body if name not in self._kind.first_input.model_fields), None)
        if wrong is not None:
            raise WrongModelKindError(f"{model.label} is a {self._kind.name} model", f"$.{wrong}")
        if not body.keys() & {*self._kind.inputs}:
            payload = self._sessions.payload(state, model.codec) if state else model.codec.encode(EMPTY_STATE)
            return lambda: Response(self._sessions.create(payload))
        first = self._kind.prepare_first_input(_validated(self._kind.first_input, body), model, self.settings)
        pending = model.engine.submit(first.task, first.steps)
        return lambda: Response(self._sessions.create(model.codec.encode(pending.result())))

    def _describe(self, name: str | None = None) -> dict[str, Any]:
        """`GET /models`, and `GET /models/{name}`."""
        if name is None:
            return {"models": [{"name": self.manifest.name, "kind": self._kind.name, "default": True}]}
        self.check_name(name)
        return {"manifest": self.manifest.model_dump(mode="json", include={"features", "known_ahead"})}


def _end(opening: "Future[Model[Any]]") -> None:
    """End an engine, once its graph is open and it has finished what it runs."""

    def end(opened: "Future[Model[Any]]") -> None:
        if opened.exception() is not None:
            return
        engine = opened.result().engine
        if threading.current_thread() is engine.thread:  # garbage is collected on any thread
            threading.Thread(target=engine.close).start()
        else:
            engine.close()

    opening.add_done_callback(end)


def read_body(schema: type[Body], request: Request) -> Body:
    """The body of a request, validated as the service validates it.

    Raises:
        InvalidRequestError: a field is not acceptable.
    """
    return _validated(schema, request.body)


def _validated(schema: type[Body], body: Any) -> Body:
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise as_invalid_request(error, ()) from None


def _noted(error: CarryError) -> CarryError:
    """The error, with a note of its field and code, which Python prints below the message."""
    error.add_note(f"field: {error.path}; code: {error.code}" if error.path else f"code: {error.code}")
    return error


def _length(request: Request) -> int:
    """About how many values a request reads."""
    body = request.body or {}
    sequence = body.get("series", body.get("text"))
    return len(sequence) if isinstance(sequence, list | str) else 0

"""Models in this process, without a server: answers the requests of the interface by the service's own code below HTTP,
on the service's own engine. So its answers are the service's, to the bit. Knows no HTTP and no data frames.
"""

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import orjson
from pydantic import BaseModel, ValidationError

from carry.calls import Call, Request, Response
from carry.interface import Interface
from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import (
    CarryError,
    InvalidRequestError,
    InvalidStateError,
    NotReadyError,
    SessionConflictError,
    SessionModelError,
    SessionNotFoundError,
    VersionMismatchError,
    VersionNotKeptError,
    WrongModelKindError,
)
from service.forecast.kind import FORECAST
from service.forecast.prepare import prepare_anomalies, prepare_backtest, prepare_forecast
from service.forecast.schemas import AnomalyBody, CrossValidationBody, ForecastBody
from service.kind import Kind, Model
from service.kinds import KINDS
from service.manifest import Manifest
from service.registry import find_folder, open_folder
from service.sessions.state import read_header, sign_state, split_signed
from service.settings import Settings
from service.text.answers import logprob_dicts
from service.text.kind import TEXT
from service.text.prepare import (
    PreparedGeneration,
    PreparedPrediction,
    check_generate,
    check_positions,
    check_predict,
    read_texts,
    texts_of_generate,
    texts_of_predict,
)
from service.text.schemas import GenerateBody, PredictBody
from service.text.streaming import UnsentText
from service.validation import as_invalid_request

if TYPE_CHECKING:
    from service.http.schemas import StatefulBody
    from service.metrics import EngineMetrics

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)
Finish = Callable[[], Response]
"""Waits for the engine, and makes the answer."""


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
    folder = find_folder(settings, KINDS, name)
    opening: Future[Model[Any]] = Future()

    def open_model() -> None:
        try:
            opening.set_result(open_folder(folder, settings, KINDS, _Unmeasured()))
        except BaseException as error:
            opening.set_exception(error)

    threading.Thread(target=open_model, name=f"open {folder.label}", daemon=True).start()
    return LocalModel(LocalPlace(folder.manifest, folder.kind, opening, settings))


class _Unmeasured:
    """Instruments that nobody reads. Those of Prometheus take time to import."""

    def engine(self, model: str) -> "EngineMetrics":
        return cast("EngineMetrics", self)

    def __getattr__(self, name: str) -> "_Unmeasured":
        return self

    def inc(self, amount: float = 1) -> None:
        pass

    def set(self, value: float) -> None:
        pass


@dataclass
class _Session:
    """A session of this process: the encoded states of its versions, the newest last."""

    version: int
    states: dict[int, bytes]
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def state(self) -> bytes:
        return self.states[self.version]

    def fields(self, manifest: Manifest) -> dict[str, Any]:
        """Those of a `SessionAnswer` that do not speak of time."""
        model = {"name": manifest.name, "version": manifest.version}
        position = read_header(self.state)[0].position
        return {"id": self.id, "model": model, "version": self.version, "position": position}


@dataclass(frozen=True)
class _Run:
    """A call that goes on from a state, with the session's version at that point if there is one."""

    start: SequenceState
    returns_state: bool
    session: _Session | None = None
    version: int = 0


class LocalPlace:
    """Answers requests by one model. Its sessions follow the rules of the service's (versions, If-Match, states), but
    live as long as the model does."""

    def __init__(self, manifest: Manifest, kind: Kind[Any], opening: "Future[Model[Any]]", settings: Settings) -> None:
        self.manifest = manifest
        self._kind = kind
        self._opening = opening
        self._settings = settings
        self._state_key = settings.state_key.get_secret_value().encode() if settings.state_key else os.urandom(32)
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()
        """Held while sessions change."""
        self._closed = False

    def close(self) -> None:
        """As `LocalModel.close`."""
        self._closed = True
        self._sessions.clear()
        if self._opening.exception() is None:
            self._opening.result().engine.close()

    def run(self, call: Call[T]) -> T:
        """As `Place.run`."""
        try:
            requests = next(call)
            while True:
                requests = call.send(self.answer(requests))
        except StopIteration as result:
            value: T = result.value
            return value

    def answer(self, requests: Sequence[Request]) -> list[Response | CarryError]:
        """The answers to independent requests, in their order. All of them wait in the engine at once, those of equal
        length together, so that it batches them."""
        answers: list[Response | CarryError] = [_UNANSWERED] * len(requests)
        finishes: dict[int, Finish] = {}
        for i in sorted(range(len(requests)), key=lambda i: -_length(requests[i])):
            try:
                finishes[i] = self._begin(requests[i])
            except CarryError as error:
                answers[i] = error
        for i, finish in finishes.items():
            try:
                answers[i] = finish()
            except CarryError as error:
                answers[i] = error
        return answers

    def stream(self, request: Request) -> Iterator[dict[str, Any]]:
        """As `Place.stream`."""
        body = _read(GenerateBody, request)
        run = self._resume(body, request)
        updated = threading.Event()
        prepared = self._prepare_generation(body, run, lambda _: updated.set())
        pending = self._submit(prepared.task, prepared.steps)
        pending.add_done_callback(lambda _: updated.set())
        return self._events(body, run, prepared, pending, updated)

    def _events(
        self,
        body: GenerateBody,
        run: _Run,
        prepared: PreparedGeneration,
        pending: "Future[SequenceState]",
        updated: threading.Event,
    ) -> Iterator[dict[str, Any]]:
        unsent = UnsentText(prepared.model.manifest.tokenizer, prepared.rows, body.logprobs)
        try:
            done = False
            while not done:
                updated.wait()
                updated.clear()
                done = pending.done()
                if done:
                    pending.result()
                for delta in unsent.deltas():
                    if delta.text:
                        logprobs = {"logprobs": logprob_dicts(delta.logprobs)} if body.logprobs else {}
                        yield {"index": delta.index, "text": delta.text} | logprobs
            yield _json(prepared.summary() | self._end(run, pending.result()))
        finally:
            pending.cancel()

    def _begin(self, request: Request) -> Finish:
        """Validate a request, and submit its task.

        Raises:
            CarryError: it is refused.
        """
        match request.method, request.path.split("/")[1:]:
            case "POST", ["forecast"]:
                return self._forecast(request)
            case "POST", ["anomalies"]:
                return self._anomalies(request)
            case "POST", ["cross_validation"]:
                return self._backtest(request)
            case "POST", ["generate"]:
                return self._generate(request)
            case "POST", ["predict"]:
                return self._predict(request)
            case "POST", ["sessions"]:
                return self._create(request.body or {})
            case method, ["sessions", id, *rest]:
                with self._lock:
                    answer = self._change(method, "/".join(rest), self._find(id, request.headers), request.body or {})
                return lambda: Response(answer)
            case "GET", ["models", *name]:
                answer = self._describe(*name)
                return lambda: Response(answer)
        raise AssertionError(f"the interface makes no such request: {request.method} {request.path}")

    def _forecast(self, request: Request) -> Finish:
        body = _read(ForecastBody, request)
        run = self._resume(body, request)
        prepared = prepare_forecast(body, self._model(FORECAST), run.start, run.returns_state, self._settings)
        pending = self._submit(prepared.task(), prepared.request.cost_steps)

        def finish() -> Response:
            result = pending.result()
            return Response(prepared.answer(result) | self._end(run, result.after))

        return finish

    def _anomalies(self, request: Request) -> Finish:
        body = _read(AnomalyBody, request)
        run = self._resume(body, request)
        prepared = prepare_anomalies(body, self._model(FORECAST), run.start, self._settings)
        pending = self._submit(prepared.task(), prepared.request.cost_steps)

        def finish() -> Response:
            result = pending.result()
            return Response(prepared.answer(result) | self._end(run, result.after))

        return finish

    def _backtest(self, request: Request) -> Finish:
        body = _read(CrossValidationBody, request)
        self._check_name(body.model)
        prepared = prepare_backtest(body, self._model(FORECAST), self._settings)
        pending = self._submit(prepared.task(), prepared.request.cost_steps)

        def finish() -> Response:
            result = pending.result()
            return Response(prepared.answer(result, [*prepared.windows(result)]))

        return finish

    def _generate(self, request: Request) -> Finish:
        body = _read(GenerateBody, request)
        run = self._resume(body, request)
        prepared = self._prepare_generation(body, run)
        pending = self._submit(prepared.task, prepared.steps)

        def finish() -> Response:
            after = pending.result()
            answer = prepared.answer(prepared.choices(body.logprobs))
            return Response(_json(answer | self._end(run, after)))

        return finish

    def _prepare_generation(
        self, body: GenerateBody, run: _Run, listener: Callable[[Any], None] | None = None
    ) -> PreparedGeneration:
        model = self._model(TEXT)
        check_generate(body, self._settings)
        texts = read_texts(model.manifest.tokenizer, texts_of_generate(body), body.unknown)
        return PreparedGeneration(body, model, run.start, run.returns_state, texts, listener)

    def _predict(self, request: Request) -> Finish:
        body = _read(PredictBody, request)
        run, model = self._resume(body, request), self._model(TEXT)
        check_predict(body, self._settings)
        check_positions(body, model, self._settings)
        texts = read_texts(model.manifest.tokenizer, texts_of_predict(body), body.unknown)
        prepared = PreparedPrediction(body, model, run.start, texts)
        pending = self._submit(prepared.task, prepared.steps)

        def finish() -> Response:
            scored = pending.result()
            answer = prepared.answer(scored, prepared.predictions(scored))
            return Response(_json(answer | self._end(run, scored.after)))

        return finish

    def _create(self, body: dict[str, Any]) -> Finish:
        """A new session: with an input, from an exported state, or empty."""
        self._check_name(body.get("model"))
        model, first = self._opened(), body.get(_FIRST[self._kind.name])
        wrong = next((field for field in _FIRST.values() if field in body and field != _FIRST[self._kind.name]), None)
        if wrong is not None:
            raise WrongModelKindError(f"{model.label} is a {self._kind.name} model", f"$.{wrong}")
        if first is not None:
            fields = {name: value for name, value in body.items() if name != "model"}
            try:
                prepared = self._kind.prepare_first_input(
                    self._kind.first_input.model_validate(fields), model, self._settings
                )
            except ValidationError as error:
                raise as_invalid_request(error, ()) from None
            pending = self._submit(prepared.task, prepared.steps)
            return lambda: self._created(model.codec.encode(pending.result()))
        state = body.get("state")
        payload = self._payload(state) if state else model.codec.encode(EMPTY_STATE)
        return lambda: self._created(payload)

    def _created(self, payload: bytes) -> Response:
        session = _Session(0, {0: payload})
        self._sessions[session.id] = session
        return Response(session.fields(self.manifest))

    def _change(self, method: str, path: str, session: _Session, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request about a session."""
        match method, path:
            case "GET", "":
                versions = [{"version": version} for version in reversed([*session.states][:-1])]
                return session.fields(self.manifest) | {"versions": versions}
            case "GET", "state":
                return {"state": sign_state(session.state, self._state_key)}
            case "PUT", "state":
                self._commit(session, self._payload(body["state"]))
            case "POST", "fork":
                return self._created(session.state).body
            case "POST", "rewind":
                if body["version"] not in session.states:
                    kept = ", ".join(map(str, reversed([*session.states][:-1]))) or "none"
                    detail = f"version {body['version']} is not stored; the session is at {session.version}"
                    raise VersionNotKeptError(f"{detail}, earlier versions: {kept}", "$.version")
                self._commit(session, session.states[body["version"]])
            case "DELETE", "":
                del self._sessions[session.id]
                return {}
            case _:
                raise AssertionError(f"the interface makes no such request: {method} {path}")
        return session.fields(self.manifest)

    def _commit(self, session: _Session, payload: bytes) -> None:
        session.states[session.version + 1] = payload
        session.version += 1
        for version in [*session.states][: -1 - self._settings.session_versions]:
            del session.states[version]

    def _describe(self, name: str | None = None) -> dict[str, Any]:
        """`GET /models`, and `GET /models/{name}`."""
        if name is None:
            return {"models": [{"name": self.manifest.name, "kind": self._kind.name, "default": True}]}
        self._check_name(name)
        return {"manifest": self.manifest.model_dump(mode="json", include={"features", "known_ahead"})}

    def _resume(self, body: "StatefulBody", request: Request) -> _Run:
        """The state that a call goes on from."""
        self._check_name(body.model)
        if body.session_id is not None:
            with self._lock:
                session = self._find(body.session_id, request.headers)
                state, version = session.state, session.version
            return _Run(self._opened().codec.decode(state), body.commit, session, version)
        if not body.state:
            return _Run(EMPTY_STATE, body.state is not None and body.commit)
        return _Run(self._opened().codec.decode_untrusted(self._payload(body.state)), body.commit)

    def _end(self, run: _Run, after: SequenceState) -> dict[str, Any]:
        """The fields of an answer about its session or state. Moves the session.

        Raises:
            SessionConflictError: another call moved it meanwhile.
        """
        payload = self._opened().codec.encode(after) if run.returns_state else b""
        if run.session is None:
            return {"session": None, "state": sign_state(payload, self._state_key) if run.returns_state else None}
        with self._lock:
            if run.returns_state:
                if run.session.version != run.version:
                    detail = "another call updated the session; this one changed nothing"
                    raise SessionConflictError(detail, "$.session_id")
                self._commit(run.session, payload)
            return {"session": run.session.fields(self.manifest), "state": None}

    def _find(self, id: str, headers: Mapping[str, str]) -> _Session:
        session = self._sessions.get(id)
        if session is None:
            raise SessionNotFoundError("no such session", "$.session_id")
        if headers.get("If-Match", f'"{session.version}"') != f'"{session.version}"':
            raise VersionMismatchError(f"the session is at version {session.version}; nothing was changed", "If-Match")
        return session

    def _payload(self, state: str) -> bytes:
        """The encoded state in an exported one, of this process or of a service. Its signature is not checked: it keeps
        callers of a service from forging states, and here the caller is the owner.

        Raises:
            InvalidStateError: it is damaged.
            SessionModelError: it is of another model.
        """
        try:
            payload, _ = split_signed(state)
            self._opened().codec.decode_untrusted(payload)
        except (InvalidStateError, SessionModelError) as error:
            error.path = "$.state"
            raise
        return payload

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self.manifest.name, self.manifest.label):
            detail = f"this model is {self.manifest.label}: name that one, or leave `model` out"
            raise InvalidRequestError(detail, "$.model")

    def _model(self, kind: Kind[Any]) -> Model[Any]:
        """The model, for a call that needs this kind.

        Raises:
            WrongModelKindError: it is of another kind.
        """
        if self._kind is not kind:
            detail = f"{self.manifest.label} is a {self._kind.name} model; this call needs a {kind.name} model"
            raise WrongModelKindError(detail, "$.model")
        return self._opened()

    def _opened(self) -> Model[Any]:
        if self._closed:
            raise NotReadyError("the model is closed")
        return self._opening.result()

    def _submit(self, task: Task[T], steps: int) -> "Future[T]":
        return self._opened().engine.submit(task, steps)


_UNANSWERED = Response({})
_FIRST = {"forecast": "series", "text": "prompt"}
"""The field of a session's first input, by kind."""


def _read(schema: type[Body], request: Request) -> Body:
    """The body, validated as the service validates it.

    Raises:
        InvalidRequestError: a field is not acceptable.
    """
    try:
        return schema.model_validate(request.body)
    except ValidationError as error:
        raise as_invalid_request(error, ()) from None


def _length(request: Request) -> int:
    """About how many values a request reads."""
    series = (request.body or {}).get("series")
    return len(series) if isinstance(series, list) else 0


def _json(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as its JSON says it: parts of it are written as JSON already."""
    values: dict[str, Any] = orjson.loads(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))
    return values

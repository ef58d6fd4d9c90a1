"""POST /classify and POST /classify/batch: which class a sequence is."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from pydantic import ValidationError

from service.classify.kind import CLASSIFY
from service.classify.prepare import PreparedClassification, check_sequential, prepare_classification
from service.classify.schemas import ClassifyAnswer, ClassifyBatchAnswer, ClassifyBatchBody, ClassifyBody
from service.classify.task import Classification
from service.engine.sequence import EMPTY_STATE
from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.http.context import TIMEOUT_HEADERS, WRITE_HEADERS, Context
from service.http.json_pieces import json_fragments, json_pieces, large_json_answer
from service.http.json_route import JsonRoute, to_json
from service.http.offload import take_turns, wait_all
from service.http.problems import documented, problem_of
from service.http.replies import stateful
from service.http.state import AppState
from service.http.stateful import resume
from service.validation import as_invalid_request

router = APIRouter(tags=["classes"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "a series": {"value": {"series": [0.1, 0.4, 0.9, 1.2, 0.8, None, 0.2], "top_k": 2}},
    "a text": {"value": {"text": "The house stood on a slight rise.", "top_k": 2}},
}
BATCH_EXAMPLES: dict[str, Example] = {
    "two texts": {"value": {"requests": [{"text": "The house"}, {"text": "Das Haus"}], "top_k": 1}}
}


@router.post(
    "/classify",
    operation_id="classify",
    summary="Classify a series or a text",
    response_model=ClassifyAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
@stateful
async def post_classify(body: Annotated[ClassifyBody, Body(openapi_examples=EXAMPLES)], call: Context) -> Response:
    """Say which class a series or a text is, with calibrated probabilities. With a session, send only what is new."""
    async with resume(call, body, CLASSIFY) as run:
        check_sequential(run.model.manifest, body)
        prepared = prepare_classification(body, run.model, run.start, run.returns_state, call.app.settings)
        run.hold(prepared.max_bytes, "$.text" if run.model.manifest.reads_text else "$.series")
        result = await run.submit(prepared.task(), prepared.request.cost_steps)
        call.app.metrics.count(run.model.label, prepared.request.steps, 0)
        answer = await json_fragments(prepared.answer(result), call.deadline)
        ending = run.ending(result.after)
        return await run.commit(ending, to_json({**answer, **ending.fields}))


@router.post(
    "/classify/batch",
    operation_id="classify_batch",
    summary="Classify many sequences in one call",
    response_model=ClassifyBatchAnswer,
    openapi_extra=TIMEOUT_HEADERS,
    responses=documented(400, 401, 413, 422, 429, 503, 504),
)
async def post_classify_batch(
    body: Annotated[ClassifyBatchBody, Body(openapi_examples=BATCH_EXAMPLES)], call: Context, request: Request
) -> Response:
    """Classify many sequences in one call. The result of an invalid item is a problem; the others have their class."""
    app = call.app
    limit = app.settings.max_batch_requests
    if len(body.requests) > limit:
        raise LimitExceededError(f"at most {limit} requests in one call", "$.requests")
    items: list[PreparedClassification | CarryError] = []
    steps = numbers = 0
    async for item in take_turns(_read_items(body, app), call.deadline):
        if isinstance(item, PreparedClassification):
            steps += item.request.cost_steps
            numbers += item.top_k * (item.request.steps if item.request.per_step else 1)
        if steps > app.settings.max_waiting_steps:
            raise LimitExceededError(f"at most {app.settings.max_waiting_steps} steps to read", "$.requests")
        if numbers > app.settings.max_batch_answer_items:
            raise LimitExceededError(f"at most {app.settings.max_batch_answer_items} probabilities", "$.requests")
        items.append(item)
    valid = {i: item for i, item in enumerate(items) if isinstance(item, PreparedClassification)}
    if valid:
        call.hold(sum(item.max_bytes for item in valid.values()), "$.requests", next(iter(valid.values())).model.engine)

    def submit(i: int) -> "Future[Classification]":
        return call.submit(valid[i].model.engine, valid[i].task(), valid[i].request.cost_steps)

    results = await wait_all({i: item.request.steps for i, item in valid.items()}, submit)
    for future in results.values():
        error = future.exception()
        if isinstance(error, CarryError) and error.status >= 500:
            raise error  # the others would fail alike
    return await large_json_answer(_answer(items, results, app, request), call.deadline)


def _read_items(batch: ClassifyBatchBody, app: AppState) -> Iterator[PreparedClassification | CarryError]:
    """Each item, prepared, or its error."""
    shared = batch.model_dump(exclude_unset=True, exclude={"requests"})
    for i, item in enumerate(batch.requests):
        try:
            body = ClassifyBody.model_validate({**shared, **item} if isinstance(item, dict) else item)
            for name in ("session_id", "state"):
                if getattr(body, name) is not None:
                    raise InvalidRequestError("items of a batch have no session and no state", f"$.{name}")
            model = app.registry.find_kind(body.model, CLASSIFY)
            yield prepare_classification(body, model, EMPTY_STATE, False, app.settings)
        except ValidationError as error:
            yield as_invalid_request(error, ("requests", i))
        except CarryError as error:
            yield _with_index(error, i)


def _answer(
    items: list[PreparedClassification | CarryError],
    results: "dict[int, Future[Classification]]",
    app: AppState,
    request: Request,
) -> Iterator[bytes]:
    """The answer's JSON, in pieces."""
    for i, item in enumerate(items):
        yield b"," if i else b'{"results":['
        if isinstance(item, CarryError):
            yield to_json(problem_of(item, request))
            continue
        try:
            result = results.pop(i).result()
        except CarryError as error:
            yield to_json(problem_of(_with_index(error, i), request))
        else:
            app.metrics.count(item.model.label, item.request.steps, 0)
            yield from json_pieces({**item.answer(result), "session": None, "state": None})
    yield b"]}"


def _with_index(error: CarryError, i: int) -> CarryError:
    """The error of an item, with its path in the whole body."""
    error.path = error.path and f"$.requests[{i}]{error.path[1:]}"
    return error

"""POST /classify and POST /classify/batch: which class a sequence is."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.classify.kind import CLASSIFY
from service.classify.prepare import PreparedClassification, check_sequential, prepare_classification
from service.classify.schemas import ClassifyAnswer, ClassifyBatchAnswer, ClassifyBatchBody, ClassifyBody
from service.classify.task import Classification
from service.engine.sequence import EMPTY_STATE
from service.errors import InvalidRequestError, LimitExceededError
from service.http.batches import read_items, run_batch
from service.http.context import TIMEOUT_HEADERS, WRITE_HEADERS, Context
from service.http.json_pieces import json_fragments, large_json_answer
from service.http.json_route import JsonRoute, to_json
from service.http.offload import INLINE_CHARACTERS, offload_if_large
from service.http.problems import documented
from service.http.replies import stateful
from service.http.stateful import resume

INLINE_SCORES = 20_000
"""So many scores become probabilities in less time than a thread takes to start."""

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
        long = len(body.text or "") > INLINE_CHARACTERS
        prepared = await offload_if_large(
            long, prepare_classification, body, run.model, run.start, run.returns_state, call.app.settings
        )
        request = prepared.request
        run.hold(prepared.max_bytes, prepared.path)
        result = await run.submit(prepared.task(), request.cost_steps)
        call.app.metrics.count(run.model.label, request.steps_read, 0)
        large = result.per_step is not None and result.per_step.size > INLINE_SCORES
        content = await offload_if_large(large, prepared.answer, result)
        answer = await json_fragments(content, call.deadline)
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
    shared = body.model_dump(exclude_unset=True, exclude={"requests"})

    def read(item: Any) -> PreparedClassification:
        each = ClassifyBody.model_validate({**shared, **item} if isinstance(item, dict) else item)
        for name in ("session_id", "state"):
            if getattr(each, name) is not None:
                raise InvalidRequestError("items of a batch have no session and no state", f"$.{name}")
        model = app.registry.find_kind(each.model, CLASSIFY)
        return prepare_classification(each, model, EMPTY_STATE, False, app.settings)

    def write(item: PreparedClassification, result: Classification) -> Mapping[str, Any]:
        app.metrics.count(item.model.label, item.request.steps_read, 0)
        return {**item.answer(result), "session": None, "state": None}

    batch = await run_batch(read_items(body.requests, read), call, "$.requests")
    return await large_json_answer(batch.answers(write, request), call.deadline)

"""Calls about classes, answered in this process."""

from typing import Any

from carry.calls import Request, Response
from carry.local import Finish, LocalPlace, read_body
from service.classify.prepare import check_sequential, prepare_classification
from service.classify.schemas import ClassifyBody


def classify(place: LocalPlace, request: Request) -> Finish:
    """As `POST /classify`."""
    body = read_body(ClassifyBody, request)
    start, model = place.start(request), place.model
    check_sequential(model.manifest, body)
    prepared = prepare_classification(body, model, start.state, start.returns_state, place.settings)
    pending = model.engine.submit(prepared.task(), prepared.request.cost_steps)

    def finish() -> Response:
        result = pending.result()
        answer: dict[str, Any] = prepared.answer(result) | place.end(start, result.after)
        return Response(answer)

    return finish


ROUTES = {"classify": classify}

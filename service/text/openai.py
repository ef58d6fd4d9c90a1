"""The completions and chat APIs of OpenAI, as its `openai` client (version 3.54) calls them, by the text models."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.errors import NotOfferedError
from service.http.context import TIMED, Call, ThisCall
from service.http.json_route import JsonRoute, json_answer
from service.http.methods import check_method
from service.http.state import CarryState, State
from service.http.streaming import EventStream
from service.registry import Model
from service.text.openai_chat import ChatAnswer, ChatCompletion, ChatPayload
from service.text.openai_completion import Completion, text_model
from service.text.openai_payload import CompletionAnswer, CompletionPayload, ErrorAnswer, ModelCard, ModelList
from service.text.routes import STREAM

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)
without_prefix = APIRouter(include_in_schema=False)
"""What clients call whose base URL lacks the /v1."""

EXAMPLES: dict[str, Example] = {
    "sampled": {
        "summary": "The same seed gives the same text",
        "value": {"model": "text", "prompt": "It was ", "max_tokens": 120, "temperature": 0.7, "seed": 7},
    },
    "scored": {
        "summary": "How probable a text is, with two candidates in the place of each of its tokens",
        "value": {"model": "text", "prompt": "It was ", "max_tokens": 0, "echo": True, "logprobs": 2},
    },
}
CHAT_EXAMPLES: dict[str, Example] = {
    "a chat": {
        "summary": "One turn of a dialogue",
        "value": {"model": "text", "messages": [{"role": "user", "content": "Who was at the door?"}], "max_tokens": 80},
    },
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Those of a route, for OpenAPI."""
    return {status: {"description": HTTPStatus(status).phrase, "model": ErrorAnswer} for status in statuses}


@router.post(
    "/completions",
    operation_id="openai_create_completion",
    response_model=CompletionAnswer,
    openapi_extra=TIMED,
    responses=STREAM | _errors(400, 401, 404, 409, 413, 415, 429, 503, 504),
)
async def post_completions(
    body: Annotated[CompletionPayload, Body(openapi_examples=EXAMPLES)], call: ThisCall, request: Request
) -> Response:
    """What `client.completions.create` asks for: texts that continue prompts. With `stream`, server-sent events, each
    with what is new of one text, `finish_reason` in its last, then `[DONE]`; an error ends them instead."""
    return await _answer(Completion(body, call), body.stream, call, request)


@router.post(
    "/chat/completions",
    operation_id="openai_create_chat_completion",
    response_model=ChatAnswer,
    openapi_extra=TIMED,
    responses=STREAM | _errors(400, 401, 404, 409, 413, 415, 429, 503, 504),
)
async def post_chat(
    body: Annotated[ChatPayload, Body(openapi_examples=CHAT_EXAMPLES)], call: ThisCall, request: Request
) -> Response:
    """What `client.chat.completions.create` asks for, by models that only continue texts: the messages become a plain
    dialogue (`User: ...`, `Assistant: ...`), which is continued until the next turn. With `stream`, as there."""
    return await _answer(ChatCompletion(body, call), body.stream, call, request)


async def _answer(completion: Completion, stream: bool, call: Call, request: Request) -> Response:
    if not stream:
        return json_answer(await completion.whole())
    frames = completion.frames(request)
    headers = await anext(frames)  # what is refused before the first token is an answer of its own
    return EventStream(frames, headers, call.deadline)


@router.get("/models/", include_in_schema=False)
@router.get("/models", operation_id="openai_list_models", responses=_errors(401))
async def get_models(state: CarryState) -> ModelList:
    """The text models."""
    return ModelList(data=cards(state))


@router.get("/models/{model}", operation_id="openai_get_model", responses=_errors(401, 404, 409))
async def get_model(model: str, state: CarryState) -> ModelCard:
    """One text model, by `name` or `name@version`."""
    return _card(text_model(model, state), model, state)


@router.api_route(
    "/{rest:path}",
    methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    include_in_schema=False,
)
async def refuse(request: Request) -> Response:
    """What else that API has."""
    check_method(request)
    raise NotOfferedError(
        f"{request.method} {request.url.path} is not offered here: these models complete texts, "
        "for POST /v1/completions, POST /v1/chat/completions, GET /v1/models and GET /v1/models/{model}"
    )


@without_prefix.post("/completions")
@without_prefix.post("/chat/completions")
async def tell_the_prefix(request: Request) -> Response:
    """Clients show its message and nothing else."""
    path = request.url.path
    base = f"{request.url.scheme}://{request.url.netloc}/v1"
    raise NotOfferedError(f"POST {path} is at /v1{path} here: set the client's base_url to {base}")


def cards(state: State) -> list[ModelCard]:
    """The text models; the newest of each name under its name, older ones as `name@version`."""
    texts = [model for model in state.registry.current.models if model.manifest.kind == "text"]
    newest = {model.manifest.name: model for model in reversed(texts)}
    return [
        _card(model, model.manifest.name if newest[model.manifest.name] is model else model.label, state)
        for model in texts
    ]


def _card(model: Model, id: str, state: State) -> ModelCard:
    created = datetime.fromisoformat(model.manifest.provenance.created_at)
    most = state.settings.max_text_length
    return ModelCard(id=id, created=int(created.timestamp()), root=model.label, max_model_len=most)

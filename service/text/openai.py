"""The completions and chat APIs of OpenAI, as its `openai` client (version 3.54) calls them, by the text models."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.errors import UnsupportedError
from service.http.context import TIMEOUT_HEADERS, Context, RequestContext
from service.http.json_route import JsonRoute, json_answer
from service.http.methods import check_method
from service.http.state import App
from service.http.streaming import EventStream
from service.text.kind import TEXT
from service.text.openai_answers import (
    CompletionAnswer,
    ErrorAnswer,
    ModelCard,
    ModelList,
    model_card,
    model_cards,
)
from service.text.openai_chat import ChatAnswer, ChatCompletion, ChatPayload
from service.text.openai_completion import Completion, text_model
from service.text.openai_payload import CompletionPayload
from service.text.streaming import STREAM

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
    openapi_extra=TIMEOUT_HEADERS,
    responses=STREAM | _errors(400, 401, 404, 409, 413, 415, 429, 503, 504),
)
async def post_completions(
    body: Annotated[CompletionPayload, Body(openapi_examples=EXAMPLES)], call: Context, request: Request
) -> Response:
    """What `client.completions.create` asks for: texts that continue prompts. With `stream`, server-sent events, each
    with what is new of one text, `finish_reason` in its last, then `[DONE]`; an error ends them instead."""
    return await _answer(Completion(body, call), body.stream, call, request)


@router.post(
    "/chat/completions",
    operation_id="openai_create_chat_completion",
    response_model=ChatAnswer,
    openapi_extra=TIMEOUT_HEADERS,
    responses=STREAM | _errors(400, 401, 404, 409, 413, 415, 429, 503, 504),
)
async def post_chat(
    body: Annotated[ChatPayload, Body(openapi_examples=CHAT_EXAMPLES)], call: Context, request: Request
) -> Response:
    """What `client.chat.completions.create` asks for, by models that only continue texts: the messages become a plain
    dialogue (`User: ...`, `Assistant: ...`), which is continued until the next turn. With `stream`, as there."""
    return await _answer(ChatCompletion(body, call), body.stream, call, request)


async def _answer(completion: Completion, stream: bool, call: RequestContext, request: Request) -> Response:
    if not stream:
        return json_answer(await completion.whole())
    frames = completion.frames(request)
    headers = await anext(frames)  # what is refused before the first token is an answer of its own
    return EventStream(frames, headers, call.deadline)


@router.get("/models/", include_in_schema=False)
@router.get("/models", operation_id="openai_list_models", responses=_errors(401))
async def get_models(app: App) -> ModelList:
    """The text models."""
    return ModelList(data=model_cards(app.registry.current.of_kind(TEXT), app.settings))


@router.get("/models/{model}", operation_id="openai_get_model", responses=_errors(401, 404, 409))
async def get_model(model: str, app: App) -> ModelCard:
    """One text model, by `name` or `name@version`."""
    return model_card(text_model(model, app), model, app.settings)


@router.api_route(
    "/{rest:path}",
    methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    include_in_schema=False,
)
async def refuse(request: Request) -> Response:
    """What else that API has."""
    check_method(request)
    raise UnsupportedError(
        f"{request.method} {request.url.path} is not offered here: these models complete texts, "
        "for POST /v1/completions, POST /v1/chat/completions, GET /v1/models and GET /v1/models/{model}"
    )


@without_prefix.post("/completions")
@without_prefix.post("/chat/completions")
async def tell_the_prefix(request: Request) -> Response:
    """Clients show its message and nothing else."""
    path = request.url.path
    base = f"{request.url.scheme}://{request.url.netloc}/v1"
    raise UnsupportedError(f"POST {path} is at /v1{path} here: set the client's base_url to {base}")

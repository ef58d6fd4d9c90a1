"""The completions and chat APIs of OpenAI over the text models, as its `openai` client (version 3.54) calls them."""

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.errors import UnsupportedError
from service.http.context import TIMEOUT_HEADERS, Context, RequestContext
from service.http.json_route import JsonRoute, json_answer
from service.http.methods import ANY_PATH, check_method
from service.http.problems import documented
from service.http.state import App
from service.http.streaming import EventStream
from service.kind import ModelCard
from service.text.kind import TEXT
from service.text.openai_answers import (
    CompletionAnswer,
    ErrorAnswer,
    ModelList,
    model_card,
    model_cards,
)
from service.text.openai_chat import ChatAnswer, ChatCompletion, ChatPayload
from service.text.openai_completion import Completion, find_text_model
from service.text.openai_payload import CompletionPayload
from service.text.streaming import STREAM

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)
without_prefix = APIRouter(include_in_schema=False)
"""The routes of clients whose base URL lacks the /v1: they say so."""

EXAMPLES: dict[str, Example] = {
    "sampled": {
        "summary": "The same seed gives the same text",
        "value": {"model": "text", "prompt": "It was ", "max_tokens": 120, "temperature": 0.7, "seed": 7},
    },
    "scored": {
        "summary": "How probable a text is, with two candidates in the place of each token",
        "value": {"model": "text", "prompt": "It was ", "max_tokens": 0, "echo": True, "logprobs": 2},
    },
}
CHAT_EXAMPLES: dict[str, Example] = {
    "a chat": {
        "summary": "One turn of a dialogue",
        "value": {"model": "text", "messages": [{"role": "user", "content": "Who was at the door?"}], "max_tokens": 80},
    },
}


@router.post(
    "/completions",
    operation_id="openai_create_completion",
    summary="Complete a text, as OpenAI's API does",
    response_model=CompletionAnswer,
    openapi_extra=TIMEOUT_HEADERS,
    responses=STREAM | documented(400, 401, 404, 409, 413, 415, 429, 503, 504, model=ErrorAnswer),
)
async def post_completions(
    body: Annotated[CompletionPayload, Body(openapi_examples=EXAMPLES)], call: Context, request: Request
) -> Response:
    """`client.completions.create`: texts that continue prompts. With `stream`, server-sent events with new text of one
    text each, the last of a text with its `finish_reason`; then `[DONE]`, or instead an error."""
    return await _answer(Completion(body, call), body.stream, call, request)


@router.post(
    "/chat/completions",
    operation_id="openai_create_chat_completion",
    summary="Continue a chat, as OpenAI's API does",
    response_model=ChatAnswer,
    openapi_extra=TIMEOUT_HEADERS,
    responses=STREAM | documented(400, 401, 404, 409, 413, 415, 429, 503, 504, model=ErrorAnswer),
)
async def post_chat(
    body: Annotated[ChatPayload, Body(openapi_examples=CHAT_EXAMPLES)], call: Context, request: Request
) -> Response:
    """`client.chat.completions.create`, by models that only continue texts: they continue the messages as a plain
    dialogue (`User: ...`, `Assistant: ...`) up to the next turn. `stream` works as for completions."""
    return await _answer(ChatCompletion(body, call), body.stream, call, request)


async def _answer(completion: Completion, stream: bool, call: RequestContext, request: Request) -> Response:
    if not stream:
        return json_answer(await completion.whole())
    frames = completion.frames(request)
    headers = await anext(frames)  # a request that is refused gets an answer with its own status
    return EventStream(frames, headers, call.deadline)


@router.get("/models/", include_in_schema=False)
@router.get(
    "/models",
    operation_id="openai_list_models",
    summary="List the text models, as OpenAI's API does",
    responses=documented(401, model=ErrorAnswer),
)
async def get_models(app: App) -> ModelList:
    """List the text models."""
    return ModelList(data=model_cards(app.registry.current.of_kind(TEXT), app.settings))


@router.get(
    "/models/{model}",
    operation_id="openai_get_model",
    summary="Show a text model, as OpenAI's API does",
    responses=documented(401, 404, 409, model=ErrorAnswer),
)
async def get_model(model: str, app: App) -> ModelCard:
    """Describe one text model, by `name` or `name@version`."""
    return model_card(find_text_model(model, app), model, app.settings)


@router.api_route(
    ANY_PATH,
    methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    include_in_schema=False,
)
async def refuse_other(request: Request) -> Response:
    """Say what this service offers of OpenAI's API."""
    check_method(request)
    raise UnsupportedError(
        f"{request.method} {request.url.path} is not offered: these models complete texts; use POST /v1/completions, "
        "POST /v1/chat/completions, GET /v1/models or GET /v1/models/{model}"
    )


@without_prefix.post("/completions")
@without_prefix.post("/chat/completions")
async def refuse_without_prefix(request: Request, app: App) -> Response:
    """Name the right base URL. Clients show this message and nothing else."""
    path = request.url.path
    base = f"{request.url.scheme}://{request.url.netloc}{app.settings.root_path}/v1"
    raise UnsupportedError(f"POST {path} is at /v1{path} here: set the client's base_url to {base}")

"""POST /tokenize, POST /detokenize, GET /tokenizer_info, as in vLLM: for programs that count or score tokens."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from service.errors import InvalidRequestError
from service.http.json_route import JsonRoute, json_answer
from service.http.offload import INLINE_CHARACTERS, offload_if_large
from service.http.problems import documented
from service.http.schemas import Answer
from service.http.state import App
from service.text.limits import check_length
from service.text.openai_chat import TEMPLATE, ChatMessage, chat_prompt
from service.text.openai_completion import find_text_model
from service.text.openai_payload import LenientBody, TokenList, detokenize
from service.text.schemas import Flag, Text

router = APIRouter(tags=["text"], route_class=JsonRoute)

TextModelName = Annotated[
    Annotated[str, Field(min_length=1, max_length=80)] | None,
    Field(description="`name` or `name@version`; the default text model if absent."),
]


class TokenizeBody(LenientBody):
    """A text or a chat to tokenize."""

    model: TextModelName = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2000, fail_fast=True)] | None = None
    return_token_strs: Flag = False


class TokenizeAnswer(Answer):
    """The tokens, as indices into the model's vocabulary; 0 is the unknown token."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = Field(description="With `return_token_strs`, the text of each token.")


class DetokenizeBody(LenientBody):
    """Tokens to turn into a text."""

    model: TextModelName = None
    tokens: TokenList


class DetokenizeAnswer(Answer):
    """The text. The unknown token becomes U+FFFD, in a word model `<unk>`."""

    prompt: str


class TokenizerInfo(Answer):
    """A tokenizer. `bos_token`, `eos_token`: the new line that stands before a text, and so between two texts."""

    tokenizer_class: str
    model: str
    vocab_size: int
    bos_token: str | None
    eos_token: str | None
    unk_token: str
    add_bos_token: bool = False
    model_max_length: int
    chat_template: str


@router.post(
    "/tokenize",
    operation_id="tokenize",
    summary="Turn a text into tokens",
    response_model=TokenizeAnswer,
    responses=documented(400, 401, 404, 409, 413, 415, 422),
)
async def post_tokenize(body: TokenizeBody, app: App) -> Response:
    """Tokenize a text or a chat."""
    tokenizer = find_text_model(body.model, app).manifest.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("send either `prompt` or `messages`", "$.prompt")
    text, path = body.prompt, "$.prompt"
    if body.messages is not None:
        text, path = chat_prompt(body.messages, tokenizer.level), "$.messages"
    assert text is not None
    check_length(text, app.settings, path)
    tokenized = await offload_if_large(len(text) > INLINE_CHARACTERS, tokenizer.tokenize, text, path)
    return json_answer(
        {
            "count": len(tokenized.ids),
            "max_model_len": app.settings.max_text_length,
            "tokens": tokenized.ids,
            "token_strs": [*tokenized.tokens] if body.return_token_strs else None,
        }
    )


@router.post(
    "/detokenize",
    operation_id="detokenize",
    summary="Turn tokens into a text",
    response_model=DetokenizeAnswer,
    responses=documented(400, 401, 404, 409, 413, 415, 422),
)
async def post_detokenize(body: DetokenizeBody, app: App) -> Response:
    """Turn tokens into a text."""
    tokenizer = find_text_model(body.model, app).manifest.tokenizer
    if len(body.tokens) > app.settings.max_text_length:
        check_length(" " * len(body.tokens), app.settings, "$.tokens")
    return json_answer({"prompt": detokenize(body.tokens, tokenizer, "$.tokens")})


@router.get(
    "/tokenizer_info",
    operation_id="tokenizer_info",
    summary="Show a model's tokenizer",
    responses=documented(401, 404, 409, 422),
)
async def get_tokenizer_info(
    app: App,
    model: Annotated[
        str | None, Query(max_length=80, description="`name` or `name@version`; the default text model if absent.")
    ] = None,
) -> TokenizerInfo:
    """Describe a text model's tokenizer."""
    text_model = find_text_model(model, app)
    tokenizer = text_model.manifest.tokenizer
    new_line = "\n" if tokenizer.start_id else None
    return TokenizerInfo(
        tokenizer_class=f"{tokenizer.level.capitalize()}Tokenizer",
        model=text_model.label,
        vocab_size=tokenizer.size,
        bos_token=new_line,
        eos_token=new_line,
        unk_token=tokenizer.unknown_token,
        model_max_length=app.settings.max_text_length,
        chat_template=TEMPLATE,
    )

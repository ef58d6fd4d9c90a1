"""GET /models, GET /models/{name}, its pictures, and POST /models/reload."""

import asyncio
import operator
from collections.abc import Iterable, Sequence
from functools import reduce
from types import GenericAlias
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field, SerializeAsAny, create_model

from service.errors import PictureNotFoundError
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_route import json_answer
from service.http.problems import documented
from service.http.schemas import Answer
from service.http.state import App, AppState
from service.kind import Kind, Model, ModelCard
from service.manifest import Manifest
from service.registry import ModelSet, RejectedModel


class PictureOfCard(Answer):
    """A picture of a model's card."""

    name: str = Field(examples=["loss.png"])
    caption: str


class LoadedModel(Answer):
    """A loaded model."""

    name: str
    version: int
    kind: str
    precision: Literal["float32", "int8"] = Field(description="The precision of the graph in use.")
    description: str
    default: bool
    metrics: dict[str, float]
    pictures: list[PictureOfCard] = Field(
        description="Of its card. `GET /models/{name}@{version}/pictures/{picture}` sends each."
    )


class RefusedModel(Answer):
    """A model folder that failed its checks, and why."""

    name: str
    version: str
    reason: str


class ModelsAnswer(Answer):
    """All model folders."""

    object: Literal["list"] = "list"
    data: list[ModelCard] = Field(description="The text models, as in `GET /v1/models`.")
    models: list[LoadedModel]
    refused: list[RefusedModel]


class ReloadAnswer(ModelsAnswer):
    """All model folders, and the changes of this reload. A model replaced in place counts as unloaded and loaded."""

    loaded: list[str] = Field(description="`name@version` of each.", examples=[["text@2"]])
    unloaded: list[str]


class ModelAnswer(Answer):
    """A model: the manifest of the version found, and all versions."""

    manifest: SerializeAsAny[Manifest]
    versions: list[int]
    refused: list[RefusedModel]


async def get_models(app: App) -> Response:
    """List the loaded models with their metrics, and the refused folders with the reasons."""
    current = app.registry.current
    return json_answer(ModelsAnswer(data=_listed(app), models=_loaded(current), refused=_rejected(current.rejected)))


async def post_reload(call: Context) -> Response:
    """Read the model folders again, in all processes of the machine. New models answer, changed ones are replaced and
    deleted ones end, without a pause. The answer comes when all processes have reloaded."""
    app = call.app
    before = app.registry.models
    await app.reloader.reload_all(call.deadline)
    current = app.registry.current
    answer = ReloadAnswer(
        data=_listed(app),
        models=_loaded(current),
        refused=_rejected(current.rejected),
        loaded=[model.label for model in current.models if model not in before],
        unloaded=[model.label for model in before if model not in current.models],
    )
    return json_answer(answer)


async def get_model(name: str, app: App) -> Response:
    """Show a model's manifest: its inputs and outputs, its training, its metrics. `name` or `name@version`."""
    current = app.registry.current
    model = current.find(name)
    answer = ModelAnswer(
        manifest=model.manifest,
        versions=[m.manifest.version for m in current.models if m.manifest.name == model.manifest.name],
        refused=_rejected(r for r in current.rejected if r.name == model.manifest.name),
    )
    return json_answer(answer)


async def get_picture(name: str, picture: str, app: App) -> Response:
    """Send a picture of a model's card, as PNG. `name` or `name@version`."""
    model = app.registry.current.find(name)
    # Only the listed pictures: nothing is looked for by its name.
    pictures = {each.path.name: each for each in model.pictures}
    content = await asyncio.to_thread(pictures[picture].read) if picture in pictures else None
    if content is None:
        names = ", ".join(pictures) or "none"
        raise PictureNotFoundError(f"no such picture; the pictures of {model.label} are: {names}")
    return Response(content, media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})


def create_router(kinds: Sequence[Kind[Any]]) -> APIRouter:
    """The routes of models. Their schemas name these kinds and have their manifests."""
    kind_name: Any = Literal[tuple(kind.name for kind in kinds)]
    models = GenericAlias(list, _narrow(LoadedModel, kind=kind_name))
    manifest = reduce(operator.or_, (kind.manifest for kind in kinds))
    router = APIRouter(prefix="/models", tags=["models"])
    router.get(
        "", operation_id="list_models", summary="List the models", response_model=_narrow(ModelsAnswer, models=models)
    )(get_models)
    router.post(
        "/reload",
        operation_id="reload_models",
        summary="Read the model folders again",
        response_model=_narrow(ReloadAnswer, models=models),
        openapi_extra=TIMEOUT_HEADERS,
        responses=documented(422, 504),
    )(post_reload)
    router.get(
        "/{name}",
        operation_id="get_model",
        summary="Show a model",
        response_model=_narrow(ModelAnswer, manifest=manifest),
        responses=documented(404, 409, 422),
    )(get_model)
    router.get(
        "/{name}/pictures/{picture}",
        operation_id="get_picture",
        summary="Show a picture of a model's card",
        response_class=Response,
        responses={**documented(404, 409, 422), 200: {"content": {"image/png": {}}}},
    )(get_picture)
    return router


def _narrow(answer: type[Answer], **fields: Any) -> type[Answer]:
    """An answer whose fields have narrower types, for OpenAPI."""
    types: Any = {name: (narrow_type, ...) for name, narrow_type in fields.items()}
    return create_model(answer.__name__, __base__=answer, __doc__=answer.__doc__, **types)


def _listed(app: AppState) -> list[ModelCard]:
    current = app.registry.current
    return [entry for kind in app.kinds for entry in kind.listed(current.of_kind(kind), app.settings)]


def _loaded(current: ModelSet[Model[Any]]) -> list[LoadedModel]:
    def describe(model: Model[Any]) -> LoadedModel:
        manifest = model.manifest
        newest = current.find(manifest.name) is model
        return LoadedModel(
            name=manifest.name,
            version=manifest.version,
            kind=manifest.kind,
            precision=model.precision,
            description=manifest.description,
            default=newest and current.default(model.kind) == manifest.name,
            metrics=manifest.metrics,
            pictures=[PictureOfCard(name=each.path.name, caption=each.caption) for each in model.pictures],
        )

    return [describe(model) for model in current.models]


def _rejected(rejected: Iterable[RejectedModel]) -> list[RefusedModel]:
    return [RefusedModel(name=each.name, version=each.version, reason=each.reason) for each in rejected]

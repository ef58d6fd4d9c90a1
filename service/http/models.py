"""GET /models, GET /models/{name} and POST /models/reload."""

from collections.abc import Iterable
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, SerializeAsAny

from service.http.context import TIMEOUT_HEADERS, Context
from service.http.problems import documented
from service.http.schemas import Answer
from service.http.state import App, AppState
from service.kind import Model
from service.manifest import Manifest
from service.registry import ModelSet, RejectedModel

router = APIRouter(prefix="/models", tags=["models"])


class LoadedModel(Answer):
    """A loaded model."""

    name: str
    version: int
    kind: str
    precision: Literal["float32", "int8"] = Field(description="The precision of the graph in use.")
    description: str
    default: bool
    metrics: dict[str, float]


class RefusedModel(Answer):
    """A model folder that failed its checks, and why."""

    name: str
    version: str
    reason: str


class ModelsAnswer(Answer):
    """All model folders."""

    object: Literal["list"] = "list"
    data: list[SerializeAsAny[BaseModel]] = Field(description="The text models, as in `GET /v1/models`.")
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


@router.get("", operation_id="list_models")
async def get_models(app: App) -> ModelsAnswer:
    """List the loaded models with their metrics, and the refused folders with the reasons."""
    current = app.registry.current
    return ModelsAnswer(data=_listed(app), models=_loaded(current), refused=_rejected(current.rejected))


@router.post("/reload", operation_id="reload_models", openapi_extra=TIMEOUT_HEADERS, responses=documented(422, 504))
async def post_reload(call: Context) -> ReloadAnswer:
    """Read the model folders again, in all processes of the machine. New models answer, changed ones are replaced and
    deleted ones end, without a pause. The answer comes when all processes have reloaded."""
    app = call.app
    before = app.registry.models
    await app.reloader.reload_all(call.deadline)
    current = app.registry.current
    return ReloadAnswer(
        data=_listed(app),
        models=_loaded(current),
        refused=_rejected(current.rejected),
        loaded=[model.label for model in current.models if model not in before],
        unloaded=[model.label for model in before if model not in current.models],
    )


@router.get("/{name}", operation_id="get_model", responses=documented(404, 409, 422))
async def get_model(name: str, app: App) -> ModelAnswer:
    """Show a model's manifest: its inputs and outputs, its training, its metrics. `name` or `name@version`."""
    current = app.registry.current
    model = current.find(name)
    return ModelAnswer(
        manifest=model.manifest,
        versions=[m.manifest.version for m in current.models if m.manifest.name == model.manifest.name],
        refused=_rejected(r for r in current.rejected if r.name == model.manifest.name),
    )


def _listed(app: AppState) -> list[BaseModel]:
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
        )

    return [describe(model) for model in current.models]


def _rejected(rejected: Iterable[RejectedModel]) -> list[RefusedModel]:
    return [RefusedModel(name=each.name, version=each.version, reason=each.reason) for each in rejected]

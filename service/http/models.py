"""GET /models, GET /models/{name} and POST /models/reload."""

from collections.abc import Iterable
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from service.http.context import TIMED, ThisCall
from service.http.problems import documented
from service.http.schemas import Answer
from service.http.state import CarryState
from service.manifest import ForecastManifest, TextManifest
from service.registry import Catalogue, Model, Refused
from service.text.openai import cards
from service.text.openai_payload import ModelCard

router = APIRouter(prefix="/models", tags=["models"])


class LoadedModel(Answer):
    """A model that answers."""

    name: str
    version: int
    kind: Literal["forecast", "text"]
    precision: Literal["float32", "int8"] = Field(description="Of the graph that is served.")
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
    data: list[ModelCard] = Field(description="The text models as `GET /v1/models` has them.")
    models: list[LoadedModel]
    refused: list[RefusedModel]


class ReloadAnswer(ModelsAnswer):
    """All model folders, and what the reload has changed. A model replaced in place was unloaded and loaded."""

    loaded: list[str] = Field(description="`name@version` of each.", examples=[["text@2"]])
    unloaded: list[str]


class ModelAnswer(Answer):
    """One model: its newest version's manifest, and its other versions."""

    manifest: ForecastManifest | TextManifest
    versions: list[int]
    refused: list[RefusedModel]


@router.get("", operation_id="list_models")
async def get_models(state: CarryState) -> ModelsAnswer:
    """What is loaded, how well it measured, and what was refused and why."""
    current = state.registry.current
    return ModelsAnswer(data=cards(state), models=_loaded(current), refused=_refused(current.refused))


@router.post("/reload", operation_id="reload_models", openapi_extra=TIMED, responses=documented(422, 504))
async def post_reload(call: ThisCall) -> ReloadAnswer:
    """Look at the model folders again, in all processes of the machine: what is new, changed or gone is so from one
    request to the next, without a pause. The answer comes when all processes have done it."""
    state = call.state
    before = state.registry.models
    await state.reloader.everywhere(call.deadline)
    current = state.registry.current
    return ReloadAnswer(
        data=cards(state),
        models=_loaded(current),
        refused=_refused(current.refused),
        loaded=[model.label for model in current.models if model not in before],
        unloaded=[model.label for model in before if model not in current.models],
    )


@router.get("/{name}", operation_id="get_model", responses=documented(404, 409, 422))
async def get_model(name: str, state: CarryState) -> ModelAnswer:
    """A model's manifest: what it takes and gives, how it was made, how well it measured. `name` or `name@version`."""
    current = state.registry.current
    model = current.find(name)
    return ModelAnswer(
        manifest=model.manifest,
        versions=[m.manifest.version for m in current.models if m.manifest.name == model.manifest.name],
        refused=_refused(r for r in current.refused if r.name == model.manifest.name),
    )


def _loaded(current: Catalogue[Model]) -> list[LoadedModel]:
    def shown(model: Model) -> LoadedModel:
        manifest = model.manifest
        newest = current.find(manifest.name) is model
        return LoadedModel(
            name=manifest.name,
            version=manifest.version,
            kind=manifest.kind,
            precision=model.precision,
            description=manifest.description,
            default=newest and current.default(manifest.kind) == manifest.name,
            metrics=manifest.metrics,
        )

    return [shown(model) for model in current.models]


def _refused(refused: Iterable[Refused]) -> list[RefusedModel]:
    return [RefusedModel(name=r.name, version=r.version, reason=r.reason) for r in refused]

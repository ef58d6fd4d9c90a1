"""GET /models and GET /models/{name}."""

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from service.api.problems import documented
from service.api.schemas import Answer
from service.api.state import CarryState
from service.manifest import ForecastManifest, TextManifest
from service.registry import Model, Refused

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

    models: list[LoadedModel]
    refused: list[RefusedModel]


class ModelAnswer(Answer):
    """One model: its newest version's manifest, and its other versions."""

    manifest: ForecastManifest | TextManifest
    versions: list[int]
    refused: list[RefusedModel]


@router.get("")
async def get_models(state: CarryState) -> ModelsAnswer:
    """What is loaded, how well it measured, and what was refused and why."""
    registry = state.registry

    def shown(model: Model) -> LoadedModel:
        manifest = model.manifest
        newest = registry.find(manifest.name) is model
        return LoadedModel(
            name=manifest.name,
            version=manifest.version,
            kind=manifest.kind,
            precision=model.precision,
            description=manifest.description,
            default=newest and registry.default(manifest.kind) == manifest.name,
            metrics=manifest.metrics,
        )

    return ModelsAnswer(models=[shown(m) for m in registry.models], refused=_refused(registry.refused))


@router.get("/{name}", responses=documented(404, 409, 422))
async def get_model(name: str, state: CarryState) -> ModelAnswer:
    """A model's manifest: what it takes and gives, how it was made, how well it measured. `name` or `name@version`."""
    model = state.registry.find(name)
    return ModelAnswer(
        manifest=model.manifest,
        versions=[m.manifest.version for m in state.registry.models if m.manifest.name == model.manifest.name],
        refused=_refused([r for r in state.registry.refused if r.name == model.manifest.name]),
    )


def _refused(refused: list[Refused]) -> list[RefusedModel]:
    return [RefusedModel(name=r.name, version=r.version, reason=r.reason) for r in refused]

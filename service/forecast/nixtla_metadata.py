"""The routes of Nixtla's API about models and the account, as the clients of Python and R call them."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import Field

from service.errors import InvalidRequestError
from service.forecast.kind import FORECAST
from service.forecast.manifest import ForecastManifest
from service.forecast.nixtla_payload import (
    DetailAnswer,
    FinetunedModels,
    ModelName,
    ModelNames,
    ModelParams,
    ModelParamsAnswer,
    UsageAnswer,
)
from service.forecast.timestamps import seasons_of
from service.http.json_route import JsonRoute
from service.http.problems import documented
from service.http.schemas import Body
from service.http.state import App, AppState
from service.kind import Model

router = APIRouter(tags=["nixtla"], route_class=JsonRoute)

Name = Annotated[str, Field(max_length=80)] | None
Freq = Annotated[str, Field(max_length=40)] | None
ClientVersion = Annotated[
    str | None,
    Header(alias="nixtla-client-version", max_length=80, description="The client sends it from 0.9 on."),
]
MIN_INPUT = 16
OLD_HORIZON = 12
"""Answered to old clients, which reject a series shorter than `input_size` and the horizon together."""


class ModelParamsBody(Body):
    """What R's client sends."""

    model: Name = None
    freq: Freq = None


@router.get(
    "/model_params",
    operation_id="nixtla_model_params",
    summary="Nixtla: a model's horizon and input size",
    responses=documented(401, 404, 409, 422),
)
async def get_model_params(
    app: App,
    model: Annotated[str | None, Query(max_length=80)] = None,
    freq: Annotated[str | None, Query(max_length=40, description="Sets the seasons that the model needs.")] = None,
    client: ClientVersion = None,
) -> ModelParamsAnswer:
    """The model's horizon, and how many values of each series the client should send. A client that sends its version
    should send all. An older one rejects series shorter than both numbers together, so it gets what the model needs:
    two or three seasons."""
    manifest = forecaster(model, app).manifest
    if client is None:
        return _params_of_old_clients(manifest, freq)
    input_size = max(1, (app.settings.max_series_length - app.settings.max_horizon) // 3)
    return ModelParamsAnswer(detail=ModelParams(input_size=input_size, horizon=manifest.horizon))


@router.post(
    "/model_params",
    operation_id="nixtla_model_params_of_r",
    summary="Nixtla: a model's horizon, for R",
    responses=documented(401, 404, 409, 422),
)
async def post_model_params(app: App, body: ModelParamsBody) -> ModelParamsAnswer:
    """The same, for R's client."""
    return _params_of_old_clients(forecaster(body.model, app).manifest, body.freq)


@router.get(
    "/validate_api_key",
    operation_id="nixtla_validate_api_key",
    summary="Nixtla: is the key known?",
    responses=documented(401),
)
async def get_validate_api_key(app: App) -> DetailAnswer:
    """Whether the caller's key is known."""
    is_checked = app.keys.required
    return DetailAnswer(detail="the key is valid" if is_checked else "any key will do: this service asks for none")


@router.post(
    "/validate_token",
    operation_id="nixtla_validate_token",
    summary="Nixtla: is the key known? For R",
    responses=documented(401),
)
async def post_validate_token(app: App) -> DetailAnswer:
    """The same, for R's client."""
    return await get_validate_api_key(app)


@router.get(
    "/v2/models", operation_id="nixtla_list_models", summary="Nixtla: list the forecasters", responses=documented(401)
)
async def get_models(app: App) -> ModelNames:
    """The names of the forecasters."""
    names = {model.manifest.name for model in app.registry.current.of_kind(FORECAST)}
    return ModelNames(models=[ModelName(name=name) for name in sorted(names)])


@router.get("/usage", operation_id="nixtla_usage", summary="Nixtla: usage of the key", responses=documented(401))
async def get_usage() -> UsageAnswer:
    """Always 0: Carry bills nothing, and has no monthly limits."""
    return UsageAnswer(minute={"used": 0}, month={"used": 0})


@router.get(
    "/v2/finetuned_models",
    operation_id="nixtla_finetuned_models",
    summary="Nixtla: list finetuned models",
    responses=documented(401),
)
async def get_finetuned_models() -> FinetunedModels:
    """An empty list: calls do not tune models here."""
    return FinetunedModels(finetuned_models=[])


def forecaster(name: str | None, app: AppState) -> Model[ForecastManifest]:
    """The model of that name. The default forecaster answers for Nixtla's own models, `timegpt-...`."""
    is_nixtlas = name is not None and name.startswith("timegpt")
    return app.registry.find_kind(None if is_nixtlas else name, FORECAST)


def _params_of_old_clients(manifest: ForecastManifest, freq: str | None) -> ModelParamsAnswer:
    try:
        usual = seasons_of(freq or "D") or (1,)
    except InvalidRequestError:  # pandas knows more frequencies
        usual = (1,)
    seasons = [season for season in usual if season <= manifest.longest_season] or [1]
    # The model sees a season in two of its cycles; of a short one, three are not too many to ask for.
    input_size = max(MIN_INPUT, 3 * seasons[0] if seasons[-1] <= OLD_HORIZON else 2 * seasons[-1])
    return ModelParamsAnswer(detail=ModelParams(input_size=input_size, horizon=min(manifest.horizon, OLD_HORIZON)))

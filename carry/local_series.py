"""Calls about series, answered in this process."""

from carry.calls import Request, Response
from carry.local import Finish, LocalPlace, read_body
from service.forecast.prepare import prepare_anomalies, prepare_backtest, prepare_forecast
from service.forecast.schemas import AnomalyBody, CrossValidationBody, ForecastBody


def forecast(place: LocalPlace, request: Request) -> Finish:
    """As `POST /forecast`."""
    body = read_body(ForecastBody, request)
    start, model = place.start(request), place.model
    prepared = prepare_forecast(body, model, start.state, start.returns_state, place.settings)
    pending = model.engine.submit(prepared.task(), prepared.request.cost_steps)

    def finish() -> Response:
        result = pending.result()
        return Response(prepared.answer(result) | place.end(start, result.after))

    return finish


def anomalies(place: LocalPlace, request: Request) -> Finish:
    """As `POST /anomalies`."""
    body = read_body(AnomalyBody, request)
    start, model = place.start(request), place.model
    prepared = prepare_anomalies(body, model, start.state, start.returns_state, place.settings)
    pending = model.engine.submit(prepared.task(), prepared.request.cost_steps)

    def finish() -> Response:
        result = pending.result()
        return Response(prepared.answer(result) | place.end(start, result.after))

    return finish


def backtest(place: LocalPlace, request: Request) -> Finish:
    """As `POST /cross_validation`."""
    body = read_body(CrossValidationBody, request)
    place.check_name(body.model)
    prepared = prepare_backtest(body, place.model, place.settings)
    pending = place.model.engine.submit(prepared.task(), prepared.request.cost_steps)

    def finish() -> Response:
        result = pending.result()
        return Response(prepared.answer(result, [*prepared.windows(result)]))

    return finish


ROUTES = {"forecast": forecast, "anomalies": anomalies, "cross_validation": backtest}

"""Many forecasts in one call: their limits together, and their run on the engine."""

from collections.abc import Iterator
from concurrent.futures import Future

from service.errors import CarryError, LimitExceededError
from service.forecast.prepare import PreparedForecast
from service.forecast.task import Forecast
from service.http.context import RequestContext
from service.http.offload import take_turns, wait_all
from service.settings import Settings

Items = list[PreparedForecast | CarryError]
Results = dict[int, Future[Forecast]]


async def run_batch(
    prepared: Iterator[PreparedForecast | CarryError], call: RequestContext, path: str
) -> tuple[Items, Results]:
    """Run the valid items, all at once. Returns all items, and by index the results of the valid ones; a result may be
    an error. `path`: the field that holds the items.

    Raises:
        LimitExceededError: together they exceed a limit.
        CarryError: one failed for a reason that the others share, such as the deadline.
    """
    limits = _Limits(call.app.settings, call.max_steps, path)
    items: Items = []
    async for item in take_turns(prepared, call.deadline):
        if isinstance(item, PreparedForecast):
            limits.add(item)
        items.append(item)
    valid = {i: item for i, item in enumerate(items) if isinstance(item, PreparedForecast)}
    if valid:
        call.take(limits.steps)
        call.hold(limits.bytes, path, next(iter(valid.values())).model.engine)

    def submit(i: int) -> "Future[Forecast]":
        return call.submit(valid[i].model.engine, valid[i].task(), valid[i].request.cost_steps)

    results = await wait_all({i: len(item.request.values) for i, item in valid.items()}, submit)
    async for future in take_turns(results.values(), call.deadline):
        error = future.exception()
        if isinstance(error, CarryError) and error.status >= 500:
            raise error
    return items, results


class _Limits:
    """Limits on all items together: the size of the answer, and the steps to queue. They are added up in the turns in
    which the items are read: over ten thousand items, a sum takes tens of milliseconds."""

    def __init__(self, settings: Settings, max_steps: int, path: str) -> None:
        self._settings = settings
        self._max_steps = max_steps
        self._path = path
        self._quantiles = 0
        self.steps = self.bytes = 0
        """Of all items: the steps, and the most memory that they hold."""

    def add(self, item: PreparedForecast) -> None:
        """Count another item.

        Raises:
            LimitExceededError: the items exceed a limit.
        """
        request = item.request
        self._quantiles += (request.horizon + len(request.values) * request.include_history) * len(request.levels)
        self.steps += request.cost_steps
        self.bytes += item.max_bytes
        limit = self._settings.max_batch_answer_items
        if self._quantiles > limit:
            raise LimitExceededError(f"at most {limit} quantiles in one answer, and these are more", self._path)
        limit = self._max_steps
        if self.steps > limit:
            raise LimitExceededError(f"at most {limit} values to read and to forecast, and these are more", self._path)

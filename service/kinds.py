"""The kinds of model that Carry serves. A new kind is one line here."""

from typing import Any

from service.classify.kind import CLASSIFY
from service.forecast.kind import FORECAST
from service.kind import Kind
from service.text.kind import TEXT

KINDS: tuple[Kind[Any], ...] = (FORECAST, TEXT, CLASSIFY)

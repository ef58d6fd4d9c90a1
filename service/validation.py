"""What pydantic refused, as JSON paths and messages. Imports no web framework, so that kinds of model may use it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from service.errors import InvalidRequestError

NO_SERIES = "must be a list of at least one number or null, or an object of such lists by feature name"
MAX_ERRORS = 20
MAX_FIELDS = 64
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e30, le=1e30)]


def as_invalid_request(error: ValidationError, prefix: tuple[int | str, ...]) -> InvalidRequestError:
    """The first error in a part of the body, which stands at `prefix`."""
    first = error.errors(include_url=False, include_input=False)[0]
    location = (*prefix, *first["loc"])
    return InvalidRequestError(error_message({**first, "loc": location}), json_path(location))


def explain(errors: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, str]]]:
    """pydantic's errors as one sentence, and as the `errors` of a problem."""
    explained = [{"path": json_path(item["loc"]), "message": error_message(item)} for item in errors[:MAX_ERRORS]]
    more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
    return f"{explained[0]['path']}: {explained[0]['message']}{more}", explained


def error_message(error: Mapping[str, Any]) -> str:
    """pydantic's message, or ours where pydantic's does not say what is accepted."""
    if error["type"] == "model_attributes_type" or (error["type"] == "dict_type" and error["loc"] == ("body",)):
        return "must be a JSON object, sent with Content-Type: application/json"
    if {"series", "future"}.intersection(error["loc"]) and error["type"] in ("float_type", "finite_number"):
        return "must be a finite number, or null where the value is missing"
    if "series" in error["loc"] and error["type"] in ("list_type", "too_short"):
        return NO_SERIES
    return str(error["msg"]).removeprefix("Value error, ")


def json_path(location: Sequence[int | str]) -> str:
    """A pydantic location as a JSON path: ("body", "series", 3) -> $.series[3]."""
    path = "$"
    for part in location[1:] if location and location[0] in ("body", "query", "path") else location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):  # a tag of a union, such as `ForecastBody.series`
            path += f".{part}"
    return path


def check_field_count(data: Any, max_fields: int = MAX_FIELDS) -> Any:
    """Reject an object of very many fields: each wrong one would become an error of its own."""
    if isinstance(data, dict) and len(data) > max_fields:
        raise ValueError(f"has more than {max_fields} fields")
    return data

"""Completes the OpenAPI document that FastAPI derives from the routes.

The routes name their operations, schemas and statuses. This module adds what all of them share: tags, the API key,
and the errors of the middleware.
"""

from typing import Any

from service.http.access import OPEN, scope_of
from service.http.problems import OPENAI, PROBLEM, documented
from service.http.requests import METRICS

TAGS = {
    "series": "Forecasts of numeric series, their anomalies, and backtests.",
    "text": "Continuations of text, and the probabilities of the next characters.",
    "classes": "Which class a series or a text is.",
    "sessions": "Recurrent states that the service stores: continue, copy, rewind, export or import them.",
    "models": "The loaded models and the refused folders.",
    "operation": "Health and metrics.",
    "kserve": "KServe's time series API.",
    "nixtla": "The API that the `nixtla` client calls.",
    "platforms": "The path that SageMaker and Vertex AI call.",
    "openai": "OpenAI's API for completions, as the `openai` client calls it.",
}
BEFORE_A_BODY = (400, 403, 413, 415, 503)
"""Statuses that the middleware may answer, for every route with a body."""

EVENTS = {
    # Client generators read a string; without a schema they would parse the stream as JSON. Tools that know OpenAPI 3.2
    # read a list of events, each with `itemSchema`.
    "schema": {"type": ["string", "array"], "description": "Server-sent events."},
    "itemSchema": {
        "type": "object",
        "properties": {
            "data": {"type": "string", "description": "JSON, except the `[DONE]` that ends streams under /v1."},
            "event": {"type": "string", "description": "`error` if the stream fails; not under /v1."},
        },
        "required": ["data"],
    },
}


def complete(document: dict[str, Any]) -> None:
    """Complete FastAPI's document in place."""
    document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    document["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key of the service, if it has any. An operation that names a scope needs a key with it.",
    }
    document["components"]["securitySchemes"] = {"key": scheme}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(method, path, operation)
    # Schemas of FastAPI's errors: our routes answer with problems.
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if path in OPEN - {METRICS}:
        operation["security"] = []
    else:
        scope = scope_of(method.upper(), path)
        operation["security"] = [{"key": [] if scope is None else [scope]}, {}]
        for status in (401, 403):
            _add(answers, path, status)
    if "requestBody" in operation:
        for status in BEFORE_A_BODY:
            _add(answers, path, status)
    if path.startswith(OPENAI):
        answers.pop("422", None)  # FastAPI adds it; OpenAI's API answers 400
    for answer in answers.values():
        content = answer.get("content", {})
        if PROBLEM in content:  # FastAPI puts every schema under application/json
            content[PROBLEM] = content.pop("application/json", content[PROBLEM])
        if "text/event-stream" in content:
            del content["text/event-stream"]
            content["text/event-stream"] = EVENTS  # last: client generators take the first
    operation["responses"] = dict(sorted(answers.items()))


def _add(answers: dict[str, Any], path: str, status: int) -> None:
    """Document an error that the route does not name itself, in the form of those that it does."""
    if str(status) in answers:
        return
    [answer] = documented(status).values()
    named = (answers[known]["content"] for known in answers if known.isdecimal() and int(known) >= 400)
    content = next(named, None)
    if content is None:
        name, media = ("ErrorAnswer", "application/json") if path.startswith(OPENAI) else ("Problem", PROBLEM)
        content = {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    answers[str(status)] = {"description": answer["description"], "content": {**content}}

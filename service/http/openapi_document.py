"""The OpenAPI document: what FastAPI derives from the routes, and what it cannot know.

The routes name their operations, models and statuses. Here is what is the same for all of them: servers, tags, keys,
and the answers that come before any route is reached.
"""

from typing import Any

from service.http.middleware import OPEN
from service.http.problems import OPENAI, PROBLEM, documented

TAGS = {
    "series": "Forecasts of numeric series, their anomalies, and how good forecasts of them would have been.",
    "text": "Continuations of text, and the probabilities of what comes next.",
    "sessions": "Recurrent states that the service keeps: to go on from, to copy, to go back to, to export.",
    "models": "The models that are loaded, and the folders that were refused.",
    "operation": "Health and metrics.",
    "nixtla": "The calls of the `nixtla` client.",
    "openai": "The completions API of OpenAI, as the `openai` client calls it.",
}
BEFORE_A_BODY = (400, 403, 413, 415, 503)
"""What any route with a body may answer before it is reached."""

EVENTS = {
    # A string to generators of clients, which would take a stream without a schema for JSON; a list of events to tools
    # that read `itemSchema`, with which OpenAPI 3.2 (and FastAPI) says what one of them is.
    "schema": {"type": ["string", "array"], "description": "Server-sent events."},
    "itemSchema": {
        "type": "object",
        "properties": {
            "data": {"type": "string", "description": "JSON, but for the `[DONE]` that ends streams under /v1."},
            "event": {"type": "string", "description": "`error` where the stream breaks off; not under /v1."},
        },
        "required": ["data"],
    },
}


def complete(document: dict[str, Any]) -> None:
    """Complete FastAPI's document in place."""
    document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    document["servers"] = [{"url": "/", "description": "This service."}]
    document["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    scheme = {"type": "http", "scheme": "bearer", "description": "One of `CARRY_API_KEYS`, where the service has any."}
    document["components"]["securitySchemes"] = {"key": scheme}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete_operation(path, operation)
    # FastAPI's own errors, which no route of ours answers with.
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _complete_operation(path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if path in OPEN:
        operation["security"] = []
    else:
        operation["security"] = [{"key": []}, {}]
        _add(answers, path, 401)
    if "requestBody" in operation:
        for status in BEFORE_A_BODY:
            _add(answers, path, status)
    if path.startswith(OPENAI):
        answers.pop("422", None)  # FastAPI adds it; this API says 400
    for answer in answers.values():
        content = answer.get("content", {})
        if PROBLEM in content:  # FastAPI puts every model under application/json
            content[PROBLEM] = content.pop("application/json", content[PROBLEM])
        if "text/event-stream" in content:
            del content["text/event-stream"]
            content["text/event-stream"] = EVENTS  # last: generators of clients take the first
    operation["responses"] = dict(sorted(answers.items()))


def _add(answers: dict[str, Any], path: str, status: int) -> None:
    """An answer that the route does not name itself."""
    if str(status) in answers:
        return
    [answer] = documented(status).values()
    name, content = ("ErrorAnswer", "application/json") if path.startswith(OPENAI) else ("Problem", PROBLEM)
    answers[str(status)] = {
        "description": answer["description"],
        "content": {content: {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }

"""Every way a call of the interface can fail. A model in this process and a service raise the same errors, those of
service/errors.py; here are the ones that only a client meets, because no answer of the service came. Knows no HTTP
client.

CarryError
├── (the errors of service/errors.py, each with its code)
├── ServiceError              an error of the service that has no class of its own; `code` tells which one
├── UnreachableError          the service cannot be reached, or the connection broke before the answer was complete
└── UnexpectedAnswerError     what answered is not Carry, such as a proxy's page of HTML
"""

from collections.abc import Iterator, Mapping
from typing import Any

from service.errors import (
    BodyTooLargeError,
    BusyError,
    CarryError,
    DeadlineExceededError,
    ForbiddenError,
    IdempotencyKeyError,
    InvalidRequestError,
    InvalidStateError,
    LimitExceededError,
    MalformedBodyError,
    ModelFailedError,
    ModelNotFoundError,
    ModelRefusedError,
    NonFiniteOutputError,
    NotReadyError,
    OwnerStoreFullError,
    QueueFullError,
    RetryLaterError,
    SessionConflictError,
    SessionExpiredError,
    SessionModelError,
    SessionNotFoundError,
    StepsPerMinuteError,
    StoreFullError,
    StoreUnavailableError,
    TooManySessionsError,
    UnauthorizedError,
    UnexpectedError,
    VersionMismatchError,
    VersionNotKeptError,
    WrongModelKindError,
)

__all__ = [
    "BodyTooLargeError",
    "BusyError",
    "CarryError",
    "DeadlineExceededError",
    "ForbiddenError",
    "IdempotencyKeyError",
    "InvalidRequestError",
    "InvalidStateError",
    "LimitExceededError",
    "MalformedBodyError",
    "ModelFailedError",
    "ModelNotFoundError",
    "ModelRefusedError",
    "NonFiniteOutputError",
    "NotReadyError",
    "OwnerStoreFullError",
    "QueueFullError",
    "RetryLaterError",
    "ServiceError",
    "SessionConflictError",
    "SessionExpiredError",
    "SessionModelError",
    "SessionNotFoundError",
    "StepsPerMinuteError",
    "StoreFullError",
    "StoreUnavailableError",
    "TooManySessionsError",
    "UnauthorizedError",
    "UnexpectedAnswerError",
    "UnexpectedError",
    "UnreachableError",
    "VersionMismatchError",
    "VersionNotKeptError",
    "WrongModelKindError",
    "error_of_problem",
]


class ServiceError(CarryError):
    """An error of the service that has no class of its own. `code` and `status` are the answer's."""


class UnreachableError(CarryError):
    """The service cannot be reached, or the connection broke before the answer was complete. `sent`: whether the
    service may have run the request. `status` is 0: there is no answer."""

    code = "unreachable"
    status = 0

    def __init__(self, detail: str, sent: bool = True) -> None:
        super().__init__(detail)
        self.sent = sent


class UnexpectedAnswerError(CarryError):
    """What answered is not Carry, such as a proxy's page of HTML. `status` is the answer's."""

    code = "unexpected_answer"

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


def error_of_problem(problem: Mapping[str, Any], retry_after: float = 0.0) -> CarryError:
    """The error of a problem document (RFC 9457): of its code's class, with its path and request id.

    retry_after: seconds that the service asks to wait, for a `RetryLaterError`.
    """
    code, errors = str(problem["code"]), problem.get("errors") or [{}]
    error_class = {each.code: each for each in _subclasses(CarryError)}.get(code, ServiceError)
    # Not by the class: some of the service's errors make their own text, which the problem already has.
    error = error_class.__new__(error_class)
    CarryError.__init__(error, str(problem.get("detail", "")), errors[0].get("path"))
    error.code, error.status = code, int(problem["status"])
    error.request_id = str(problem.get("request_id") or "") or None
    if isinstance(error, RetryLaterError):
        error.retry_after = round(retry_after)
    about = [f"field: {error.path}"] if error.path else []
    about += [f"code: {code}", f"status: {error.status}"]
    about += [f"request id: {error.request_id}"] if error.request_id else []
    error.add_note("; ".join(about))
    return error


def _subclasses(error_class: type[CarryError]) -> Iterator[type[CarryError]]:
    """The classes below a class that have a code of their own."""
    for subclass in error_class.__subclasses__():
        if "code" in vars(subclass):
            yield subclass
        yield from _subclasses(subclass)

"""Every way a request can fail, as one tree: a stable code and an HTTP status each. Knows nothing of the web framework.

CarryError
├── MalformedBodyError      400  the body is no JSON
├── InvalidRequestError     422  a field's value is not acceptable
│   ├── LimitExceededError  422  a field is longer or larger than the settings allow
│   ├── WrongModelKindError 422  a text model asked to forecast, or the other way round
│   └── NonFiniteOutputError 422  the model gives no finite numbers for this input
├── InvalidStateError       422  a state that is not ours, not whole, or of another model
├── IdempotencyKeyError     422  the key was used for another call
├── UnauthorizedError       401  no API key, or one that is not known
├── BodyTooLargeError       413  the body is larger than the settings allow
├── BodyEncodingError       415  the body is compressed in a way that is not read
├── UnsupportedError         404  something that other services do and this one does not
├── ModelNotFoundError      404  no model of that name (and version)
├── ModelRefusedError       409  the model's folder failed its checks
├── SessionNotFoundError    404  no such session, or another owner's
├── SessionExpiredError     410  it lived until its time was up
├── VersionMismatchError    412  the session is not at the version that If-Match names
├── SessionConflictError    409  others changed the session all the while
├── SessionModelError       409  the model of the session is not loaded
├── VersionNotKeptError     409  the version to go back to is not kept
├── TooManySessionsError    429  the owner has as many sessions as one may have
├── StoreFullError          507  no room for another session or state
├── OwnerStoreFullError     507  the owner's sessions and kept answers take as many bytes as one may have
├── StoreUnavailableError   503  the session store cannot be reached
├── CrossOriginError        403  a web page of another origin calls
├── NotReadyError           503  no model is ready
├── BusyError               503  more is being sent, or waits to be read, than there is room for
├── QueueFullError          429  more work waits than the settings allow: come back later
├── DeadlineExceededError   504  the request's time was up before it was done
├── ModelFailedError        500  the model itself failed: our fault, never the caller's
└── UnexpectedError         500  anything else: it is logged, and not shown
"""


class CarryError(Exception):
    """Something a caller is told, in words that are safe to show. `path` is the JSON path of the offending field."""

    code = "error"
    status = 500

    def __init__(self, detail: str, path: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.path = path


class MalformedBodyError(CarryError):
    """The body is not JSON."""

    code = "malformed_body"
    status = 400


class InvalidRequestError(CarryError):
    """A field's value is not acceptable."""

    code = "invalid_request"
    status = 422


class LimitExceededError(InvalidRequestError):
    """A field is longer or larger than the settings allow."""

    code = "limit_exceeded"


class WrongModelKindError(InvalidRequestError):
    """The model named is of the other kind."""

    code = "wrong_model_kind"


class NonFiniteOutputError(InvalidRequestError):
    """The model gives no finite numbers for this input."""

    code = "not_predictable"


class BodyTooLargeError(CarryError):
    """The body is larger than the settings allow."""

    code = "body_too_large"
    status = 413


class BodyEncodingError(CarryError):
    """The body is compressed in a way that is not read."""

    code = "unsupported_encoding"
    status = 415


class UnsupportedError(CarryError):
    """Something that clients of other services may ask for, and this one does not do."""

    code = "not_offered"
    status = 404


class ModelNotFoundError(CarryError):
    """No model of that name and version."""

    code = "model_not_found"
    status = 404


class ModelRefusedError(CarryError):
    """The model's folder failed its checks; the detail says which."""

    code = "model_refused"
    status = 409


class NotReadyError(CarryError):
    """No model is ready to answer."""

    code = "not_ready"
    status = 503


class CrossOriginError(CarryError):
    """A web page of another origin calls, perhaps without its user's knowledge."""

    code = "cross_origin"
    status = 403


class BusyError(CarryError):
    """More bodies are arriving, or answers wait to be read, than there is room for."""

    code = "busy"
    status = 503


class QueueFullError(CarryError):
    """More work waits already than the settings allow. `retry_after`: seconds until it should be done."""

    code = "queue_full"
    status = 429

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(f"{reason}; try again in {retry_after} s")
        self.retry_after = retry_after


class DeadlineExceededError(CarryError):
    """The request's time was up before it was done."""

    code = "deadline_exceeded"
    status = 504


class ModelFailedError(CarryError):
    """The model failed while it ran."""

    code = "model_failed"
    status = 500


class UnexpectedError(CarryError):
    """What was raised was none of these."""

    code = "internal_error"
    status = 500

    def __init__(self) -> None:
        super().__init__("an unexpected error; it has been logged")


class InvalidStateError(CarryError):
    """A state that this service did not sign, that is not whole, or that belongs to another model."""

    code = "state_refused"
    status = 422


class IdempotencyKeyError(CarryError):
    """The idempotency key was used for another call."""

    code = "idempotency_key_reused"
    status = 422


class UnauthorizedError(CarryError):
    """No API key, or one that is not known."""

    code = "unauthorized"
    status = 401


class SessionNotFoundError(CarryError):
    """No such session; or it is another owner's, which nobody is told."""

    code = "session_not_found"
    status = 404


class SessionExpiredError(CarryError):
    """The session lived until its time was up."""

    code = "session_expired"
    status = 410


class VersionMismatchError(CarryError):
    """The session is not at the version that the caller expects."""

    code = "version_mismatch"
    status = 412


class SessionConflictError(CarryError):
    """Others changed the session whenever this call was done; it changed nothing."""

    code = "session_conflict"
    status = 409


class SessionModelError(CarryError):
    """The model that the session belongs to is not loaded."""

    code = "session_model_gone"
    status = 409


class VersionNotKeptError(CarryError):
    """The version of the session to go back to is not kept, or never was."""

    code = "version_not_kept"
    status = 409


class TooManySessionsError(CarryError):
    """The owner has as many sessions as one may have."""

    code = "too_many_sessions"
    status = 429


class StoreFullError(CarryError):
    """The session store has no room; nothing was changed."""

    code = "store_full"
    status = 507


class OwnerStoreFullError(CarryError):
    """The owner's sessions and kept answers take as many bytes as one may have; nothing was changed."""

    code = "owner_store_full"
    status = 507


class StoreUnavailableError(CarryError):
    """The session store cannot be reached or read."""

    code = "store_unavailable"
    status = 503

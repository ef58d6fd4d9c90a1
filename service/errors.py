"""Every way a request can fail, as one tree: each error has a stable code and an HTTP status. Knows nothing of FastAPI.

CarryError
├── MalformedBodyError       400  the body is not JSON
├── InvalidRequestError      422  a field has a value that is not accepted
│   ├── LimitExceededError   422  a field exceeds a limit of the settings
│   ├── WrongModelKindError  422  the call needs another kind of model, such as a forecaster
│   └── NonFiniteOutputError 422  the model computes NaN or infinity from this input
├── InvalidStateError        422  the state is damaged, not signed by this service, or of another model
├── IdempotencyKeyError      422  another call already used this idempotency key
├── UnauthorizedError        401  the API key is missing or unknown
├── ForbiddenError           403  the API key may not make this call, or not use this model
├── BodyTooLargeError        413  the body exceeds the limit of the settings
├── BodyEncodingError        415  the body has an unsupported Content-Encoding
├── UnsupportedError         404  the client of another service asks for a feature that Carry lacks
├── ModelNotFoundError       404  no model has this name and version
├── PictureNotFoundError     404  the model's card has no picture of this name
├── ModelRefusedError        409  the model exists, but its folder failed the checks
├── SessionNotFoundError     404  the caller has no session with this id
├── SessionExpiredError      410  the session expired
├── VersionMismatchError     412  the session's version is not one of those in If-Match
├── SessionConflictError     409  other calls kept updating the session
├── SessionModelError        409  the session's model is not loaded
├── VersionNotKeptError      409  the store no longer has this version of the session
├── TooManySessionsError     429  the caller has reached the limit of sessions
├── StoreFullError           507  the session store is full
├── OwnerStoreFullError      507  the caller has reached the limit of bytes in the session store
├── StoreUnavailableError    503  the session store does not answer
├── CrossOriginError         403  a web page of another origin sent the request
├── NotReadyError            503  no model is ready
├── RouteNotFoundError       404  no such path
├── BusyError                503  the bodies or answers in transfer take all the memory for them
├── RetryLaterError          429  the service may accept the call later
│   ├── QueueFullError       429  the queue of the model is full
│   └── StepsPerMinuteError  429  the API key has taken its steps of this minute
├── DeadlineExceededError    504  the request did not finish before its deadline
├── ModelFailedError         500  the model failed: a fault of the service, not of the caller
└── UnexpectedError          500  any other exception: it is logged, not shown
"""


class CarryError(Exception):
    """An error that the caller sees: `detail` is safe to show, `path` is the JSON path of the field at fault.
    `request_id`: of the request in the service's log, if a client got the error from a service."""

    code = "error"
    status = 500
    request_id: str | None = None

    def __init__(self, detail: str, path: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.path = path


class MalformedBodyError(CarryError):
    """The body is not JSON."""

    code = "malformed_body"
    status = 400


class InvalidRequestError(CarryError):
    """A field has a value that is not accepted."""

    code = "invalid_request"
    status = 422


class LimitExceededError(InvalidRequestError):
    """A field exceeds a limit of the settings."""

    code = "limit_exceeded"


class WrongModelKindError(InvalidRequestError):
    """The model is of another kind than the call needs."""

    code = "wrong_model_kind"


class NonFiniteOutputError(InvalidRequestError):
    """The model computes NaN or infinity from this input."""

    code = "not_predictable"


class BodyTooLargeError(CarryError):
    """The body exceeds the limit of the settings."""

    code = "body_too_large"
    status = 413


class BodyEncodingError(CarryError):
    """The body has an unsupported Content-Encoding."""

    code = "unsupported_encoding"
    status = 415


class UnsupportedError(CarryError):
    """The client of another service asks for a feature that Carry lacks."""

    code = "not_offered"
    status = 404


class ModelNotFoundError(CarryError):
    """No model has this name and version."""

    code = "model_not_found"
    status = 404


class PictureNotFoundError(CarryError):
    """The model has no picture of this name."""

    code = "picture_not_found"
    status = 404


class RouteNotFoundError(CarryError):
    """The service has no such path, or not on this port."""

    code = "route_not_found"
    status = 404


class ModelRefusedError(CarryError):
    """The model exists, but its folder failed the checks; `detail` says which one."""

    code = "model_refused"
    status = 409


class NotReadyError(CarryError):
    """No model is ready."""

    code = "not_ready"
    status = 503


class CrossOriginError(CarryError):
    """A web page of another origin sent the request, perhaps without its user's knowledge."""

    code = "cross_origin"
    status = 403


class BusyError(CarryError):
    """The bodies or answers in transfer take all the memory for them."""

    code = "busy"
    status = 503


class RetryLaterError(CarryError):
    """The service may accept the call later: in `retry_after` seconds."""

    code = "retry_later"
    status = 429

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(f"{reason}; try again in {retry_after} s")
        self.retry_after = retry_after


class QueueFullError(RetryLaterError):
    """The queue of the model is full. `retry_after`: seconds until it should have room."""

    code = "queue_full"


class StepsPerMinuteError(RetryLaterError):
    """The API key has taken its steps of this minute. `retry_after`: seconds until it may take these."""

    code = "steps_per_minute"


class DeadlineExceededError(CarryError):
    """The request did not finish before its deadline."""

    code = "deadline_exceeded"
    status = 504


class ModelFailedError(CarryError):
    """The model failed while it ran."""

    code = "model_failed"
    status = 500


class UnexpectedError(CarryError):
    """Stands for any exception that is not a CarryError."""

    code = "internal_error"
    status = 500

    def __init__(self) -> None:
        super().__init__("unexpected error; the log has the details")


class InvalidStateError(CarryError):
    """The state is damaged, not signed by this service, or of another model."""

    code = "state_refused"
    status = 422


class IdempotencyKeyError(CarryError):
    """Another call already used this idempotency key."""

    code = "idempotency_key_reused"
    status = 422


class UnauthorizedError(CarryError):
    """The API key is missing or unknown."""

    code = "unauthorized"
    status = 401


class ForbiddenError(CarryError):
    """The API key may not make this call, or not use this model. `scope`: the one that the call needs."""

    code = "forbidden"
    status = 403
    scope: str | None = None

    def __init__(self, detail: str, scope: str | None = None) -> None:
        super().__init__(detail)
        self.scope = scope


class SessionNotFoundError(CarryError):
    """The caller has no session with this id. A session of another owner gives the same error."""

    code = "session_not_found"
    status = 404


class SessionExpiredError(CarryError):
    """The session expired."""

    code = "session_expired"
    status = 410


class VersionMismatchError(CarryError):
    """The session's version is not one of those in If-Match."""

    code = "version_mismatch"
    status = 412


class SessionConflictError(CarryError):
    """Retries exhausted: other calls kept updating the session. Nothing was written."""

    code = "session_conflict"
    status = 409


class SessionModelError(CarryError):
    """The session's model is not loaded."""

    code = "session_model_gone"
    status = 409


class VersionNotKeptError(CarryError):
    """The store does not have this version of the session."""

    code = "version_not_kept"
    status = 409


class TooManySessionsError(CarryError):
    """The owner has reached the limit of sessions."""

    code = "too_many_sessions"
    status = 429


class StoreFullError(CarryError):
    """The session store is full. Nothing was written."""

    code = "store_full"
    status = 507


class OwnerStoreFullError(CarryError):
    """The owner has reached the limit of bytes, for sessions and stored answers. Nothing was written."""

    code = "owner_store_full"
    status = 507


class StoreUnavailableError(CarryError):
    """The session store does not answer, or cannot be read."""

    code = "store_unavailable"
    status = 503

"""Every error a user can meet: its problem title, HTTP status and what to do about it.

`detail` is a full sentence that says what to do. HTTP turns these into RFC 9457 problem
documents, a WebSocket session into `error` frames with `code`, the command line into one line.
"""

from __future__ import annotations

from typing import Self

import msgspec

from busway.contract.problems import BadField, Problem, place

STARTING = "the gateway is starting: try again in a moment"


class BuswayError(Exception):
    """Base of all errors that are shown to users.

    Args:
        detail: one sentence that says what is wrong and what to do.
        errors: the fields that are not valid.
        retry_after: seconds after which the same request may succeed, or None.
    """

    status = 500
    title = "Internal error"
    code = "unavailable"

    def __init__(
        self, detail: str, *, errors: list[BadField] | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after

    @classmethod
    def of(cls, fields: list[BadField]) -> Self:
        """Return the error for these fields, at least one; `detail` is about the first."""
        first, where = fields[0].msg, place(fields[0].loc)
        detail = f"{where}: {first}" if where else first
        more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
        return cls(detail + more, errors=fields)

    def document(self) -> bytes:
        """Return the problem document (RFC 9457)."""
        name = "urn:busway:problem:" + self.title.lower().replace(" ", "-")
        errors = self.errors or msgspec.UNSET
        return msgspec.json.encode(Problem(name, self.title, self.status, self.detail, errors))

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the error."""
        found: dict[str, str] = {}
        if self.retry_after is not None:
            found["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            found["WWW-Authenticate"] = 'Bearer realm="busway"'
        return found


class BadRequest(BuswayError):
    """The request cannot be read at all: not JSON, not UTF-8, unknown query value."""

    status, title, code = 400, "Bad request", "bad_frame"


class BadCursor(BadRequest):
    """The text is no cursor."""

    title, code = "Bad cursor", "bad_cursor"


class Unauthorized(BuswayError):
    """No key, an unknown key or a revoked one."""

    status, title, code = 401, "Key needed", "not_allowed"


class Forbidden(BuswayError):
    """The key is good but lacks the scope, or the origin is foreign."""

    status, title, code = 403, "Not allowed", "not_allowed"


class NotFound(BuswayError):
    """Nothing has that name or number."""

    status, title = 404, "Not found"


class Conflict(BuswayError):
    """The object's state does not admit the action."""

    status, title = 409, "Conflict"


class Gone(BuswayError):
    """The cursor's place is no longer in the log."""

    status, title, code = 410, "Gone", "bad_cursor"


class RequestTimeout(BuswayError):
    """A request stopped coming."""

    status, title = 408, "Request timeout"


class TooLarge(BuswayError):
    """A body or an event is over its limit."""

    status, title, code = 413, "Too large", "bad_event"


class UnsupportedMediaType(BuswayError):
    """The Content-Type is not one of those taken here."""

    status, title = 415, "Unsupported media type"


class Misdirected(BuswayError):
    """The Host header does not name this machine, or the request was forwarded."""

    status, title, code = 421, "Misdirected request", "not_allowed"


class Invalid(BuswayError):
    """The body was read but a field is not what it must be."""

    status, title, code = 422, "Invalid", "bad_event"


class BadPattern(Invalid):
    """A type pattern cannot be read."""

    title, code = "Bad pattern", "bad_pattern"


class BadFilter(Invalid):
    """A filter cannot be read."""

    title, code = "Bad filter", "bad_filter"


class BadSubscription(Invalid):
    """A subscription cannot be opened as asked."""

    title, code = "Bad subscription", "bad_subscription"


class Unavailable(BuswayError):
    """The service cannot take this now; the outcome of what was under way may be unknown."""

    status, title = 503, "Unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class BadSettings(BuswayError):
    """The service cannot start as configured: exit status 2."""

    title = "Bad settings"

"""The errors that users see, with problem title and HTTP status.

`detail` says what is wrong and what to do. HTTP returns these errors as RFC 9457 problem documents, a
WebSocket session as `error` frames with `code`, the command line as one line.
"""

from __future__ import annotations

from typing import Self

import msgspec
from msgspec import UNSET, UnsetType

from busway.contract.problems import BadField, Problem, field_path
from busway.contract.uploads import UploadResult

STARTING = "the gateway is starting: try again in a moment"


class BuswayError(Exception):
    """Base of all errors that are shown to users.

    Args:
        detail: one sentence that says what is wrong and what to do.
        errors: the invalid fields.
        retry_after: seconds after which the same request may succeed, or None.
    """

    status = 500
    title = "Internal error"
    code = "unavailable"
    challenge = 'Bearer realm="busway"'

    def __init__(
        self, detail: str, *, errors: list[BadField] | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after

    @classmethod
    def of(cls, fields: list[BadField]) -> Self:
        """Return the error for one or more invalid fields. `detail` describes the first."""
        first, where = fields[0].msg, field_path(fields[0].loc)
        detail = f"{where}: {first}" if where else first
        more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
        return cls(detail + more, errors=fields)

    def document(self, upload: UploadResult | UnsetType = UNSET) -> bytes:
        """Return the problem document (RFC 9457). `upload`: what became of the lines before the error."""
        name = "urn:busway:problem:" + self.title.lower().replace(" ", "-")
        errors = self.errors or UNSET
        return msgspec.json.encode(Problem(name, self.title, self.status, self.detail, errors, upload))

    def headers(self) -> dict[str, str]:
        """Return the response headers of the error."""
        found: dict[str, str] = {}
        if self.retry_after is not None:
            found["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            found["WWW-Authenticate"] = self.challenge
        return found


class BadRequest(BuswayError):
    """The request cannot be read: not JSON, not UTF-8, or an unknown query value."""

    status, title, code = 400, "Bad request", "bad_frame"


class BadCursor(BadRequest):
    """The text is not a cursor."""

    title, code = "Bad cursor", "bad_cursor"


class Unauthorized(BuswayError):
    """The API key or token is missing, unknown, expired or revoked.

    Args:
        detail: as for `BuswayError`.
        reason: why a key or token that was sent is refused, for programs (RFC 6750). ASCII without quotes.
    """

    status, title, code = 401, "Key needed", "not_allowed"

    def __init__(self, detail: str, *, reason: str = "") -> None:
        super().__init__(detail)
        if reason:
            self.challenge = f'{self.challenge}, error="invalid_token", error_description="{reason}"'


class BadSignature(BuswayError):
    """A webhook has no valid signature of a source. It does not say whether the source exists."""

    status, title, code = 401, "Bad signature", "not_allowed"
    challenge = 'Signature realm="busway"'


class Forbidden(BuswayError):
    """The API key lacks the scope, or the origin is not allowed."""

    status, title, code = 403, "Not allowed", "not_allowed"


class NotFound(BuswayError):
    """No object has that name or number."""

    status, title = 404, "Not found"


class Conflict(BuswayError):
    """The state of the object does not allow the action."""

    status, title = 409, "Conflict"


class Gone(BuswayError):
    """The position of the cursor is no longer in the log."""

    status, title, code = 410, "Gone", "bad_cursor"


class RequestTimeout(BuswayError):
    """The request did not arrive completely in time."""

    status, title = 408, "Request timeout"


class TooLarge(BuswayError):
    """A body or an event exceeds its limit."""

    status, title, code = 413, "Too large", "bad_event"


class UnsupportedMediaType(BuswayError):
    """The Content-Type or Content-Encoding is not supported here.

    `accept_post`: the media types that are, if they are known. `accept_encoding`: the codings, likewise.
    """

    status, title = 415, "Unsupported media type"

    def __init__(
        self, detail: str, *, accept_post: str | None = None, accept_encoding: str | None = None
    ) -> None:
        super().__init__(detail)
        self.accept_post, self.accept_encoding = accept_post, accept_encoding

    def headers(self) -> dict[str, str]:
        """Return the response headers of the error."""
        named = {"Accept-Post": self.accept_post, "Accept-Encoding": self.accept_encoding}
        return super().headers() | {name: value for name, value in named.items() if value}


class Misdirected(BuswayError):
    """The Host header does not name this machine, or the request was forwarded."""

    status, title, code = 421, "Misdirected request", "not_allowed"


class UpgradeRequired(BuswayError):
    """The resource is a WebSocket, or the handshake is for another version of the protocol."""

    status, title = 426, "Upgrade required"


class TooManyRequests(BuswayError):
    """A key or an address does this too often, or is over one of its limits."""

    status, title, code = 429, "Too many requests", "too_many"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class HeadTooLarge(BuswayError):
    """The head of a request, its trailers or its chunk extensions exceed their limit."""

    status, title = 431, "Request header fields too large"


class Invalid(BuswayError):
    """The body is readable but a field is invalid."""

    status, title, code = 422, "Invalid", "bad_event"


class BadPattern(Invalid):
    """A type pattern is invalid."""

    title, code = "Bad pattern", "bad_pattern"


class BadFilter(Invalid):
    """A filter is invalid."""

    title, code = "Bad filter", "bad_filter"


class BadSubscription(Invalid):
    """A subscription cannot be opened with these options."""

    title, code = "Bad subscription", "bad_subscription"


class NotSupported(BuswayError):
    """The request uses a part of HTTP that this server does not implement."""

    status, title = 501, "Not implemented"


class Unavailable(BuswayError):
    """The service cannot process this now. The outcome of an operation in progress may be unknown."""

    status, title = 503, "Unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class Overloaded(Unavailable):
    """Too many events wait to be stored. Nothing of this operation is stored."""


class BadSettings(BuswayError):
    """The service cannot start with these settings. The exit status is 2."""

    title = "Bad settings"

"""Web origins: pages of other origins are refused unless the operator allows them. CORS for these.

CORS is defined by the Fetch standard, https://fetch.spec.whatwg.org/#http-cors-protocol. Pages of other
origins send keys in a header, and cookies are for the gateway's own pages. So credentials are never allowed,
and any request header is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Message, Scope, Send

from busway.domain.loopback import is_loopback

_FORM = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class OriginError(ValueError):
    """The text is not an origin."""


class Origin(NamedTuple):
    """A web origin. `port` defaults to the port of the scheme, None for an unknown scheme."""

    scheme: str
    host: str
    port: int | None


def read_origin(text: str) -> Origin:
    """Parse the serialization of an origin (RFC 6454, section 6.1), such as `https://app.example:8443`.

    Raises:
        OriginError: the text is not an origin. `null` is not accepted either.
    """
    form = _FORM.fullmatch(text.lower())
    if form is None:
        raise OriginError(
            f"an origin must be SCHEME://HOST or SCHEME://HOST:PORT without a path, not {text!r}"
        )
    scheme, host, port = form.groups()
    return Origin(scheme, host, int(port) if port else _PORTS.get(scheme))


def is_own(text: str, host: str) -> bool:
    """Return whether the origin is the gateway's own, that is, the address of the request.

    Only `host`, the Host header, is known of that address. Its scheme is not, because a proxy may terminate
    TLS. So a missing port is the default port of the origin's scheme.
    """
    scheme, _, named = text.partition("://")
    if named and named == host:
        return True
    try:
        return _same(read_origin(text), read_origin(f"{scheme}://{host}"))
    except OriginError:
        return False


def _same(one: Origin, other: Origin) -> bool:
    """Return whether origins are equal. All names of loopback are one host."""
    return one == other or (one.port == other.port and is_loopback(one.host) and is_loopback(other.host))


def without_port(host: str) -> str:
    """Return a Host header without its port."""
    return host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host


REMEMBER = "600"  # seconds for which a browser caches a preflight response
_METHODS = "GET, POST, PATCH, DELETE, OPTIONS"
_EXPOSED = (
    b"ETag, Location, Preference-Applied, Producer-Seq, RateLimit, RateLimit-Policy, Retry-After, "
    b"WWW-Authenticate"
)
_ASKED = b"access-control-request-method"


class Origins:
    """The origins whose pages may use this gateway, in addition to its own.

    Args:
        allowed: serialized origins, such as `https://app.example`.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(map(read_origin, allowed))

    def admit(self, origin: str, host: str) -> bool:
        """Return whether a page of `origin` may send requests to `host`."""
        return is_own(origin, host) or self._allows(origin)

    @property
    def any(self) -> bool:
        """Whether there are any, so that answers depend on the origin of a request."""
        return bool(self._allowed)

    def allowed(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Return the origin of a request if it is in the allowed list, else None."""
        if not self._allowed:
            return None
        origin = next((value for name, value in headers if name == b"origin"), None)
        return origin if origin is not None and self._allows(origin.decode("latin-1")) else None

    def _allows(self, origin: str) -> bool:
        try:
            return bool(self._allowed) and read_origin(origin) in self._allowed
        except OriginError:
            return False


def preflight(scope: Scope) -> Response | None:
    """Return the response to a CORS preflight request, None for any other request."""
    headers = dict(scope["headers"])
    if scope["method"] != "OPTIONS" or _ASKED not in headers:
        return None
    answer = Response(status_code=204, headers=_permissions(headers))
    del answer.headers["content-type"]
    return answer


def _permissions(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    asked = headers.get(b"access-control-request-headers", b"").decode("latin-1")
    granted = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Max-Age": REMEMBER,
        "Vary": "Access-Control-Request-Headers, Access-Control-Request-Private-Network",
    }
    if asked:
        granted["Access-Control-Allow-Headers"] = asked
    if headers.get(b"access-control-request-private-network") == b"true":
        granted["Access-Control-Allow-Private-Network"] = "true"
    return granted


def sharing(origin: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers that let a page of this origin read a response."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    ]


def shared(send: Send, origin: bytes | None) -> Send:
    """Wrap `send` so that a page of this origin can read any response. None: of no other origin."""
    extra = [(b"vary", b"Origin")] if origin is None else sharing(origin)

    @functools.wraps(send)  # code that needs the transport still finds it
    async def send_shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return send_shared

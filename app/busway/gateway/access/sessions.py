"""Sessions of web pages: signed cookies that stand for an API key or a token.

The cookie names the key and has no part of its secret. For a token it says what that gives. It is signed with
the secret of the cell, so it is valid on every node. It ends with its key or token, or after `LIFETIME`.
Signing out removes it from the browser; a copy of it stays valid until then, so revoke the key of a stolen
one.

A browser sends a cookie with every request, also with those that other sites cause. So a request that may
change something must come from a page of the gateway itself, and have a header that pages of other origins
cannot send (CSRF).
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, IPv6Network, ip_address

import msgspec

from busway.gateway.access.grants import Grant, grant
from busway.gateway.access.origins import is_own
from busway.gateway.access.scopes import Access
from busway.gateway.errors import Forbidden, TooManyRequests, Unauthorized

COOKIE = "busway_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""Its name over HTTPS: a browser takes it only over HTTPS and only from this very host."""
CSRF = "X-Busway-CSRF"
LIFETIME = 43_200.0  # seconds
LONGEST = 3_800  # characters of a session token: browsers keep cookies of 4 KiB
SESSION_HEADERS = frozenset({b"cookie", b"sec-fetch-site", CSRF.lower().encode()})
"""The headers that sessions need."""

_COOKIE = re.compile(
    rf"(?:^|;)\s*({SECURE_COOKIE}|{COOKIE})=(bws_[A-Za-z0-9_-]{{1,{LONGEST}}})\s*(?=;|$)", re.ASCII
)
_MAC = 32  # bytes


class Use(enum.Enum):
    """What a request wants. It decides how a session cookie must be protected.

    `PAGE`: a public page, to which other sites may link. `READ`: nothing is changed. `CHANGE`: something may
    be changed. `SOCKET`: a WebSocket, with which a page can send no headers of its own.
    """

    PAGE = enum.auto()
    READ = enum.auto()
    CHANGE = enum.auto()
    SOCKET = enum.auto()


class Session(msgspec.Struct, array_like=True, frozen=True):
    """What a cookie says.

    Attributes:
        id: makes it another one than all others.
        key: the id of the API key, or the number of the subject of a token.
        until: microseconds since 1970 when it ends.
        grant: what the token gives. None: it is the session of a key.
    """

    id: bytes
    key: int
    until: int
    grant: Grant | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Session).decode


class Sessions:
    """Makes and reads session tokens.

    Args:
        secret: of the cell.
        clock: microseconds since 1970.
    """

    def __init__(self, secret: bytes, clock: Callable[[], int]) -> None:
        self._secret = hmac.digest(secret, b"sessions", "sha256")
        self._clock = clock

    def issue(self, access: Access) -> tuple[str, int]:
        """Return a session token for the key or the token that gives an access, and when it ends.

        Raises:
            Forbidden: the type patterns of the token are too long for a cookie.
        """
        end = self._clock() + round(LIFETIME * 1e6)
        if access.until is not None:
            end = min(end, access.until)
        given = grant(access) if access.signer else None
        body = _encode(Session(secrets.token_bytes(8), access.key or 0, end, given))
        text = "bws_" + base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")
        if len(text) > LONGEST:
            raise Forbidden(
                "the type patterns of this token are too long for a cookie: send it as "
                "`Authorization: Bearer TOKEN` with each request"
            )
        return text, end

    def read(self, text: str) -> Session:
        """Return what a token says.

        Raises:
            Unauthorized: it is not one of this gateway, or has ended.
        """
        try:
            data = base64.urlsafe_b64decode(text.removeprefix("bws_").encode() + b"==")
        except (ValueError, binascii.Error):
            data = b""
        if not hmac.compare_digest(data[:_MAC], self._sign(data[_MAC:])):
            raise _ended()
        session = _decode(data[_MAC:])
        if session.until <= self._clock():
            raise _ended()
        return session

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")


def _ended() -> Unauthorized:
    return Unauthorized("this session has ended: sign in again with POST /v1/session", reason="ended session")


def cookie_token(cookies: bytes | None, *, encrypted: bool = False) -> str | None:
    """Return the session token of a `Cookie` header, None if it has none. The one of HTTPS comes first.

    `encrypted`: only that one counts. The other one can be planted by a site of the same domain.
    """
    if cookies is None or COOKIE.encode() not in cookies:
        return None
    found = dict(reversed(_COOKIE.findall(cookies.decode("latin-1"))))
    return found.get(SECURE_COOKIE) or (None if encrypted else found.get(COOKIE))


def set_cookie(token: str, seconds: int, *, secure: bool) -> str:
    """Return the `Set-Cookie` header of a session. `seconds`: how long the browser keeps it; 0 removes it."""
    form = "{}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict"
    if secure:
        return form.format(SECURE_COOKIE, token, seconds) + "; Secure"
    return form.format(COOKIE, token, seconds)


def check_own_page(found: Mapping[bytes, bytes], host: str, use: Use) -> None:
    """Check that a page of the gateway itself sent a request with a session cookie.

    Args:
        found: headers of the request; `SESSION_HEADERS`, `origin` and others.
        host: its `Host` header.
        use: what it wants.

    Raises:
        Forbidden: it comes from another page, or that is not known and it is not only read.
    """
    origin, site = found.get(b"origin"), found.get(b"sec-fetch-site")
    own = origin is not None and is_own(origin.decode("latin-1"), host)
    if (origin is not None and not own) or site not in {None, b"same-origin", b"none"}:
        raise Forbidden("a session is for pages of the gateway itself: send an API key instead")
    if use is Use.SOCKET and not own:
        raise Forbidden("a WebSocket with a session needs the header Origin: send an API key instead")
    if use is Use.CHANGE and not (own or site == b"same-origin"):
        raise Forbidden("a change with a session needs the header Origin or Sec-Fetch-Site: send one of them")
    if use is Use.CHANGE and CSRF.lower().encode() not in found:
        raise Forbidden(f"a change with a session needs the header {CSRF}: send `{CSRF}: 1`")


class SignIns:
    """Bounds wrong sign-ins by address: 10 in a row, then one every 6 seconds.

    Args:
        monotonic: returns monotonic seconds.
    """

    WRONG = 10
    EVERY = 6.0  # seconds
    MOST = 10_000  # addresses

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # When all wrong sign-ins of an address are forgotten.
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str) -> None:
        """Check that an address may sign in.

        Raises:
            TooManyRequests: too many sign-ins from it were wrong.
        """
        wait = self._free_at.get(_group(address), 0.0) - self._monotonic() - (self.WRONG - 1) * self.EVERY
        if wait > 0:
            raise TooManyRequests(
                "too many wrong keys came from this address: try again later", retry_after=math.ceil(wait)
            )

    def wrong(self, address: str) -> None:
        """Count a wrong sign-in."""
        name, now = _group(address), self._monotonic()
        self._free_at[name] = max(self._free_at.pop(name, now), now) + self.EVERY
        while len(self._free_at) > self.MOST:
            self._free_at.popitem(last=False)


def _group(address: str) -> str:
    """Return what one client has: an address or, of IPv6, a network of 64 bits."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return str(IPv6Network((int(found) >> 64 << 64, 64))) if isinstance(found, IPv6Address) else address

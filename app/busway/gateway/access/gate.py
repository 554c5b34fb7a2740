"""Who may do what: keys, and the open gateway on loopback that has none yet."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from urllib.parse import parse_qsl

from busway.gateway.access.origins import Origins
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.access.ticket import NoRoom, TicketError, Tickets
from busway.gateway.errors import Forbidden, Misdirected, Unauthorized, Unavailable
from busway.gateway.store.port.reader import KeyRecord

Headers = Iterable[tuple[bytes, bytes]]

_FORWARDED = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
_KEY = re.compile(r"bw_([0-9]{1,18})_(.{1,200})", re.ASCII)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_LOOPBACK_4 = re.compile(r"127(?:\.[0-9]{1,3}){3}", re.ASCII)
LOOKS_AT = frozenset({b"authorization", b"host", b"origin"}) | _FORWARDED
"""The headers that admission looks at."""


def new_secret() -> tuple[str, bytes]:
    """Make the secret half of a key and the digest under which the store keeps it."""
    secret = secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> bytes:
    """Digest a secret. It is 256 random bits, so a plain SHA-256 cannot be searched."""
    return hashlib.sha256(secret.encode()).digest()


def key_text(id_: int, secret: str) -> str:
    """Write a key as its holder sees it, once."""
    return f"bw_{id_}_{secret}"


class Gate:
    """Admits requests by their headers.

    Args:
        clock: microseconds since 1970.
        origins: whose pages may ask.
        monotonic: seconds, for the life of tickets.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        origins: Origins | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._origins = origins or Origins()
        self._tickets = Tickets()
        self._keys: dict[int, KeyRecord] = {}
        self._holders: set[int | None] = {None}
        self.edition = object()  # another one whenever other keys are known

    @property
    def open(self) -> bool:
        """Whether no key was ever made: everybody on loopback may do everything."""
        return not self._keys

    def load(self, keys: list[KeyRecord]) -> set[int | None]:
        """Take the keys as the store has them; return those that are good no longer.

        None is among them when the first key closed the open gateway.
        """
        before, known = self._holders, self._keys
        self._keys = {key.id: key for key in keys}
        if self._keys != known:
            self.edition = object()
        self._holders = {key.id for key in keys if self._good(key)} if keys else {None}
        return before - self._holders

    def admit(self, headers: Headers) -> Access:
        """Tell who asks.

        Raises:
            Unauthorized: a key is needed and none is there, or it is unknown, expired or revoked.
            Forbidden: a page of a foreign origin asks.
            Misdirected: the gateway is open and is not asked by its loopback name, or by a proxy.
        """
        found = self._look(headers)
        return self._holder(found.get(b"authorization")) if self._keys else OPEN

    def lasts(self, access: Access) -> bool:
        """Tell whether who was admitted with this access always is, by the same headers, in this edition."""
        key = None if access.key is None else self._keys.get(access.key)
        return access.key is None or (key is not None and key.expires_at is None)

    def admit_subscriber(self, headers: Headers, query: bytes) -> Access:
        """Tell who subscribes: a `ticket` in the query string stands for the key that it was given to.

        Raises:
            Unauthorized: also if the ticket is unknown, used, expired, or its key good no longer.
            Forbidden, Misdirected: as from `admit`.
        """
        tickets = [value for name, value in _pairs(query) if name == "ticket"]
        if not tickets:
            return self.admit(headers)
        self._look(headers)
        try:
            return self._held(self._tickets.redeem(tickets[0], self._monotonic()))
        except TicketError as problem:
            raise Unauthorized(str(problem)) from None

    def ticket(self, access: Access) -> str:
        """Issue a ticket that stands for this access.

        Raises:
            Unavailable: too many are about.
        """
        try:
            return self._tickets.issue(access.key, self._monotonic())
        except NoRoom as problem:
            seconds = math.ceil(problem.seconds)
            raise Unavailable("too many tickets are about: ask again later", retry_after=seconds) from None

    def _look(self, headers: Headers) -> dict[bytes, bytes]:
        """Check where a request comes from and return the headers that tell who asks."""
        found = {name: value for name, value in headers if name in LOOKS_AT}
        host = found.get(b"host", b"").decode("latin-1")
        origin = found.get(b"origin")
        if origin is not None and not self._origins.admit(origin.decode("latin-1"), host):
            raise Forbidden(
                "pages of other origins may not use this gateway: open it under its own address, "
                "or allow their origin with --allow-origin"
            )
        if not self._keys:
            self._check_loopback(host, found)
        return found

    def _check_loopback(self, host: str, found: dict[bytes, bytes]) -> None:
        if not _is_loopback(host):
            raise Misdirected(
                f"this gateway has no keys and answers only to localhost, not to {host!r}: "
                "make a key with `busway keys create NAME`"
            )
        if not _FORWARDED.isdisjoint(found):
            raise Misdirected(
                "this gateway has no keys and takes no forwarded requests: "
                "make a key with `busway keys create NAME`"
            )

    def _holder(self, authorization: bytes | None) -> Access:
        if authorization is None:
            raise Unauthorized("send a key: Authorization: Bearer KEY (`busway keys create NAME` makes one)")
        scheme, _, text = authorization.decode("latin-1").partition(" ")
        form = _KEY.fullmatch(text.strip())
        if scheme.lower() != "bearer" or form is None:
            raise Unauthorized("that is no key: send Authorization: Bearer bw_…")
        key, secret = self._keys.get(int(form[1])), form[2]
        if not hmac.compare_digest(digest(secret), key.digest if key else b"") or key is None:
            raise Unauthorized("this key is not known here")
        if not self._good(key):
            raise Unauthorized("this key was revoked or has expired")
        return _access(key)

    def _held(self, id_: int | None) -> Access:
        """Return the access of a ticket by the number of its key, as that key is now."""
        key = None if id_ is None else self._keys.get(id_)
        if id_ is None and not self._keys:
            return OPEN
        if id_ is None:
            raise Unauthorized(
                "this ticket is from before the first key was made: ask for another with a key"
            )
        if key is None or not self._good(key):
            raise Unauthorized(
                "the key of this ticket was revoked or has expired: ask for another with a good one"
            )
        return _access(key)

    def _good(self, key: KeyRecord) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > self._clock())


@lru_cache(256)
def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name.lower() in _LOOPBACK or _LOOPBACK_4.fullmatch(name) is not None


def _access(key: KeyRecord) -> Access:
    return Access(key.id, frozenset(key.scopes))


def _pairs(query: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a query string; what cannot be read is refused by who takes it."""
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def check_scope(access: Access, scope: str) -> Access:
    """Return the access if it holds the scope.

    Raises:
        Forbidden: it does not.
    """
    if not access.may(scope):
        raise Forbidden(f"this key lacks the scope {scope!r}")
    return access

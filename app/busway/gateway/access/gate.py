"""Admission of requests: by API key or, while no key exists, only on loopback."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable
from urllib.parse import parse_qsl

from busway.domain.loopback import is_loopback
from busway.gateway.access.hooks import Hooks
from busway.gateway.access.origins import Origins, without_port
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.access.ticket import SharedTickets, TicketError, Tickets, TooManyTickets
from busway.gateway.errors import Forbidden, Misdirected, Unauthorized, Unavailable
from busway.gateway.store.port.reader import KeyRecord

Headers = Iterable[tuple[bytes, bytes]]

_FORWARDED = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
_KEY = re.compile(r"bw_([0-9]{1,18})_(.{1,200})", re.ASCII)
ADMISSION_HEADERS = frozenset({b"authorization", b"host", b"origin"}) | _FORWARDED
"""The headers that admission reads."""


def new_secret() -> tuple[str, bytes]:
    """Return a new secret for an API key, and the digest that the store keeps."""
    secret = secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> bytes:
    """Return the digest of a secret. It has 256 random bits, so a plain SHA-256 is safe."""
    return hashlib.sha256(secret.encode()).digest()


def key_text(id_: int, secret: str) -> str:
    """Return the text of an API key, which is shown once."""
    return f"bw_{id_}_{secret}"


class Gate:
    """Admits requests by their headers.

    Args:
        clock: returns microseconds since 1970.
        origins: the allowed origins of web pages.
        monotonic: returns monotonic seconds, for the lifetime of tickets.
        shared: tickets that other nodes accept, too. None: there are no other nodes.

    Attributes:
        hooks: admits webhooks, which have a signature instead of a key.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        origins: Origins | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        shared: SharedTickets | None = None,
    ) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._origins = origins or Origins()
        self._tickets, self._shared = Tickets(), shared
        self.hooks = Hooks(clock)
        self._keys: dict[int, KeyRecord] = {}
        self._accesses: dict[int, Access] = {}
        self._valid_ids: set[int | None] = {None}
        self.edition = object()  # replaced when the keys change, and when their use is recorded
        self._used: set[int] = set()

    @property
    def open(self) -> bool:
        """Whether no API key exists. Then every request from loopback has full access."""
        return not self._keys

    def load(self, keys: list[KeyRecord]) -> set[int | None]:
        """Replace the keys by those in the store. Return the ids of keys that are no longer valid.

        None is among them when the first key ends open access.
        """
        before, known = self._valid_ids, self._keys
        self._keys = {key.id: key for key in keys}
        self._accesses = {key.id: _access(key) for key in keys}
        if self._keys != known:
            self.edition = object()
        self._valid_ids = {key.id for key in keys if self._is_valid(key)} if keys else {None}
        return before - self._valid_ids

    def take_used(self) -> set[int]:
        """Return the ids of the keys that were used since the last call.

        Heads that are remembered with their edition count once.
        """
        used, self._used = self._used, set()
        return used

    def count_again(self) -> None:
        """Let heads that are remembered count again as a use of their key, with their next request."""
        self.edition = object()

    def admit(self, headers: Headers) -> Access:
        """Return the access of a request.

        Raises:
            Unauthorized: the key is missing, unknown, expired or revoked.
            Forbidden: the request comes from a page of another origin that is not allowed.
            Misdirected: there are no keys, and the Host is not loopback or a proxy forwarded the request.
        """
        found = self._read_headers(headers)
        return self._key_access(found.get(b"authorization")) if self._keys else OPEN

    def lasts(self, access: Access) -> bool:
        """Return whether the same headers will get this access until `edition` changes."""
        key = None if access.key is None else self._keys.get(access.key)
        return access.key is None or (key is not None and key.expires_at is None)

    def admit_subscriber(self, headers: Headers, query: bytes) -> Access | str:
        """Return the access of a subscriber, or the ticket that replaces its key, for `redeem`.

        Raises:
            Unauthorized, Forbidden, Misdirected: as from `admit`.
        """
        tickets = [value for name, value in _pairs(query) if name == "ticket"]
        if not tickets:
            return self.admit(headers)
        self._read_headers(headers)
        return tickets[0]

    async def redeem(self, ticket: str) -> Access:
        """Use a ticket, and return the access that it gives.

        Raises:
            Unauthorized: the ticket is unknown, used or expired, or its key no longer valid.
            Unavailable: the store cannot be used.
        """
        try:
            if self._shared is not None:
                return self._ticket_access(await self._shared.redeem(ticket))
            return self._ticket_access(self._tickets.redeem(ticket, self._monotonic()))
        except TicketError as problem:
            raise Unauthorized(str(problem)) from None

    def ticket(self, access: Access) -> str:
        """Issue a ticket for this access.

        Raises:
            Unavailable: there are too many tickets.
        """
        if self._shared is not None:
            return self._shared.issue(access.key)
        try:
            return self._tickets.issue(access.key, self._monotonic())
        except TooManyTickets as problem:
            seconds = math.ceil(problem.seconds)
            raise Unavailable("there are too many tickets: try again later", retry_after=seconds) from None

    def _read_headers(self, headers: Headers) -> dict[bytes, bytes]:
        """Check the origin of a request and return the headers that admission reads."""
        found = {name: value for name, value in headers if name in ADMISSION_HEADERS}
        host = found.get(b"host", b"").decode("latin-1")
        origin = found.get(b"origin")
        if origin is not None and not self._origins.admit(origin.decode("latin-1"), host):
            raise Forbidden(
                "pages of other origins may not use this gateway: open the page from the gateway's address, "
                "or allow its origin with --allow-origin"
            )
        if not self._keys:
            self._check_loopback(host, found)
        return found

    def _check_loopback(self, host: str, found: dict[bytes, bytes]) -> None:
        if not is_loopback(without_port(host)):
            raise Misdirected(
                f"this gateway has no API keys and accepts only the host localhost, not {host!r}: "
                "create a key with `busway keys create NAME`"
            )
        if not _FORWARDED.isdisjoint(found):
            raise Misdirected(
                "this gateway has no API keys and accepts no forwarded requests: "
                "create a key with `busway keys create NAME`"
            )

    def _key_access(self, authorization: bytes | None) -> Access:
        if authorization is None:
            raise Unauthorized(
                "missing API key: send `Authorization: Bearer KEY` (`busway keys create NAME` creates one)"
            )
        scheme, _, text = authorization.decode("latin-1").partition(" ")
        form = _KEY.fullmatch(text.strip())
        if scheme.lower() != "bearer" or form is None:
            raise Unauthorized("malformed API key: expected `Authorization: Bearer bw_…`")
        key, secret = self._keys.get(int(form[1])), form[2]
        if not hmac.compare_digest(digest(secret), key.digest if key else b"") or key is None:
            raise Unauthorized("unknown API key: check the key, or create one with `busway keys create NAME`")
        if not self._is_valid(key):
            raise Unauthorized("this API key was revoked or has expired: use another one")
        self._used.add(key.id)
        return self._accesses[key.id]

    def _ticket_access(self, id_: int | None) -> Access:
        """Return the current access of the key with this id, which a ticket names."""
        key = None if id_ is None else self._keys.get(id_)
        if id_ is None and not self._keys:
            return OPEN
        if id_ is None:
            raise Unauthorized(
                "this ticket was issued before the first key was created: get a new one with a key"
            )
        if key is None or not self._is_valid(key):
            raise Unauthorized(
                "the key of this ticket was revoked or has expired: get a new one with a valid key"
            )
        self._used.add(key.id)
        return self._accesses[key.id]

    def _is_valid(self, key: KeyRecord) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > self._clock())


def _access(key: KeyRecord) -> Access:
    return Access(key.id, frozenset(key.scopes), tuple(key.types or ()))


def _pairs(query: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a query string. Later code refuses invalid values."""
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def check_scope(access: Access, scope: str) -> Access:
    """Return the access if it grants the scope.

    Raises:
        Forbidden: it does not grant the scope.
    """
    if not access.may(scope):
        raise Forbidden(f"this API key lacks the scope {scope!r}: use a key that has it")
    return access

"""Admission of requests: by API key, token or session, or on loopback while nothing says who may come in.

A request is identified by the first way that it uses: see `Gate._ways`. Each way returns its access, None if
the request does not use it, or raises `Unauthorized`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from busway.domain.loopback import is_loopback
from busway.gateway.access.grants import granted
from busway.gateway.access.hooks import Hooks
from busway.gateway.access.keys import PREFIX, Keys
from busway.gateway.access.origins import Origins, without_port
from busway.gateway.access.pending import settled
from busway.gateway.access.proxies import FORWARDING
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.access.sessions import (
    SESSION_HEADERS,
    Sessions,
    SignIns,
    Use,
    check_own_page,
    cookie_token,
)
from busway.gateway.access.ticket import SharedTickets, TicketError, Tickets, TooManyTickets
from busway.gateway.errors import BadRequest, Conflict, Forbidden, Misdirected, Unauthorized, Unavailable
from busway.gateway.store.port.reader import KeyRecord

Headers = Iterable[tuple[bytes, bytes]]

ADMISSION_HEADERS = frozenset({b"authorization", b"host", b"origin"}) | SESSION_HEADERS | FORWARDING
"""The headers that admission reads."""
_SINGLE = (b"authorization", b"origin", b"sec-fetch-site")


class Tokens(Protocol):
    """Identifies the bearers of tokens that another party has signed."""

    def identify(self, text: str) -> Access:
        """Return the access that a token gives.

        Raises:
            Unauthorized: it is not valid.
            KeysPending: it may be, once the keys of its issuer have been read.
            Unavailable: they cannot be read.
        """

    def still_valid(self, access: Access) -> bool:
        """Return whether the token of an access is still valid."""

    def check(self, access: Access) -> None:
        """Check the token of an access that this or another node gave before.

        Raises:
            Unauthorized: it is no longer valid.
            KeysPending: it may be, once the keys of its issuer have been read.
            Unavailable: they cannot be read.
        """


class Gate:
    """Admits requests by their headers.

    Args:
        clock: returns microseconds since 1970.
        origins: the allowed origins of web pages.
        monotonic: returns monotonic seconds, for the lifetime of tickets.
        shared: tickets that other nodes accept, too. None: there are no other nodes.
        tokens: identifies bearers of tokens. None: tokens are not accepted.
        closed: whether the gateway is not open either while there are no keys.
        encrypted: whether all browsers use HTTPS. Then only the cookie of HTTPS counts, which no other host
            can plant.
        secret: of the cell, which signs sessions. By default one that no other node knows.

    Attributes:
        hooks: admits webhooks, which have a signature instead of a key.
        loading: held while keys or sources are read and loaded, so that an older read replaces no newer one.
        keys: the API keys.
        edition: replaced when the keys change, and when their use is recorded. Until then and until an access
            ends, the same headers get the same access.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        origins: Origins | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        shared: SharedTickets | None = None,
        *,
        tokens: Tokens | None = None,
        closed: bool = False,
        encrypted: bool = False,
        secret: bytes | None = None,
    ) -> None:
        self.clock, self._monotonic = clock, monotonic
        self._origins = origins or Origins()
        self._tickets, self._shared = Tickets(), shared
        self.hooks, self.loading = Hooks(clock), asyncio.Lock()
        self.keys = Keys(clock)
        self._tokens, self._closed = tokens, closed or tokens is not None
        self._sessions = Sessions(secret or secrets.token_bytes(32), clock)
        self._sign_ins, self._encrypted = SignIns(monotonic), encrypted
        self._ways = (self._by_bearer, self._by_session)
        self._valid_ids: set[int | None] = {None}
        self.edition = object()

    @property
    def open(self) -> bool:
        """Whether nothing says who may come in. Then every request from loopback has full access."""
        return not self._closed and not self.keys

    def load(self, keys: list[KeyRecord]) -> set[int | None]:
        """Replace the keys by those in the store. Return the ids of keys that are no longer valid.

        None is among them when the first key ends open access.
        """
        return self._loaded(changed=self.keys.load(keys))

    def declare(self, keys: list[KeyRecord]) -> set[int | None]:
        """Replace the keys by those in the keys file. Return as `load` does."""
        return self._loaded(changed=self.keys.declare(keys))

    def count_again(self) -> None:
        """Check remembered heads again at their next request, and count them as a use of their key."""
        self.edition = object()

    def admit(self, headers: Headers, use: Use = Use.CHANGE) -> Access:
        """Return the access of a request.

        Raises:
            Unauthorized: the key or token is missing, unknown, expired or revoked.
            Forbidden: the request comes from a page of another origin that is not allowed, or it is not
                protected as a session needs it.
            Misdirected: the gateway is open, and the Host is not loopback or a proxy forwarded the request.
            BadRequest: a header that says who sends it appears twice.
            Unavailable: it is not known now whether the token is valid.
        """
        found = self._read_headers(headers, use)
        if self.open:
            return OPEN
        for way in self._ways:
            access = way(found, use)
            if access is not None:
                return access
        raise Unauthorized(
            "missing API key: send `Authorization: Bearer KEY` (`busway keys create NAME` creates one)"
        )

    def sign_in(self, text: str, address: str) -> tuple[Access, str]:
        """Return the access of an API key or a token as a session, and the session token.

        Args:
            text: the key or the token.
            address: of the client.

        Raises:
            Unauthorized: it is unknown, malformed, expired or revoked.
            Forbidden: the type patterns of the token are too long for a cookie.
            KeysPending: the keys of the issuer are being read.
            Unavailable: they cannot be read.
            Conflict: the gateway is open.
            TooManyRequests: too many wrong keys came from the address.
        """
        if self.open:
            raise Conflict("this gateway has no API keys, so nobody needs to sign in")
        self._sign_ins.check(address)
        try:
            access = self._bearer(text.strip())
        except Unauthorized:
            self._sign_ins.wrong(address)
            raise
        token, until = self._sessions.issue(access)
        return msgspec.structs.replace(access, source="session", until=until), token

    def admit_subscriber(self, headers: Headers, query: bytes, use: Use = Use.READ) -> Access | str:
        """Return the access of a subscriber, or the ticket that replaces its key, for `redeem`.

        Raises:
            Unauthorized, Forbidden, Misdirected, Unavailable: as from `admit`.
        """
        tickets = [value for name, value in _pairs(query) if name == "ticket"]
        if not tickets:
            return self.admit(headers, use)
        self._read_headers(headers, use)
        return tickets[0]

    def holds(self, access: Access) -> bool:
        """Return whether an access that was given before is still good."""
        if access.source == "open" or access.key is None:
            return self.open
        if access.signer:
            return self._tokens is not None and self._tokens.still_valid(access)
        return self.keys.current(access.key) is not None and (
            access.until is None or self.clock() < access.until
        )

    async def renew(self, access: Access, text: str) -> Access:
        """Return the access that a fresh token gives to the bearer of this one. A key does as well.

        Raises:
            Unauthorized: the token is not valid.
            Forbidden: it is of somebody else, or the gateway is open.
            Unavailable: it is not known now whether it is valid.
        """
        if self.open:
            raise Forbidden("this gateway has no API keys and accepts no tokens: go on without one")
        fresh = await settled(lambda: self._bearer(text))
        if fresh.key != access.key:
            raise Forbidden(
                "this token is of another subject than the one of the connection: open another connection"
            )
        return fresh

    async def redeem(self, ticket: str) -> Access:
        """Use a ticket, and return the access that it gives.

        Raises:
            Unauthorized: the ticket is unknown, used or expired, or its key no longer valid.
            Unavailable: the store cannot be used.
        """
        try:
            if self._shared is not None:
                holder = await self._shared.redeem(ticket)
            else:
                holder = self._tickets.redeem(ticket, self._monotonic())
        except TicketError as problem:
            raise Unauthorized(str(problem)) from None
        return await settled(lambda: self._ticket_access(holder))

    def ticket(self, access: Access) -> str:
        """Issue a ticket for this access.

        Raises:
            Unavailable: there are too many tickets.
        """
        token = access if access.signer else None
        if self._shared is not None:
            return self._shared.issue(access.key, token)
        try:
            return self._tickets.issue(access.key, self._monotonic(), token)
        except TooManyTickets as problem:
            seconds = math.ceil(problem.seconds)
            raise Unavailable("there are too many tickets: try again later", retry_after=seconds) from None

    def _read_headers(self, headers: Headers, use: Use) -> dict[bytes, bytes]:
        """Check the origin of a request and return the headers that admission reads."""
        given = [(name, value) for name, value in headers if name in ADMISSION_HEADERS]
        found = dict(given)
        if len(found) < len(given):
            _check_single(given)
        host = found.get(b"host", b"").decode("latin-1")
        origin = found.get(b"origin")
        if origin is not None and not self._origins.admit(origin.decode("latin-1"), host):
            raise Forbidden(
                "pages of other origins may not use this gateway: open the page from the gateway's address, "
                "or allow its origin with --allow-origin"
            )
        if self.open:
            self._check_loopback(host, found)
            site = found.get(b"sec-fetch-site", b"none")
            if origin is None and use is not Use.PAGE and site not in {b"none", b"same-origin"}:
                raise Forbidden(
                    "pages of other sites may not use a gateway without API keys: open the page from the "
                    "gateway's address, or create a key with `busway keys create NAME`"
                )
        return found

    def _check_loopback(self, host: str, found: dict[bytes, bytes]) -> None:
        if not is_loopback(without_port(host)):
            raise Misdirected(
                f"this gateway has no API keys and accepts only the host localhost, not {host!r}: "
                "create a key with `busway keys create NAME`"
            )
        if not FORWARDING.isdisjoint(found):
            raise Misdirected(
                "this gateway has no API keys and accepts no forwarded requests: "
                "create a key with `busway keys create NAME`"
            )

    def _by_bearer(self, found: Mapping[bytes, bytes], _use: Use) -> Access | None:
        """Identify a request by the header `Authorization`."""
        authorization = found.get(b"authorization")
        if authorization is None:
            return None
        scheme, _, text = authorization.decode("latin-1").partition(" ")
        return self._bearer(text.strip() if scheme.lower() == "bearer" else "")

    def _by_session(self, found: Mapping[bytes, bytes], use: Use) -> Access | None:
        """Identify a request by the cookie of a session."""
        token = cookie_token(found.get(b"cookie"), encrypted=self._encrypted)
        if token is None:
            return None
        check_own_page(found, found.get(b"host", b"").decode("latin-1"), use)
        session = self._sessions.read(token)
        if session.grant is not None:
            access = self._check_token(granted(session.key, session.grant))
        elif (found_key := self.keys.current(session.key)) is not None:
            access = found_key
        else:
            raise Unauthorized(
                "the key of this session was revoked or has expired: sign in with another one",
                reason="revoked or expired API key of a session",
            )
        ends = [each for each in (session.until, access.until) if each is not None]
        return msgspec.structs.replace(access, source="session", until=min(ends))

    def _check_token(self, access: Access) -> Access:
        """Return the access of a token that was checked before, if the token is still valid."""
        if self._tokens is None:
            raise Unauthorized("this gateway accepts no tokens any more: use an API key")
        self._tokens.check(access)
        return access

    def _bearer(self, text: str) -> Access:
        if self._tokens is None or text.startswith(PREFIX):
            return self.keys.identify(text)
        return self._tokens.identify(text)

    def _ticket_access(self, holder: Access | int | None) -> Access:
        """Return the current access of the holder of a ticket: a token, a key by its id, or None."""
        if isinstance(holder, Access):
            return self._check_token(holder)
        if holder is None and self.open:
            return OPEN
        if holder is None:
            raise Unauthorized(
                "this ticket was issued before the first key was created: get a new one with a key"
            )
        access = self.keys.current(holder)
        if access is None:
            raise Unauthorized(
                "the key of this ticket was revoked or has expired: get a new one with a valid key"
            )
        return access

    def _loaded(self, *, changed: bool) -> set[int | None]:
        if changed:
            self.edition = object()
        before, valid = self._valid_ids, self.keys.valid()
        self._valid_ids = {None} if self.open else {*valid}
        return before - self._valid_ids


def _check_single(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Check that no header that says who sends a request appears twice: proxies may read the other one.

    Raises:
        BadRequest: one does.
    """
    names = Counter(name for name, _ in headers)
    twice = [name for name in _SINGLE if names[name] > 1]
    if twice:
        raise BadRequest(f"the header {twice[0].decode()} appears twice: send it once")


def _pairs(query: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a query string. Later code refuses invalid values."""
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def check_scope(access: Access, scope: str) -> Access:
    """Return the access if it grants the scope.

    Raises:
        Forbidden: it does not grant the scope.
    """
    if not access.may(scope):
        kind = access.credential
        raise Forbidden(f"this {kind} lacks the scope {scope!r}: use a {kind.split()[-1]} that has it")
    return access

"""Tickets: one-use, short-lived replacements for API keys, for the WebSockets of web pages."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from busway.gateway.access.grants import Grant, grant, granted
from busway.gateway.access.scopes import Access

LIFETIME = 30.0  # seconds
REMEMBERED = 60.0  # seconds after which a ticket is forgotten
MOST_OF_KEY = 10_000  # of one key, so that it cannot take all
MOST = 50_000  # maximum number of tickets, including used ones; each takes a few hundred bytes
MOST_BYTES = 16_777_216  # of what tickets of tokens keep of these


class TicketError(ValueError):
    """The ticket is not valid. The message has at most 123 bytes, because a close frame carries it."""


class TooManyTickets(Exception):
    """There are too many tickets. `seconds` is the time until one is forgotten."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class SharedTickets:
    """Tickets that all nodes of a cell accept: signed with its secret, and recorded in the store when used.

    Args:
        secret: of the cell.
        clock: microseconds since 1970.
        redeem: records in the store that a ticket was used, until a time. Returns False if it was before.
    """

    def __init__(
        self, secret: bytes, clock: Callable[[], int], redeem: Callable[[str, int], Awaitable[bool]]
    ) -> None:
        self._secret = hmac.digest(secret, b"tickets", "sha256")
        self._clock, self._redeem = clock, redeem

    def issue(self, key: int | None, token: Access | None = None) -> str:
        """Issue a ticket for the key with this id, None while the gateway has no keys.

        `token`: what the token gives that is used instead of a key.
        """
        given = None if token is None else grant(token)
        body = _encode(_Signed(secrets.token_bytes(16), key, self._clock(), given))
        return "bwt_" + base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    async def redeem(self, text: str) -> Access | int | None:
        """Use a ticket and return the id of its key, or the access of its token.

        Raises:
            TicketError: the ticket is unknown, used or expired.
            Unavailable: the store cannot be used, or it is unknown whether the ticket is used now.
        """
        signed = self._read(text)
        if not 0 <= self._clock() - signed.at < LIFETIME * 1e6:
            raise _expired()
        if not await self._redeem(signed.id.hex(), signed.at + round(REMEMBERED * 1e6)):
            raise _used()
        return signed.key if signed.grant is None else granted(signed.key, signed.grant)

    def _read(self, text: str) -> _Signed:
        try:
            data = base64.urlsafe_b64decode(text.removeprefix("bwt_").encode() + b"==")
        except (ValueError, binascii.Error):
            raise _unknown() from None
        mac, body = data[:_MAC], data[_MAC:]
        if not hmac.compare_digest(mac, self._sign(body)):
            raise _unknown()
        return _decode(body)

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:_MAC]


class _Signed(msgspec.Struct, array_like=True):
    id: bytes
    key: int | None
    at: int
    grant: Grant | None = None


_MAC = 16  # bytes
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Signed).decode


def _unknown() -> TicketError:
    return TicketError("unknown ticket: get a new one from POST /v1/tickets")


def _used() -> TicketError:
    return TicketError("this ticket was used already: get a new one from POST /v1/tickets")


def _expired() -> TicketError:
    return TicketError(f"this ticket has expired after {LIFETIME:.0f} s: get a new one from POST /v1/tickets")


class _Issued(msgspec.Struct):
    key: int | None
    at: float
    token: Access | None
    used: bool = False

    @property
    def size(self) -> int:
        """Bytes that it keeps of a token, about."""
        return 0 if self.token is None else 500 + sum(map(len, (self.token.name, *self.token.types)))


class Tickets:
    """The issued tickets, in memory. A restart forgets them, because it also ends their connections.

    `now` is monotonic, in seconds. It must not decrease from one call to the next.
    """

    def __init__(self) -> None:
        self._issued: dict[str, _Issued] = {}  # oldest first, because all have the same lifetime
        self._of_key: Counter[int | None] = Counter()
        self._bytes = 0

    def issue(self, key: int | None, now: float, token: Access | None = None) -> str:
        """Issue a ticket for the key with this id, None while the gateway has no keys.

        `token`: what the token gives that is used instead of a key.

        Raises:
            TooManyTickets: there are too many tickets.
        """
        self._forget(now)
        own = key is not None and self._of_key[key] >= MOST_OF_KEY
        if own or len(self._issued) >= MOST or self._bytes >= MOST_BYTES:
            oldest = next(each for each in self._issued.values() if each.key == key or not own)
            raise TooManyTickets(oldest.at + REMEMBERED - now)
        self._of_key[key] += 1
        text = f"bwt_{secrets.token_urlsafe(32)}"
        issued = self._issued[text] = _Issued(key, now, token)
        self._bytes += issued.size
        return text

    def redeem(self, text: str, now: float) -> Access | int | None:
        """Use a ticket and return the id of its key, or the access of its token.

        Raises:
            TicketError: the ticket is unknown, used or expired.
        """
        self._forget(now)
        issued = self._issued.get(text)
        if issued is None:
            raise _unknown()
        if issued.used:
            raise _used()
        if now - issued.at >= LIFETIME:
            raise _expired()
        issued.used = True
        return issued.key if issued.token is None else issued.token

    def _forget(self, now: float) -> None:
        while self._issued:
            text, issued = next(iter(self._issued.items()))
            if now - issued.at < REMEMBERED:
                return
            del self._issued[text]
            self._bytes -= issued.size
            self._of_key[issued.key] -= 1
            if not self._of_key[issued.key]:
                del self._of_key[issued.key]

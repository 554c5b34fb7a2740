"""Tickets: one-use, short-lived replacements for API keys, for the WebSockets of web pages."""

from __future__ import annotations

import secrets

import msgspec

LIFETIME = 30.0  # seconds
REMEMBERED = 60.0  # seconds after which a ticket is forgotten
MOST = 50_000  # maximum number of tickets, including used ones; each takes a few hundred bytes


class TicketError(ValueError):
    """The ticket is not valid. The message has at most 123 bytes, because a close frame carries it."""


class TooManyTickets(Exception):
    """There are too many tickets. `seconds` is the time until one is forgotten."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Issued(msgspec.Struct):
    key: int | None
    at: float
    used: bool = False


class Tickets:
    """The issued tickets, in memory. A restart forgets them, because it also ends their connections.

    `now` is monotonic, in seconds. It must not decrease from one call to the next.
    """

    def __init__(self) -> None:
        self._issued: dict[str, _Issued] = {}  # oldest first, because all have the same lifetime

    def issue(self, key: int | None, now: float) -> str:
        """Issue a ticket for the key with this id, None while the gateway has no keys.

        Raises:
            TooManyTickets: there are too many tickets.
        """
        self._forget(now)
        if len(self._issued) >= MOST:
            oldest = next(iter(self._issued.values()))
            raise TooManyTickets(oldest.at + REMEMBERED - now)
        text = f"bwt_{secrets.token_urlsafe(32)}"
        self._issued[text] = _Issued(key, now)
        return text

    def redeem(self, text: str, now: float) -> int | None:
        """Use a ticket and return the id of its key.

        Raises:
            TicketError: the ticket is unknown, used or expired.
        """
        self._forget(now)
        issued = self._issued.get(text)
        if issued is None:
            raise TicketError("unknown ticket: get a new one from POST /v1/tickets")
        if issued.used:
            raise TicketError("this ticket was used already: get a new one from POST /v1/tickets")
        if now - issued.at >= LIFETIME:
            raise TicketError(
                f"this ticket has expired after {LIFETIME:.0f} s: get a new one from POST /v1/tickets"
            )
        issued.used = True
        return issued.key

    def _forget(self, now: float) -> None:
        while self._issued:
            text, issued = next(iter(self._issued.items()))
            if now - issued.at < REMEMBERED:
                return
            del self._issued[text]

"""Tickets: one-use, short-lived replacements for API keys, for the WebSockets of web pages."""

from __future__ import annotations

import secrets
from collections import Counter

import msgspec

LIFETIME = 30.0  # seconds
REMEMBERED = 60.0  # seconds after which a ticket is forgotten
MOST_OF_KEY = 10_000  # of one key, so that it cannot take all
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
        self._of_key: Counter[int | None] = Counter()

    def issue(self, key: int | None, now: float) -> str:
        """Issue a ticket for the key with this id, None while the gateway has no keys.

        Raises:
            TooManyTickets: there are too many tickets.
        """
        self._forget(now)
        own = key is not None and self._of_key[key] >= MOST_OF_KEY
        if own or len(self._issued) >= MOST:
            oldest = next(each for each in self._issued.values() if each.key == key or not own)
            raise TooManyTickets(oldest.at + REMEMBERED - now)
        self._of_key[key] += 1
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
            self._of_key[issued.key] -= 1
            if not self._of_key[issued.key]:
                del self._of_key[issued.key]

"""Tickets: what a page's WebSocket shows instead of a key, once and soon. No clock is read here."""

from __future__ import annotations

import secrets

import msgspec

LIFETIME = 30.0  # seconds
REMEMBERED = 60.0  # seconds after which it is not even known any more that there was one
MOST = 50_000  # tickets that are known at once, used ones too: a few hundred bytes each


class TicketError(ValueError):
    """The ticket does not open anything; the text says why and what to do, in at most 123 bytes."""


class NoRoom(Exception):
    """There are too many tickets; `seconds` until one of them is forgotten."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Issued(msgspec.Struct):
    key: int | None
    at: float
    used: bool = False


class Tickets:
    """Tickets that were issued, in memory: a restart forgets them, as it ends the sockets they are for.

    `now` is monotonic, in seconds; it never goes back from one call to the next.
    """

    def __init__(self) -> None:
        self._issued: dict[str, _Issued] = {}  # oldest first, because all live equally long

    def issue(self, key: int | None, now: float) -> str:
        """Make a ticket for the holder of a key, by its number; None: the gateway is open.

        Raises:
            NoRoom: there are too many.
        """
        self._forget(now)
        if len(self._issued) >= MOST:
            oldest = next(iter(self._issued.values()))
            raise NoRoom(oldest.at + REMEMBERED - now)
        text = f"bwt_{secrets.token_urlsafe(32)}"
        self._issued[text] = _Issued(key, now)
        return text

    def redeem(self, text: str, now: float) -> int | None:
        """Use a ticket up and return the number of the key that it stands for.

        Raises:
            TicketError: it is unknown, was used or has expired.
        """
        self._forget(now)
        issued = self._issued.get(text)
        if issued is None:
            raise TicketError("this ticket is not known here: get another from POST /v1/tickets")
        if issued.used:
            raise TicketError("this ticket was used, and works once: get another from POST /v1/tickets")
        if now - issued.at >= LIFETIME:
            raise TicketError(
                f"this ticket has expired, after {LIFETIME:.0f} s: get another from POST /v1/tickets"
            )
        issued.used = True
        return issued.key

    def _forget(self, now: float) -> None:
        while self._issued:
            text, issued = next(iter(self._issued.items()))
            if now - issued.at < REMEMBERED:
                return
            del self._issued[text]

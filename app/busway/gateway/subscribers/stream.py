"""The text of Server-Sent Events (WHATWG HTML, section 9.2): frames of the WebSocket as events."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from busway.contract.frames import CloseEvent, GapEvent, MovedEvent, SubscribedEvent

HEARTBEAT = ":\n\n"
_BEFORE_CURSOR = len('{"cursor":"')


def subscribed(cursor: str, *, recovered: bool, oldest: str) -> str:
    """Write where the stream begins, behind a `gap` if that is not where it was asked to.

    The gap comes first and without an id: who is cut off between the two asks for the same place again.
    """
    place = SubscribedEvent(cursor=cursor, recovered=recovered, oldest=oldest)
    gap = "" if recovered else _event("gap", GapEvent(_GAP, cursor, oldest))
    return f"{retry()}{gap}{_event('subscribed', place, cursor)}"


def results(items: Sequence[bytes], cursor: str) -> str:
    """Write each encoded item as an event with its cursor, and how far the cursor is if it is further."""
    parts: list[str] = []
    last = ""
    for item in items:
        text = item.replace(b"\n", b" ").replace(b"\r", b" ").decode()  # in JSON they are white space
        last = text[_BEFORE_CURSOR : text.index('"', _BEFORE_CURSOR)]
        parts.append(f"id: {last}\ndata: {text}\n\n")
    if last != cursor:
        parts.append(_event("moved", MovedEvent(cursor), cursor))
    return "".join(parts)


def closed(code: int, reason: str) -> str:
    """Write why the stream ends; the codes are those of the WebSocket."""
    return _event("close", CloseEvent(code, reason))


def retry() -> str:
    """Write after how many milliseconds to connect again; it differs, so that not all do at once."""
    return f"retry: {random.randint(500, 2000)}\n\n"  # noqa: S311 - spreads clients, hides nothing


def _event(name: str, data: msgspec.Struct, cursor: str | None = None) -> str:
    place = f"id: {cursor}\n" if cursor else ""
    return f"event: {name}\n{place}data: {msgspec.json.encode(data).decode()}\n\n"


_GAP = (
    "results after that cursor are no longer kept, or it is of another log: "
    "what follows is live; read what is left from 'oldest'"
)

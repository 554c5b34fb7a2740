"""Encodes the frames of the WebSocket as Server-Sent Events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from busway.contract.frames import CloseEvent, GapEvent, MovedEvent, SubscribedEvent

HEARTBEAT = ":\n\n"


def subscribed(cursor: str, *, recovered: bool, oldest: str) -> str:
    """Return a `subscribed` event, after a `gap` event if the stream does not begin where the client asked.

    The gap comes first and has no id: a client that loses the connection between the two repeats its request.
    """
    start = SubscribedEvent(cursor=cursor, recovered=recovered, oldest=oldest)
    gap = "" if recovered else _event("gap", GapEvent(_GAP, cursor, oldest))
    return f"{retry()}{gap}{_event('subscribed', start, cursor)}"


def results(items: Sequence[bytes], cursor: str) -> str:
    """Return each encoded item as an event, then a `moved` event if `cursor` is ahead of the last item."""
    parts: list[str] = []
    last = ""
    for item in items:
        text = item.replace(b"\n", b" ").replace(b"\r", b" ").decode()  # in JSON they are white space
        start = text.index(':"') + 2  # its first member is the cursor
        last = text[start : text.index('"', start)]
        parts.append(f"id: {last}\ndata: {text}\n\n")
    if last != cursor:
        parts.append(_event("moved", MovedEvent(cursor), cursor))
    return "".join(parts)


def closed(code: int, reason: str) -> str:
    """Return a `close` event. The codes are those of the WebSocket."""
    return _event("close", CloseEvent(code, reason))


def retry() -> str:
    """Return the reconnection time in milliseconds. It is random to spread reconnecting clients."""
    return f"retry: {random.randint(500, 2000)}\n\n"  # noqa: S311 - spreads clients, hides nothing


def _event(name: str, data: msgspec.Struct, cursor: str | None = None) -> str:
    id_ = f"id: {cursor}\n" if cursor else ""
    return f"event: {name}\n{id_}data: {msgspec.json.encode(data).decode()}\n\n"


_GAP = (
    "the results after this cursor were deleted, or it belongs to another log: the stream continues live; "
    "to get the results that are left, connect with 'oldest' as `after`"
)

"""Events that report on the gateway's own operations: type `busway.…`, source `/busway`.

Only handlers get them that have a pattern which begins with `busway.`, and they are stored only if there is
one. What such an event leads to makes no further one: its id, and so the `correlationid` of all events that
descend from it, begins with `busway.`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain.event import Event, NewEvent
from busway.domain.pattern import matcher

SOURCE = "/busway"
"""No other event has this source."""
PREFIX = "busway."

RUN_DEAD = "busway.run.dead"
HANDLER_PAUSED = "busway.handler.paused"
SUBSCRIBER_LAGGING = "busway.subscriber.lagging"
NODE_LOST = "busway.node.lost"


def notice(type_: str, key: str, subject: str, data: dict[str, Any], now: int) -> NewEvent:
    """Return an event about an operation.

    Args:
        type_: one of those above.
        key: what makes the id unique for this type, so that the same operation is reported once.
        subject: the name of what it is about.
        data: JSON values.
        now: microseconds since 1970.
    """
    id_ = f"{type_}:{key}"
    return NewEvent(
        id=id_,
        source=SOURCE,
        type=type_,
        subject=subject[:255],
        time=now,
        accepted_at=now,
        data=msgspec.json.encode(data),
        correlationid=id_,
    )


def node_lost(id_: int, name: str, now: int) -> NewEvent:
    """Return the event that a node is lost."""
    return notice(NODE_LOST, str(id_), name, {"node": name, "id": id_}, now)


def descends_from_notice(event: Event) -> bool:
    """Return whether an event is about an operation, or descends from one that is."""
    return event.correlationid.startswith(PREFIX) or event.source == SOURCE


def asks_for(patterns: tuple[str, ...], type_: str) -> bool:
    """Return whether a handler with these patterns gets events about operations of this type."""
    named = tuple(pattern for pattern in patterns if pattern.startswith(PREFIX))
    return bool(named) and matcher(named)(type_)

"""Events: immutable, in the form of CloudEvents 1.0."""

from __future__ import annotations

import base64
import random
import secrets
from typing import Any

import msgspec

from busway.domain import times

Attribute = str | int | bool

_random = random.Random(secrets.randbits(128))  # noqa: S311 - ids must be unique, not secret


_LAST_TAIL = (1 << 62) - (1 << 33)  # one more step still fits in 62 bits
_moment = _tail = 0


class NewEvent(msgspec.Struct, array_like=True, kw_only=True):
    """A validated event that is not stored yet, with the runs that it starts.

    Times are microseconds since 1970.

    Attributes:
        data: the payload: JSON text, or any bytes if `binary`.
        attributes: the extension attributes as received. Those that the gateway uses are also decoded
            into fields of their own.
        root: number of the root event that this one descends from, 0 if it is a root.
        parent: the run that published it.
        depth: how many events it lies below its root, which has 0.
        made_id: the gateway generated the id, so no other event has it.
        handlers: the store's numbers of the matching handlers.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: int
    accepted_at: int
    datacontenttype: str | None = None
    data: bytes | None = None
    binary: bool = False
    attributes: dict[str, Attribute] = {}
    correlationid: str
    causationid: str | None = None
    priority: int = 4
    due: int | None = None
    expires_at: int | None = None
    root: int = 0
    parent: int | None = None
    depth: int = 0
    made_id: bool = False
    handlers: tuple[int, ...] = ()


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A stored event: the attributes as received, and its number `seq`. `depth` as in `NewEvent`."""

    seq: int
    id: str
    source: str
    type: str
    subject: str | None = None
    time: int
    datacontenttype: str | None = None
    data: bytes | None = None
    binary: bool = False
    attributes: dict[str, Attribute] = {}
    correlationid: str
    root: int
    depth: int = 0


def partition_key(attributes: dict[str, Attribute]) -> str | None:
    """Return the partition key, by which ordered handlers order events. None if the event has none."""
    key = attributes.get("partitionkey")
    return key if isinstance(key, str) else None


def to_event(new: NewEvent, seq: int) -> Event:
    """Return the stored form of `new` with the number `seq`."""
    return Event(
        seq=seq,
        id=new.id,
        source=new.source,
        type=new.type,
        subject=new.subject,
        time=new.time,
        datacontenttype=new.datacontenttype,
        data=new.data,
        binary=new.binary,
        attributes=new.attributes,
        correlationid=new.correlationid,
        root=new.root or seq,
        depth=new.depth,
    )


def document(event: Event) -> dict[str, Any]:
    """Return the event as CloudEvents JSON members with `seq`. Binary data becomes `data_base64`."""
    body: dict[str, Any] = {"seq": event.seq, "specversion": "1.0", "id": event.id, "source": event.source}
    body["type"] = event.type
    if event.subject is not None:
        body["subject"] = event.subject
    body["time"] = times.to_text(event.time)
    if event.datacontenttype is not None:
        body["datacontenttype"] = event.datacontenttype
    body |= event.attributes
    body["correlationid"] = event.correlationid
    if event.binary and event.data is not None:
        body["data_base64"] = base64.b64encode(event.data).decode()
    elif event.data is not None:
        body["data"] = msgspec.Raw(event.data)
    else:
        body["data"] = None
    return body


def new_id(now: int) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) for the time `now`, in microseconds since 1970.

    The 12 bits after the milliseconds hold their fraction (method 3 of section 6.2). So ids sort by time,
    and an index of ids grows at its end. Within one microsecond, each id is a random step above the previous
    one (method 2), so these sort too.
    """
    global _moment, _tail  # noqa: PLW0603 - ids increase across the whole process
    if now == _moment and _tail < _LAST_TAIL:
        _tail += 1 + _random.getrandbits(32)
    else:
        _moment, _tail = now, _random.getrandbits(61)
    ms, rest = divmod(now, 1000)
    fields = ms >> 16, ms & 0xFFFF, (rest << 12) // 1000, 0x8000 | _tail >> 48, _tail & 0xFFFF_FFFF_FFFF
    return "%08x-%04x-7%03x-%04x-%012x" % fields  # noqa: UP031 - takes half the time of an f-string

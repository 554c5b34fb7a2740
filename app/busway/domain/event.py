"""An event: an immutable accepted fact, a CloudEvent 1.0."""

from __future__ import annotations

import base64
import random
import secrets
from typing import Any

import msgspec

from busway.domain import times

Attribute = str | int | bool

_random = random.Random(secrets.randbits(128))  # noqa: S311 - ids need to differ, not to be secret


_LAST_TAIL = (1 << 62) - (1 << 33)  # of 62 bits: one more step has room
_moment = _tail = 0


class NewEvent(msgspec.Struct, array_like=True, kw_only=True):
    """A checked event on its way into the store, with the runs it starts.

    `data` is the payload as it will be kept: JSON text, or any bytes if `binary`.
    `attributes` are the extension attributes as they were sent; those with a meaning here stand
    decoded beside them. Times are microseconds since 1970. `root` is the number of the root event
    that this one descends from, 0 if it is a root itself; `parent` the run that published it.
    `made_id`: the gateway made the id, so no other event can have it. `handlers` are the store's
    numbers of the handlers that match.
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
    made_id: bool = False
    handlers: tuple[int, ...] = ()


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A stored event: the attributes as they were sent, and its number `seq` in this gateway."""

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


def partition_key(attributes: dict[str, Attribute]) -> str | None:
    """Return the key that ordered handlers keep the event in line by, None if it has none."""
    key = attributes.get("partitionkey")
    return key if isinstance(key, str) else None


def to_event(new: NewEvent, seq: int) -> Event:
    """Return the event that `new` became when the store gave it the number `seq`."""
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
    )


def document(event: Event) -> dict[str, Any]:
    """Return the event as CloudEvents JSON members, with `seq`; binary data as `data_base64`."""
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
    """Make a UUIDv7 (RFC 9562, section 5.7) for the moment `now`, in microseconds since 1970.

    The 12 bits behind the milliseconds are their fraction (method 3 of section 6.2), so that ids
    sort by time and an index of them grows at its end. Those of one microsecond sort too: each is a random
    step above the one before (method 2).
    """
    global _moment, _tail  # noqa: PLW0603 - ids rise in the whole process, whoever makes them
    if now == _moment and _tail < _LAST_TAIL:
        _tail += 1 + _random.getrandbits(32)
    else:
        _moment, _tail = now, _random.getrandbits(61)
    ms, rest = divmod(now, 1000)
    fields = ms >> 16, ms & 0xFFFF, (rest << 12) // 1000, 0x8000 | _tail >> 48, _tail & 0xFFFF_FFFF_FFFF
    return "%08x-%04x-7%03x-%04x-%012x" % fields  # noqa: UP031 - half as long as the others take

"""Storage of events and the runs that they start."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from busway.domain.event import NewEvent, partition_key
from busway.gateway.store.core import completions, idempotency
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import COUNTED, OUTSIDE
from busway.gateway.store.core.transaction import EVENT, PLAIN_EVENT, PLAIN_RUN, RUN, Values
from busway.gateway.store.port.once import NotStored
from busway.gateway.store.port.operations import Publish, PublishEncoded, StoredEvent

SLICE = 250  # events of a large operation that are decoded at a time
_decode = msgspec.msgpack.Decoder(NewEvent).decode


def publish(ledger: Ledger, operation: Publish) -> list[StoredEvent] | NotStored:
    """Store published events. An event without a root is a root."""
    if operation.once is None:
        return [store(ledger, new) for new in operation.events]
    each = ((new, store(ledger, new)) for new in operation.events)
    return idempotency.store_once(ledger, operation.once, each)


def publish_encoded(ledger: Ledger, operation: PublishEncoded) -> list[StoredEvent] | NotStored:
    """Store published events a few at a time, so that they take little memory."""
    each = _store_encoded(ledger, operation)
    if operation.once is None:
        return [stored for _, stored in each]
    return idempotency.store_once(ledger, operation.once, each)


def _store_encoded(ledger: Ledger, operation: PublishEncoded) -> Iterator[tuple[NewEvent, StoredEvent]]:
    for start in range(0, len(operation.events), SLICE):
        events = [_decode(event) for event in operation.events[start : start + SLICE]]
        ledger.prepare((), [(new.id, new.source) for new in events if not (new.made_id and ledger.trusting)])
        for new in events:
            yield new, store(ledger, new)
        ledger.flush()


def store(ledger: Ledger, new: NewEvent, counted: int = OUTSIDE) -> StoredEvent:
    """Store one event and its runs, unless its (source, id) exists.

    Args:
        ledger: the transaction. Its `seen` has every id that is not trusted to be new.
        new: the event.
        counted: how the root counts the runs of a descendant. A root event decides for itself.
    """
    head = ledger.head
    if not (new.made_id and ledger.trusting):
        earlier = ledger.seen.setdefault((new.id, new.source), head.event + 1)
        if earlier <= head.event:
            return StoredEvent(earlier, 0, True)
    head.event = seq = head.event + 1
    _add(ledger, new, seq)
    first = head.run + 1
    if new.handlers:
        if not new.root:
            counted = completions.begin(ledger, seq, len(new.handlers))
        _start(ledger, new, seq, counted)
    return StoredEvent(seq, first)


def started(new: list[NewEvent], stored: list[StoredEvent]) -> int:
    """Return how many runs these events started."""
    return sum(len(event.handlers) for event, one in zip(new, stored, strict=True) if not one.duplicate)


def inside(counted: int) -> int:
    """Return how the runs of an event are counted that a run counted as `counted` published."""
    return OUTSIDE if counted == OUTSIDE else COUNTED


def _add(ledger: Ledger, new: NewEvent, seq: int) -> None:
    time, accepted, binary, data = new.time, new.accepted_at, int(new.binary), new.data
    correlationid = None if new.correlationid == new.id else new.correlationid
    if not (new.attributes or new.root or new.subject or new.datacontenttype or correlationid):
        row: Values = (seq, new.id, new.source, new.type, time, accepted, binary, data)
        ledger.add(PLAIN_EVENT, row)
        return
    attributes = msgspec.json.encode(new.attributes).decode() if new.attributes else None
    row = (
        seq, new.id, new.source, new.type, new.subject, time, accepted, correlationid, new.root or None,
        new.parent, new.datacontenttype, attributes, binary, data, new.depth or None,
    )  # fmt: skip
    ledger.add(EVENT, row)


def _start(ledger: Ledger, new: NewEvent, seq: int, counted: int) -> None:
    run = ledger.head.run
    key = partition_key(new.attributes)
    root, priority, expires_at, created_at, due = (
        new.root or seq, new.priority, new.expires_at, new.accepted_at, new.due,
    )  # fmt: skip
    plain = expires_at is None and due is None and key is None
    for handler in new.handlers:
        run += 1
        if plain:
            row: Values = (run, seq, handler, root, priority, created_at, counted)
            ledger.add(PLAIN_RUN, row)
        else:
            row = (run, seq, handler, root, priority, expires_at, created_at, counted, due, key)
            ledger.add(RUN, row)
        ledger.counts[handler, 0] += 1
    ledger.head.run = run

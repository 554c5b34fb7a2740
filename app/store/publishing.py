"""Storing events and the runs they start."""

from __future__ import annotations

import msgspec

from app.domain.event import NewEvent, partition_key
from app.store import trees
from app.store.ledger import Ledger
from app.store.operations import Publish, Receipt
from app.store.schema import COUNTED, OUTSIDE


def publish(ledger: Ledger, operation: Publish) -> list[Receipt]:
    """Store events from outside; each that names no root is one."""
    return [store(ledger, new) for new in operation.events]


def store(ledger: Ledger, new: NewEvent, counted: int = OUTSIDE) -> Receipt:
    """Store one event, unless its (source, id) is there, and its runs.

    Args:
        ledger: the transaction; `seen` knows of every id that is not trusted to be new.
        new: the event.
        counted: how its runs stand to the tree of `new.root`; a root event plants its own.
    """
    head = ledger.head
    if not (new.made_id and ledger.trusting):
        earlier = ledger.seen.setdefault((new.id, new.source), head.event + 1)
        if earlier <= head.event:
            return Receipt(earlier, 0, True)
    head.event = seq = head.event + 1
    ledger.events.append(_row(new, seq))
    first = head.run + 1
    if new.handlers:
        if not new.root:
            counted = trees.plant(ledger, seq, len(new.handlers))
        _start(ledger, new, seq, counted)
    return Receipt(seq, first)


def started(new: list[NewEvent], receipts: list[Receipt]) -> int:
    """How many runs these events started."""
    return sum(
        len(event.handlers) for event, receipt in zip(new, receipts, strict=True) if not receipt.duplicate
    )


def inside(counted: int) -> int:
    """How runs are counted that a run started which is counted like this."""
    return OUTSIDE if counted == OUTSIDE else COUNTED


def _row(new: NewEvent, seq: int) -> tuple[object, ...]:
    return (
        seq,
        new.id,
        new.source,
        new.type,
        new.subject,
        new.time,
        new.accepted_at,
        None if new.correlationid == new.id else new.correlationid,
        new.root or None,
        new.parent,
        new.datacontenttype,
        msgspec.json.encode(new.attributes).decode() if new.attributes else None,
        new.binary,
        new.data,
    )


def _start(ledger: Ledger, new: NewEvent, seq: int, counted: int) -> None:
    run = ledger.head.run
    key = partition_key(new.attributes)
    for handler in new.handlers:
        run += 1
        ledger.runs.append(
            (
                run,
                seq,
                handler,
                new.root or seq,
                new.priority,
                new.expires_at,
                new.accepted_at,
                counted,
                new.due,
                key,
            )
        )
        ledger.counts[handler, 0] += 1
    ledger.head.run = run

"""Writes each batch of operations in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from busway.gateway.store.core import (
    audit,
    code,
    durables,
    handlers_keys,
    idempotency,
    news,
    producers,
    pruning,
    publishing,
    replays,
    run_changes,
    schedules,
    settling,
    sources,
)
from busway.gateway.store.core.ledger import Ledger, Outdated, Unacknowledged
from busway.gateway.store.core.transaction import Head, Transaction
from busway.gateway.store.port.audit import Audited, PruneAudit, Record
from busway.gateway.store.port.code import SaveCode
from busway.gateway.store.port.keys import RotateKey, UseKeys
from busway.gateway.store.port.operations import (
    Acknowledge,
    Append,
    Assign,
    Cancel,
    CancelReplay,
    CancelWaiting,
    CreateKey,
    CreateReplay,
    DeleteDurable,
    DeleteSchedule,
    Expire,
    FinishReplay,
    Fire,
    Lead,
    Mark,
    OpenDurable,
    Operation,
    PruneEvents,
    PruneResults,
    Publish,
    PublishEncoded,
    RedeemTicket,
    ReleaseDurable,
    ReplayEvents,
    Retry,
    RetryDead,
    Return,
    RevokeKey,
    SaveHandler,
    SaveSchedule,
    Settle,
    Settled,
    Stopped,
    TakeDurable,
)
from busway.gateway.store.port.retention import PruneKeys, PruneReplays
from busway.gateway.store.port.sources import DeleteSource, SaveSource
from busway.gateway.store.port.uploads import Upload

_APPLY: dict[type[Operation], Callable[[Ledger, Any], Any]] = {
    Publish: publishing.publish,
    PublishEncoded: publishing.publish_encoded,
    Upload: producers.upload,
    Mark: settling.mark,
    Append: settling.append,
    Settle: settling.settle,
    Assign: settling.assign,
    Return: settling.give_back,
    Stopped: settling.stopped,
    Cancel: run_changes.cancel,
    CancelWaiting: run_changes.cancel_waiting,
    Expire: run_changes.expire,
    Retry: run_changes.retry,
    RetryDead: run_changes.retry_ended,
    Lead: run_changes.lead,
    SaveHandler: handlers_keys.save_handler,
    SaveCode: code.save,
    CreateKey: handlers_keys.create_key,
    RevokeKey: handlers_keys.revoke_key,
    RotateKey: handlers_keys.rotate_key,
    UseKeys: handlers_keys.use_keys,
    SaveSource: sources.save_source,
    DeleteSource: sources.delete_source,
    RedeemTicket: handlers_keys.redeem_ticket,
    OpenDurable: durables.open_durable,
    TakeDurable: durables.take_durable,
    ReleaseDurable: durables.release_durable,
    Acknowledge: durables.acknowledge,
    DeleteDurable: durables.delete_durable,
    CreateReplay: replays.create,
    ReplayEvents: replays.run_events,
    CancelReplay: replays.cancel,
    FinishReplay: replays.finish,
    SaveSchedule: schedules.save_schedule,
    DeleteSchedule: schedules.delete_schedule,
    Fire: schedules.fire,
    PruneResults: pruning.prune_results,
    PruneEvents: pruning.prune_events,
    PruneKeys: idempotency.prune_keys,
    PruneReplays: replays.prune,
    Record: audit.record,
    PruneAudit: audit.prune,
}
_OF_ATTEMPTS = frozenset({Settle, Append, Mark, Assign, Return})
_UNMARKED: dict[type[Operation], Any] = {Mark: False, Append: 0, Settle: Settled(False)}
"""The replies to a node that does not lead, if the attempt is not marked: it has no such attempts."""
_NOTIFYING = frozenset({SaveHandler, Lead})
_RULES = frozenset({SaveHandler, CreateKey, RevokeKey, RotateKey, SaveSource, DeleteSource})
_MATCHED = frozenset({Publish, PublishEncoded, Upload, Settle, SaveHandler, Assign, Fire})
_PUBLISHING = frozenset({Publish, Upload, Fire})
_Wanted = tuple[list[int], list[tuple[str, str]]]


class Refused(msgspec.Struct):
    """The reply to an operation that the store refused, with the reason. The rest of its batch is written."""

    why: str


class Writer:
    """Applies operations.

    Args:
        transaction: the transaction of each batch. Close its connection after any error except `Replaced`,
            because its state is unknown.

    Attributes:
        waited: seconds until the newest batch could begin, because others wrote.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.waited = 0.0

    def write(self, operations: Sequence[Operation], since: int | None = None) -> tuple[int, list[Any]]:
        """Write all operations in one transaction, synced to disk.

        Args:
            operations: applied in this order.
            since: the newest result that the sender knows to be written. Operations that wrote later results
                and are sent again only get their replies. None if the sender never resends.

        Returns:
            The number of the newest result, and the operations' replies, including `Refused` and `Outdated`.

        Raises:
            Replaced: nothing was written.
            Exception: an error of the database. The outcome is unknown.
        """
        transaction = self._transaction
        began = time.monotonic()
        wanted = _wanted(operations, trusting=since is None)
        head = transaction.begin(*wanted)
        self.waited = time.monotonic() - began
        known = self._unacknowledged(head, since)
        try:
            replies = self._together(head, known, operations, wanted, trusting=not known)
            if transaction.several:
                transaction.add_news(news.collect(operations, replies))
            transaction.write_head(head)
            transaction.commit()
        except Exception as problem:
            if not transaction.is_refusal(problem):
                raise
            transaction.rollback()
            head = transaction.begin()
            replies = []
            for operation in operations:
                head, reply = self._alone(head, known, operation)
                replies.append(reply)
            transaction.write_head(head)
            transaction.commit()
        return head.result, replies

    def _together(
        self, head: Head, known: Unacknowledged, operations: Sequence[Any], wanted: _Wanted, *, trusting: bool
    ) -> list[Any]:
        ledger = Ledger(self._transaction, head, known, trusting=trusting)
        ledger.operations = operations
        ledger.prepare(*wanted)
        if head.rules:
            replies = [_apply_current(ledger, operation) for operation in operations]
        else:
            replies = [_APPLY[type(operation)](ledger, operation) for operation in operations]
        ledger.flush()
        return replies

    def _alone(self, head: Head, known: Unacknowledged, operation: Operation) -> tuple[Head, Any]:
        """Apply one operation. Return the newest numbers after it, and its reply."""
        transaction = self._transaction
        mine = msgspec.structs.replace(head)
        transaction.mark()
        try:
            wanted = _wanted([operation], trusting=False)
            reply = self._together(mine, known, [operation], wanted, trusting=False)[0]
            transaction.forget_mark()
        except Exception as problem:
            if not transaction.is_refusal(problem):
                raise
            transaction.back()
            mine, reply = head, Refused(transaction.cause(problem))
        return mine, reply

    def _unacknowledged(self, head: Head, since: int | None) -> Unacknowledged:
        if since is None or since >= head.result:
            return {}
        rows = self._transaction.results_after(since)
        return {(run, attempt, index): (number, completes) for number, run, attempt, index, completes in rows}


def _apply_alone(ledger: Ledger, operation: Any) -> Any:
    return _APPLY[type(operation)](ledger, operation)


def _apply_audited(ledger: Ledger, operation: Audited) -> Any:
    """Apply an operation, and store who asked for it."""
    change: Any = operation.operation
    reply = (_apply_current if ledger.head.rules else _apply_alone)(ledger, change)
    if type(reply) is not Outdated:
        audit.record_change(ledger, operation, reply)
    return reply


_APPLY[Audited] = _apply_audited


def _wanted(operations: Sequence[Any], *, trusting: bool) -> _Wanted:
    """Return the runs, and the ids and sources of events, that these operations look up."""
    events = [new for operation in operations for new in _events(operation)]
    return (
        list(dict.fromkeys(o.run for o in operations if type(o) in _OF_ATTEMPTS)),
        [(new.id, new.source) for new in events if not (new.made_id and trusting)],
    )


def _events(operation: Any) -> list[Any]:
    kind = type(operation)
    events: list[Any] = []
    if kind in _PUBLISHING:
        events = operation.events
    elif kind is Settle:
        events = operation.published
    elif kind in _NOTIFYING:
        events = operation.notices
    elif kind is Audited:
        events = _events(operation.operation)
    return events


def _apply_current(ledger: Ledger, operation: Any) -> Any:
    """Apply an operation, unless it was made from older handlers than the store has."""
    head, kind = ledger.head, type(operation)
    if kind in _MATCHED and operation.rules < head.rules and not (kind is Settle and not operation.published):
        return Outdated()
    if kind in _UNMARKED and not ledger.transaction.leads and settling.is_unmarked(ledger, operation):
        return _UNMARKED[kind]
    reply = _APPLY[kind](ledger, operation)
    if kind in _RULES and type(reply) is not Outdated:
        head.rules += 1
    return reply

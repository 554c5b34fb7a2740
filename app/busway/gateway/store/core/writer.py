"""Writes each batch of operations in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from busway.gateway.store.core import durables, handlers_keys, pruning, publishing, run_changes, settling
from busway.gateway.store.core.ledger import Ledger, Unacknowledged
from busway.gateway.store.core.transaction import Head, Transaction
from busway.gateway.store.port.operations import (
    Acknowledge,
    Append,
    Cancel,
    CancelWaiting,
    CreateKey,
    DeleteDurable,
    Expire,
    Mark,
    OpenDurable,
    Operation,
    PruneEvents,
    PruneResults,
    Publish,
    PublishEncoded,
    Rescue,
    Retry,
    RetryDead,
    RevokeKey,
    SaveHandler,
    Settle,
)

_APPLY: dict[type[Operation], Callable[[Ledger, Any], Any]] = {
    Publish: publishing.publish,
    PublishEncoded: publishing.publish_encoded,
    Mark: settling.mark,
    Append: settling.append,
    Settle: settling.settle,
    Cancel: run_changes.cancel,
    CancelWaiting: run_changes.cancel_waiting,
    Expire: run_changes.expire,
    Retry: run_changes.retry,
    RetryDead: run_changes.retry_ended,
    Rescue: run_changes.rescue,
    SaveHandler: handlers_keys.save_handler,
    CreateKey: handlers_keys.create_key,
    RevokeKey: handlers_keys.revoke_key,
    OpenDurable: durables.open_durable,
    Acknowledge: durables.acknowledge,
    DeleteDurable: durables.delete_durable,
    PruneResults: pruning.prune_results,
    PruneEvents: pruning.prune_events,
}
_OF_ATTEMPTS = frozenset({Settle, Append, Mark})


class Refused(msgspec.Struct):
    """The reply to an operation that the store refused, with the reason. The rest of its batch is written."""

    why: str


class Writer:
    """Applies operations.

    Args:
        transaction: the transaction of each batch. Close its connection after any error except `Replaced`,
            because its state is unknown.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def write(self, operations: Sequence[Operation], since: int | None = None) -> tuple[int, list[Any]]:
        """Write all operations in one transaction, synced to disk.

        Args:
            operations: applied in this order.
            since: the newest result that the sender knows to be written. Operations that wrote later results
                and are sent again only get their replies. None if the sender never resends.

        Returns:
            The number of the newest result, and the operations' replies, including `Refused`.

        Raises:
            Replaced: nothing was written.
            Exception: an error of the database. The outcome is unknown.
        """
        transaction = self._transaction
        head = transaction.begin()
        known = self._unacknowledged(head, since)
        try:
            replies = self._together(head, known, operations, trusting=not known)
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
        self, head: Head, known: Unacknowledged, operations: Sequence[Any], *, trusting: bool
    ) -> list[Any]:
        ledger = Ledger(self._transaction, head, known, trusting=trusting)
        events = [new for operation in operations for new in _events(operation)]
        ledger.prepare(
            [o.run for o in operations if type(o) in _OF_ATTEMPTS],
            [(new.id, new.source) for new in events if not (new.made_id and trusting)],
        )
        replies = [_APPLY[type(operation)](ledger, operation) for operation in operations]
        ledger.flush()
        return replies

    def _alone(self, head: Head, known: Unacknowledged, operation: Operation) -> tuple[Head, Any]:
        """Apply one operation. Return the newest numbers after it, and its reply."""
        transaction = self._transaction
        mine = msgspec.structs.replace(head)
        transaction.mark()
        try:
            reply = self._together(mine, known, [operation], trusting=False)[0]
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


def _events(operation: Any) -> list[Any]:
    kind = type(operation)
    if kind is Publish:
        events: list[Any] = operation.events
        return events
    return operation.published if kind is Settle else []

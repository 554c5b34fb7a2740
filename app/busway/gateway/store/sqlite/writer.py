"""Writes each batch of operations in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

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
    Rescue,
    Retry,
    RetryDead,
    RevokeKey,
    SaveHandler,
    Settle,
)
from busway.gateway.store.sqlite import (
    durables,
    handlers_keys,
    pruning,
    publishing,
    run_changes,
    settling,
    statements,
)
from busway.gateway.store.sqlite.ledger import Head, Ledger, Unacknowledged

_APPLY: dict[type[Operation], Callable[[Ledger, Any], Any]] = {
    Publish: publishing.publish,
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


def affects_batch(problem: BaseException) -> bool:
    """Return whether an error concerns the whole batch (disk, lock, corrupt file), not one operation."""
    cause = getattr(problem, "orig", None) or problem
    fatal = isinstance(cause, sqlite3.OperationalError | sqlite3.InternalError)
    return fatal or type(cause) is sqlite3.DatabaseError


class Replaced(Exception):
    """Another committer took over this database."""


class Refused(msgspec.Struct):
    """The reply to an operation that the store refused, with the reason. The rest of its batch is written."""

    why: str


class Writer:
    """Applies operations over one connection in autocommit mode.

    Args:
        connection: close it after any error except `Replaced`, because its transaction's state is unknown.
        name: the number with which this writer claims the head. None writes without claiming it.
    """

    def __init__(self, connection: sa.Connection, name: int | None = None) -> None:
        self._connection, self._name = connection, name
        self._cursor = connection.connection.cursor()

    def claim(self) -> Head:
        """Become the only committer. The next write of any other raises `Replaced`.

        Raises:
            sqlite3.Error, sqlalchemy.exc.DBAPIError: the database failed.
        """
        self._run("BEGIN IMMEDIATE")
        self._cursor.execute(statements.CLAIM_HEAD, (self._name,))
        head = self._head()
        self._run("COMMIT")
        return head

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
            sqlite3.Error, sqlalchemy.exc.DBAPIError: the outcome is unknown.
        """
        head = self._begin()
        known = self._unacknowledged(head, since)
        try:
            replies = self._together(head, known, operations, trusting=not known)
        except Exception as problem:
            if affects_batch(problem):
                raise
            self._run("ROLLBACK")
            self._begin()
            replies = [self._alone(known, operation) for operation in operations]
            head = self._head()
        self._run("COMMIT")
        return head.result, replies

    def _begin(self) -> Head:
        self._run("BEGIN IMMEDIATE")
        head = self._head()
        if self._name is not None and head.writer != self._name:
            self._run("ROLLBACK")
            raise Replaced
        return head

    def _together(
        self, head: Head, known: Unacknowledged, operations: Sequence[Any], *, trusting: bool
    ) -> list[Any]:
        ledger = Ledger(self._connection, self._cursor, head, known, trusting=trusting)
        ledger.load([o.run for o in operations if type(o) in _OF_ATTEMPTS])
        events = [new for operation in operations for new in _events(operation)]
        ledger.look_up([(new.id, new.source) for new in events if not (new.made_id and trusting)])
        replies = [_APPLY[type(operation)](ledger, operation) for operation in operations]
        ledger.flush()
        ledger.write_head()
        return replies

    def _alone(self, known: Unacknowledged, operation: Operation) -> Any:
        self._run("SAVEPOINT one")
        try:
            reply = self._together(self._head(), known, [operation], trusting=False)[0]
        except Exception as problem:
            if affects_batch(problem):
                raise
            self._run("ROLLBACK TO one")
            reply = Refused(str(getattr(problem, "orig", None) or problem))
        self._run("RELEASE one")
        return reply

    def _unacknowledged(self, head: Head, since: int | None) -> Unacknowledged:
        if since is None or since >= head.result:
            return {}
        self._cursor.execute(statements.SELECT_RESULTS_AFTER, (since,))
        rows = self._cursor.fetchall()
        return {(run, attempt, index): (number, completes) for number, run, attempt, index, completes in rows}

    def _head(self) -> Head:
        self._run(statements.SELECT_HEAD)
        return Head(*self._cursor.fetchall()[0])

    def _run(self, statement: str) -> None:
        self._cursor.execute(statement)


def _events(operation: Any) -> list[Any]:
    kind = type(operation)
    if kind is Publish:
        events: list[Any] = operation.events
        return events
    return operation.published if kind is Settle else []

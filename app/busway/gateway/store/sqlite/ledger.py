"""The ledger of one transaction: numbers and rows in memory, which `flush` writes in bulk."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor

from busway.domain import cursor
from busway.domain.run import Error
from busway.gateway.store.port.operations import NewResult
from busway.gateway.store.sqlite import statements
from busway.gateway.store.sqlite.schema import KIND_CODES

ResultKey = tuple[int, int, int | None]
"""(run, attempt, index). The result that ended the attempt has no index."""
Row = tuple[Any, ...]
Unacknowledged = dict[ResultKey, tuple[int, str | None]]
"""The number and `completes` of results."""


class Head(msgspec.Struct):
    """The newest numbers. `writer` is the name of the committer that may continue from them."""

    epoch: str
    writer: int
    event: int
    run: int
    result: int
    digest: int


class RunRow(msgspec.Struct):
    """The row of a run. The mutable columns are first, in the order of `statements.MUTABLE`."""

    state: int
    counted: int
    attempt: int
    lost: int
    granted: int
    max_attempts: int | None
    due: int | None
    available_at: int | None
    finished_at: int | None
    token: int | None
    revision: int | None
    started_at: int | None
    pool: str | None
    worker: int | None
    cpu_time: float | None
    wall_time: float | None
    peak_memory: int | None
    error: str | None
    last_result: int | None
    id: int
    event: int
    handler: int
    root: int


class TreeRow(msgspec.Struct):
    """Counts of the runs of one unfinished root event."""

    root: int
    unfinished: int
    succeeded: int = 0
    cancelled: int = 0
    dead: int = 0


class Ledger:
    """Collects the changes of one transaction.

    Args:
        connection: in a BEGIN IMMEDIATE transaction. Nobody else writes until it ends.
        cursor: the driver's cursor of that connection. Statements of every batch bypass SQLAlchemy for speed.
        head: the newest numbers in the store. The ledger counts them up.
        unacknowledged: results that an earlier batch wrote and whose replies were lost.
        trusting: ids that the gateway generated are known to be new and are not looked up.
    """

    def __init__(
        self,
        connection: sa.Connection,
        cursor: DBAPICursor,
        head: Head,
        unacknowledged: Unacknowledged,
        *,
        trusting: bool,
    ) -> None:
        self.connection = connection
        self._cursor = cursor
        self.head = head
        self.unacknowledged = unacknowledged
        self.trusting = trusting
        self._rows: defaultdict[str, list[Row]] = defaultdict(list)
        self._first_run = head.run + 1
        self._newest: tuple[int, int, int, int] | None = None
        self.counts: Counter[tuple[int, int]] = Counter()
        self.errors: dict[int, str] = {}
        self.seen: dict[tuple[str, str], int] = {}
        self._known: dict[int, RunRow] = {}
        self._changed: dict[int, RunRow] = {}
        self._settled: dict[int, RunRow] = {}
        self._trees: dict[int, TreeRow | None] = {}
        self._changed_trees: set[int] = set()

    # -- reads

    def rows(self, statement: str, *parameters: Any) -> Sequence[Any]:
        """Run a compiled statement and return all its rows."""
        self._cursor.execute(statement, parameters)
        return self._cursor.fetchall()

    def load(self, ids: Iterable[int]) -> list[RunRow]:
        """Return the existing ones of these runs, in the order of `ids`."""
        wanted = list(dict.fromkeys(ids))
        missing = [id_ for id_ in wanted if id_ not in self._known]
        if missing and max(missing) >= self._first_run:
            self.flush()  # one of them was inserted in this transaction
        if missing:
            for row in self.rows(statements.SELECT_RUNS, msgspec.json.encode(missing).decode()):
                run = RunRow(*row)
                self._known[run.id] = run
        return [self._known[id_] for id_ in wanted if id_ in self._known]

    def run(self, id_: int) -> RunRow | None:
        """Return one run, None if it does not exist."""
        return self._known.get(id_) or next(iter(self.load((id_,))), None)

    def look_up(self, pairs: list[tuple[str, str]]) -> None:
        """Look up which of these (id, source) are stored, and add their events' numbers to `seen`."""
        if not pairs:
            return
        for id_, source, seq in self.rows(statements.SELECT_SEEN, msgspec.json.encode(pairs).decode()):
            self.seen[id_, source] = seq

    def tree(self, root: int) -> TreeRow | None:
        """Return the counter row of a root event, None if it has none."""
        if root not in self._trees:
            row = next(iter(self.rows(statements.SELECT_TREE, root)), None)
            self._trees[root] = TreeRow(*row) if row else None
        return self._trees[root]

    # -- changes

    def add(self, statement: str, row: Row) -> None:
        """Add a row for an insert statement."""
        self._rows[statement].append(row)

    def change(self, run: RunRow, state: int, *, settled: bool = False) -> None:
        """Change the state of a run. Set its other columns on the row, which `flush` writes.

        `settled`: only the columns `statements.SETTLED` change.
        """
        if state != run.state:
            self.counts[run.handler, run.state] -= 1
            self.counts[run.handler, state] += 1
            run.state = state
        if settled and run.id not in self._changed:
            self._settled[run.id] = run
        else:
            self._settled.pop(run.id, None)
            self._changed[run.id] = run

    def forget(self, ids: Iterable[int]) -> None:
        """Forget deleted runs. Their changes must be flushed."""
        for id_ in ids:
            self._known.pop(id_, None)

    def put_tree(self, tree: TreeRow) -> None:
        """Insert or update a counter row."""
        self._trees[tree.root] = tree
        self._changed_trees.add(tree.root)

    def drop_tree(self, root: int) -> None:
        """Delete the counter row of a completed root event."""
        self._trees[root] = None
        self._changed_trees.add(root)

    def add_result(
        self, run: RunRow, new: NewResult, revision: int, attempt: int, completes: str | None = None
    ) -> int:
        """Append a result to the log and return its number."""
        head = self.head
        head.result += 1
        error = msgspec.json.encode(new.error).decode() if new.error else None
        ids = (head.result, run.id, run.event, run.handler, revision, attempt, KIND_CODES[new.kind])
        self._newest = (head.result, run.id, attempt, new.time)
        rest = (completes, int(new.binary), new.data)
        if error is None and new.index is None:
            self.add(statements.INSERT_PLAIN_RESULT, (*ids, new.time, *rest))
        else:
            self.add(statements.INSERT_RESULT, (*ids, new.index, new.time, error, *rest))
        return head.result

    # -- writes

    def flush(self) -> None:
        """Write all collected rows, so that statements see them. The transaction stays open."""
        for statement, rows in self._rows.items():
            self._many(statement, rows)
        self._first_run = self.head.run + 1
        self._many(
            statements.UPDATE_RUN,
            [msgspec.structs.astuple(run)[:_RUN_SIZE] for run in self._changed.values()],
        )
        self._many(statements.UPDATE_SETTLED, list(map(_settled, self._settled.values())))
        if self._newest is not None:
            self.head.digest = cursor.digest(*self._newest)
        self._flush_trees()
        self._many(statements.UPSERT_COUNT, [(*key, n) for key, n in self.counts.items() if n])
        self._many(statements.UPSERT_ERROR, list(self.errors.items()))
        self._changed.clear()
        self._settled.clear()
        self.counts.clear()
        self.errors.clear()

    def write_head(self) -> None:
        """Write the new numbers, just before COMMIT."""
        head = self.head
        self._cursor.execute(statements.UPDATE_HEAD, (head.event, head.run, head.result, head.digest))

    def _flush_trees(self) -> None:
        kept, gone = [], []
        for root in self._changed_trees:
            tree = self._trees[root]
            if tree is None:
                gone.append((root,))
            else:
                kept.append(msgspec.structs.astuple(tree))
        self._many(statements.UPSERT_TREE, kept)
        self._many(statements.DELETE_TREE, gone)
        self._changed_trees.clear()

    def _many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            self._cursor.executemany(statement, rows)
            rows.clear()


_RUN_SIZE = len(statements.MUTABLE) + 1
_settled = operator.attrgetter(*statements.SETTLED, "id")


def brief(error: Error | None) -> str | None:
    """Return an error for a run's row: type and message. The attempt's row has the traceback."""
    return msgspec.json.encode((error.type, error.message)).decode() if error else None

"""The ledger of one transaction: numbers and rows in memory, which `flush` writes in bulk."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from busway.domain import cursor
from busway.domain.run import Error
from busway.gateway.store.core.schema import KIND_CODES
from busway.gateway.store.core.transaction import (
    MUTABLE,
    PLAIN_RESULT,
    RESULT,
    SETTLED,
    Head,
    Transaction,
    Values,
)
from busway.gateway.store.port.operations import NewResult, Operation

ResultKey = tuple[int, int, int | None]
"""(run, attempt, index). The result that ended the attempt has no index."""
Unacknowledged = dict[ResultKey, tuple[int, str | None]]
"""The number and `completes` of results."""


class RunRow(msgspec.Struct):
    """The row of a run. The mutable columns are first, in the order of `MUTABLE`."""

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
    node: int | None
    id: int
    event: int
    handler: int
    root: int
    replay: int | None


class TreeRow(msgspec.Struct):
    """Counts of the runs of one unfinished root event."""

    root: int
    unfinished: int
    succeeded: int = 0
    cancelled: int = 0
    dead: int = 0


class BreakerState(msgspec.Struct, frozen=True):
    """When attempts of a handler failed, in microseconds since 1970, without a success between or after them.

    `half_open`: its breaker has paused it, and no attempt has succeeded since.
    """

    failed_at: list[int] = []
    half_open: bool = False


class Outdated(msgspec.Struct):
    """The reply to an operation that was made from older handlers than the store has. It did nothing."""


class KnownKeys(msgspec.Struct):
    """Idempotency keys of a transaction: digest and time of each, and the first and last number by owner."""

    digests: dict[tuple[int, str], tuple[bytes, int]] = {}
    numbers: dict[int, tuple[int, int]] = {}


class Ledger:
    """Collects the changes of one transaction.

    Args:
        transaction: nobody else writes until it ends.
        head: the newest numbers in the store. The ledger counts them up.
        unacknowledged: results that an earlier batch wrote and whose replies were lost.
        trusting: ids that the gateway generated are known to be new and are not looked up.

    Attributes:
        operations: those that are applied together.
        keys: idempotency keys of these operations, once one is looked up.
    """

    def __init__(
        self, transaction: Transaction, head: Head, unacknowledged: Unacknowledged, *, trusting: bool
    ) -> None:
        self.transaction = transaction
        self.head = head
        self.unacknowledged = unacknowledged
        self.trusting = trusting
        self.operations: Sequence[Operation] = ()
        self.keys: KnownKeys | None = None
        self._rows: defaultdict[int, list[Values]] = defaultdict(list)
        self._first_run = head.run + 1
        self._newest: tuple[int, int, int, int] | None = None
        self.counts: Counter[tuple[int, int]] = Counter()
        self.errors: dict[int, str] = {}
        self.breakers: dict[int, BreakerState] = {}
        self.seen: dict[tuple[str, str], int] = {}
        self._known: dict[int, RunRow] = {}
        self._changed: dict[int, RunRow] = {}
        self._settled: dict[int, RunRow] = {}
        self._trees: dict[int, TreeRow | None] = {}
        self._changed_trees: set[int] = set()

    # -- reads

    def prepare(self, ids: Iterable[int], pairs: list[tuple[str, str]]) -> None:
        """Load these runs, each named once, and look up which of these (id, source) are stored.

        `seen` gets their numbers.
        """
        wanted = list(ids)
        if not (wanted or pairs):
            return
        rows, seen = self.transaction.load(wanted, pairs)
        for row in rows:
            run = RunRow(*row)
            self._known[run.id] = run
        for id_, source, seq in seen:
            self.seen[id_, source] = seq

    def load(self, ids: Iterable[int]) -> list[RunRow]:
        """Return the existing ones of these runs, in the order of `ids`."""
        wanted = list(dict.fromkeys(ids))
        missing = [id_ for id_ in wanted if id_ not in self._known]
        if missing and max(missing) >= self._first_run:
            self.flush()  # one of them was inserted in this transaction
        self.prepare(missing, [])
        return [self._known[id_] for id_ in wanted if id_ in self._known]

    def run(self, id_: int) -> RunRow | None:
        """Return one run, None if it does not exist."""
        return self._known.get(id_) or next(iter(self.load((id_,))), None)

    def tree(self, root: int) -> TreeRow | None:
        """Return the counter row of a root event, None if it has none."""
        if root not in self._trees:
            row = self.transaction.tree(root)
            self._trees[root] = TreeRow(*row) if row else None
        return self._trees[root]

    # -- changes

    def add(self, what: int, row: Values) -> None:
        """Add a row to insert. `what` is a key of `transaction.COLUMNS`."""
        self._rows[what].append(row)

    def change(self, run: RunRow, state: int, *, settled: bool = False) -> None:
        """Change the state of a run. Set its other columns on the row, which `flush` writes.

        `settled`: only the columns `SETTLED` change.
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

    def forget(self, ids: Iterable[int], events: Iterable[int]) -> None:
        """Forget deleted runs and events. Their changes must be flushed."""
        for id_ in ids:
            self._known.pop(id_, None)
        gone = set(events)
        self.seen = {pair: seq for pair, seq in self.seen.items() if seq not in gone}

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
        if error is None and new.index is None and run.replay is None:
            self.add(PLAIN_RESULT, (*ids, new.time, *rest))
        else:
            self.add(RESULT, (*ids, new.index, new.time, error, *rest, run.replay))
        return head.result

    # -- writes

    def flush(self) -> None:
        """Write all collected rows, so that statements see them. The transaction stays open."""
        transaction = self.transaction
        for what, rows in self._rows.items():
            if rows:
                transaction.insert(what, rows)
                rows.clear()
        self._first_run = self.head.run + 1
        if self._changed:
            transaction.update_runs(
                [msgspec.structs.astuple(run)[:_RUN_SIZE] for run in self._changed.values()]
            )
            self._changed.clear()
        if self._settled:
            transaction.update_settled(list(map(_settled, self._settled.values())))
            self._settled.clear()
        if self._newest is not None:
            self.head.digest = cursor.digest(*self._newest)
        self._flush_trees()
        if counts := [(*key, n) for key, n in self.counts.items() if n]:
            transaction.add_counts(counts)
        self.counts.clear()
        if self.errors:
            transaction.put_errors(list(self.errors.items()))
            self.errors.clear()

    def _flush_trees(self) -> None:
        if not self._changed_trees:
            return
        kept, gone = [], []
        for root in self._changed_trees:
            tree = self._trees[root]
            if tree is None:
                gone.append(root)
            else:
                kept.append(msgspec.structs.astuple(tree))
        self.transaction.put_trees(kept, gone)
        self._changed_trees.clear()


_RUN_SIZE = len(MUTABLE) + 1
_settled = operator.attrgetter(*SETTLED, "id")


def brief(error: Error | None) -> str | None:
    """Return an error for a run's row: type and message. The attempt's row has the traceback."""
    return msgspec.json.encode((error.type, error.message)).decode() if error else None

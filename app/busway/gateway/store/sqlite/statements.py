"""The writer's statements, compiled once. Parameters are tuples in the order given here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from busway.gateway.store.core.schema import attempts, events, node_names, results, runs, trees
from busway.gateway.store.core.transaction import COLUMNS, MUTABLE, SETTLED
from busway.gateway.store.sqlite.schema import counts, head, last_errors

_DIALECT = sqlite.dialect(paramstyle="qmark")


def _compile(statement: sa.ClauseElement, order: Sequence[str], columns: Iterable[str] | None = None) -> str:
    compiled: Any = statement.compile(dialect=_DIALECT, column_keys=columns)
    if list(compiled.positiontup or ()) != list(order):
        raise ValueError(f"{compiled} takes {compiled.positiontup}, not {order}")
    return str(compiled)


def _insert(table: sa.Table, *columns: str) -> str:
    return _compile(sa.insert(table), columns, columns)


def _update_run(columns: tuple[str, ...]) -> str:
    order = (*columns, "id_")
    return _compile(sa.update(runs).where(runs.c.id == sa.bindparam("id_")), order, order)


INSERT = {what: _insert(table, *columns) for what, (table, columns) in COLUMNS.items()}
UPDATE_RUN = _update_run(MUTABLE)
UPDATE_SETTLED = _update_run(SETTLED)

_COUNT = sqlite.insert(counts)
UPSERT_COUNT = _compile(
    _COUNT.on_conflict_do_update(
        index_elements=[counts.c.handler, counts.c.state], set_={"n": counts.c.n + _COUNT.excluded.n}
    ),
    ("handler", "state", "n"),
    ("handler", "state", "n"),
)
_ERROR = sqlite.insert(last_errors)
UPSERT_ERROR = _compile(
    _ERROR.on_conflict_do_update(
        index_elements=[last_errors.c.handler], set_={"error": _ERROR.excluded.error}
    ),
    ("handler", "error"),
    ("handler", "error"),
)
_TREE_COLUMNS = tuple(column.name for column in trees.columns)
_TREE = sqlite.insert(trees)
UPSERT_TREE = _compile(
    _TREE.on_conflict_do_update(
        index_elements=[trees.c.root], set_={name: _TREE.excluded[name] for name in _TREE_COLUMNS[1:]}
    ),
    _TREE_COLUMNS,
    _TREE_COLUMNS,
)
DELETE_TREE = _compile(sa.delete(trees).where(trees.c.root == sa.bindparam("root")), ("root",))
SELECT_TREE = _compile(sa.select(trees).where(trees.c.root == sa.bindparam("root")), ("root",))

SELECT_RUNNING = _compile(sa.select(runs.c.id).where(sa.text("state = 2")).order_by(runs.c.id), ())
SELECT_HEAD = _compile(
    sa.select(head.c.epoch, head.c.writer, head.c.event, head.c.run, head.c.result, head.c.digest), ()
)
UPDATE_HEAD = _compile(
    sa.update(head), ("event", "run", "result", "digest"), ("event", "run", "result", "digest")
)
CLAIM_HEAD = _compile(sa.update(head), ("writer",), ("writer",))
SELECT_NODE = _compile(
    sa.select(sa.func.min(node_names.c.id)).where(node_names.c.name == sa.bindparam("name")), ("name",)
)
INSERT_NODE = _insert(node_names, "name")


def _listed(name: str) -> Any:
    """Return a bound JSON array of numbers as a subquery, so that lists of any length share a statement."""
    return sa.select(sa.func.json_each(sa.bindparam(name)).table_valued("value").c.value)


SELECT_RUNS = _compile(
    sa.select(*(runs.c[name] for name in (*MUTABLE, "id", "event", "handler", "root", "replay"))).where(
        runs.c.id.in_(_listed("ids"))
    ),
    ("ids",),
)
CLEAR_PARTITION_KEY = _compile(
    sa.update(runs)
    .where(runs.c.id.in_(_listed("ids")), runs.c.partitionkey.is_not(None))
    .values(partitionkey=None),
    ("partitionkey", "ids"),
)
_wanted = sa.func.json_each(sa.bindparam("pairs")).table_valued("value")
SELECT_SEEN = _compile(
    sa.select(events.c.id, events.c.source, events.c.seq).select_from(
        _wanted.join(
            events,
            (events.c.id == sa.func.json_extract(_wanted.c.value, sa.literal_column("'$[0]'")))
            & (events.c.source == sa.func.json_extract(_wanted.c.value, sa.literal_column("'$[1]'"))),
        )
    ),
    ("pairs",),
)
SELECT_RESULTS_AFTER = _compile(
    sa.select(
        results.c.number,
        results.c.run,
        results.c.attempt,
        results.c.idx,
        results.c.completes,
    ).where(results.c.number > sa.bindparam("after")),
    ("after",),
)
DELETE_RESULTS = _compile(
    sa.delete(results).where(results.c.number <= sa.bindparam("until")).returning(results.c.number),
    ("until",),
)
MOVE_FLOOR = _compile(sa.update(head), ("floor", "floor_digest"), ("floor", "floor_digest"))
DELETE_RUNS = _compile(
    sa.delete(runs)
    .where(runs.c.event.in_(_listed("events")))
    .returning(runs.c.id, runs.c.handler, runs.c.state),
    ("events",),
)
DELETE_ATTEMPTS = _compile(sa.delete(attempts).where(attempts.c.run.in_(_listed("runs"))), ("runs",))
DELETE_EVENTS = _compile(
    sa.delete(events).where(events.c.seq.in_(_listed("events"))).returning(events.c.seq), ("events",)
)

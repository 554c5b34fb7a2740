"""Queries use indexes: those of open runs partial ones, so that finished runs cost nothing."""

import pytest
import sqlalchemy as sa
from busway.gateway.store.core import (
    audit,
    breakers,
    idempotency,
    listings,
    producers,
    pruning,
    reader,
    records,
    replays,
    result_log,
    run_changes,
    schedules,
    sources,
    waiting_runs,
)
from busway.gateway.store.port.audit import AuditQuery
from busway.gateway.store.sqlite import snapshot


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (waiting_runs._DUE[False][0], "runs_waiting"),
        (waiting_runs._DUE[True][0], "runs_waiting"),
        (waiting_runs._DUE[False][1], "runs_late"),
        (waiting_runs._later, "runs_due"),
        (waiting_runs._oldest, "runs_waiting (handler=? AND priority=?)"),
        (waiting_runs._oldest, "runs_late (handler=?"),
        (snapshot._keys, "runs_in_line (handler=? AND partitionkey>?)"),
        (snapshot._first_of_keys, "runs_in_line (handler=? AND partitionkey=?)"),
        (reader._run, "INTEGER PRIMARY KEY"),
        (listings._in_state(listings.select_runs(), 5), "runs_ended"),
        (listings._in_state(listings.select_runs(), 2), "runs_running"),
        (listings._in_state(listings.select_runs(), 0), "runs_due"),
        (listings._in_state(listings.select_runs(), 0), "runs_waiting"),
        (records._these, "SEARCH runs USING INTEGER PRIMARY KEY"),
        (waiting_runs._these, "SEARCH runs USING INTEGER PRIMARY KEY"),
        (result_log._events, "SEARCH events USING INTEGER PRIMARY KEY"),
        (pruning._kept, "runs_event (event=?)"),
        (pruning._children, "runs_event (event=?)"),
        (pruning._children, "events_parent (parent=?)"),
        (run_changes._at_once, "runs_waiting"),
        (replays._left, "runs_replay (replay=? AND state<?)"),
        (replays._counts, "COVERING INDEX runs_replay (replay=?)"),
        (replays._on_record, "runs_event (event=?)"),
        (replays._unfinished, "replays_unfinished"),
        (run_changes._later, "runs_late"),
        (run_changes._expired, "runs_expiring"),
        (waiting_runs._running, "runs_running"),
        (run_changes._ended, "runs_ended"),
        (run_changes._ended.where(run_changes._of(1)), "runs_ended"),
        (replays._one, "SEARCH replays USING INTEGER PRIMARY KEY"),
        (replays._page, "SEARCH replays USING INTEGER PRIMARY KEY (rowid<?)"),
        (replays._old, "SEARCH runs USING INDEX runs_replay (replay=?)"),
        (idempotency._known, "sqlite_autoindex_idempotency_keys_1 (owner=? AND name=?)"),
        (idempotency._receipts, "sqlite_autoindex_idempotency_keys_1 (owner=? AND name=?)"),
        (idempotency._numbers, "COVERING INDEX idempotency_keys_number (owner=?)"),
        (idempotency._oldest, "idempotency_keys_created (created_at<?)"),
        (producers._one, "SEARCH producers USING PRIMARY KEY (id=?)"),
        (producers._lines, "SEARCH producers USING PRIMARY KEY (id=?)"),
        (producers._forget_old, "INDEX producers_updated (updated_at<?)"),
        (producers._forget_most, "INDEX producers_updated (updated_at<?)"),
        (producers._advance, "SEARCH producers USING PRIMARY KEY (id=?)"),
        (schedules._one, "SEARCH schedules USING PRIMARY KEY (name=?)"),
        (schedules._state, "SEARCH schedules USING PRIMARY KEY (name=?)"),
        (schedules._page, "SEARCH schedules USING PRIMARY KEY (name>?)"),
        (sources._one, "SEARCH sources USING PRIMARY KEY (name=?)"),
        (breakers._state, "SEARCH breakers USING INTEGER PRIMARY KEY"),
        (audit._old, "COVERING INDEX audit_time (time<?)"),
        (audit.select(AuditQuery(before=9))[0], "SEARCH audit USING INTEGER PRIMARY KEY (rowid<?)"),
        (audit.select(AuditQuery(actor="a"))[0], "audit_actor (actor=?)"),
        (audit.select(AuditQuery(actions=["a"]))[0], "audit_action (action=?)"),
        (audit.select(AuditQuery(object="a"))[0], "audit_object (object=?)"),
        (breakers._handler, "SEARCH handlers USING INTEGER PRIMARY KEY"),
    ],
)
def test_rows_are_found_by_an_index(store, query, index):
    plan = explain(store, query)
    assert index in plan, plan


def test_only_found_rows_are_sorted_not_whole_queues(store):
    assert explain(store, snapshot._first_of_keys).count("TEMP B-TREE") == 1


def explain(store, query):
    text = query.compile(store.batches.engine, compile_kwargs={"literal_binds": False})
    marks = dict.fromkeys(text.params, 1)
    statement = sa.text(f"EXPLAIN QUERY PLAN {query.compile(dialect=store.batches.engine.dialect).string}")
    return "\n".join(
        row[3]
        for row in store.batches.connection.exec_driver_sql(
            statement.text, tuple(marks.get(p, 1) for p in text.positiontup)
        )
    )

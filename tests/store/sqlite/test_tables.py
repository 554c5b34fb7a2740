"""Rows that readers do not show: those of unfinished trees, counts, and what pruning leaves."""

import random

from busway.gateway.store.core.moving import NOT_MOVED
from busway.gateway.store.core.moving import TABLES as MOVED
from busway.gateway.store.port.operations import PruneEvents, PruneResults

from tests.store.conformance.test_completes import Play
from tests.store.kit import event, publish, report, settle

TABLES = ("events", "runs", "attempts", "results", "trees")


def rows(store, query):
    return [tuple(row) for row in store.batches.connection.exec_driver_sql(query)]


def test_a_tree_has_a_row_while_it_is_unfinished_and_has_several_runs(store):
    store.write(publish(event(), event(handlers=(1, 2))))
    store.write(settle(1), settle(2))
    assert rows(store, "SELECT root, unfinished FROM trees") == [(2, 1)]
    store.write(settle(3))
    assert rows(store, "SELECT * FROM trees") == []


def test_counts_and_trees_are_those_of_the_runs(store):
    play = Play(random.Random(5))
    for _ in range(60):
        store.write(*[play.operation() for _ in range(play.chance.choice((1, 3, 10)))])
    counted = rows(
        store, "SELECT handler, state, count(*) FROM runs GROUP BY handler, state ORDER BY handler, state"
    )
    assert rows(store, "SELECT * FROM counts WHERE n <> 0 ORDER BY handler, state") == counted
    unfinished = rows(store, "SELECT count(DISTINCT root) FROM runs WHERE state < 3 AND counted = 1")
    assert rows(store, "SELECT count(*) FROM trees") == unfinished


def test_a_first_attempt_that_succeeds_without_output_needs_no_row(store):
    store.write(publish(event(), event()), settle(1), settle(2, report=report(log="a line\n")))
    assert rows(store, "SELECT run FROM attempts") == [(2,)]


def test_each_table_is_moved_to_another_database_or_named(store):
    tables = {name for (name,) in rows(store, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables - NOT_MOVED.keys() == {table.name for table in MOVED}


def test_pruning_leaves_no_row(store):
    store.write(publish(event(), event(handlers=(1, 2))))
    store.write(settle(1, report=report(log="a line\n")), settle(2), settle(3, event=2))
    store.write(PruneResults(until=3), PruneEvents(trees=[[1], [2]]))
    assert [rows(store, f"SELECT count(*) FROM {table}") for table in TABLES] == [[(0,)]] * len(TABLES)

"""No query of PostgreSQL reads a whole table: the plans on a million events."""

import asyncio

import psycopg
import pytest
import sqlalchemy as sa
from busway.domain.run import RunState
from busway.gateway.store.core.transaction import ATTEMPT, COLUMNS, MUTABLE, SETTLED
from busway.gateway.store.port.reader import EventQuery, RunQuery
from busway.gateway.store.postgres import statements

from tests.store.databases import Postgres

COUNT = 1_000_000
SMALL = {
    "handlers",
    "handler_revisions",
    "keys",
    "durables",
    "cell",
    "counts",
}  # of as many rows as users make
FILL = """
INSERT INTO handlers (name, revision, overrides, file_digest, missing, deleted, created_at, updated_at)
SELECT 'h' || i, 1, '{}', '', 0, 0, 1, 1 FROM generate_series(1, 20) AS i;
INSERT INTO events (seq, id, source, type, subject, time, accepted_at, correlationid, parent, "binary", data)
SELECT i, 'event-' || i, '/source/' || i % 50, 'type.' || i % 100,
    CASE WHEN i % 10 = 0 THEN 's' || i END, i, i,
    CASE WHEN i % 3 = 0 THEN 'event-' || i / 2 END, CASE WHEN i % 3 = 0 THEN i / 2 END, 0, '{"n":1}'
FROM generate_series(1, 1000000) AS i;
INSERT INTO runs (id, event, handler, root, priority, created_at, state, counted, attempt, due, partitionkey,
    expires_at, finished_at, last_result)
SELECT i, i, i % 20 + 1, i, 4, i, CASE WHEN i % 100 = 0 THEN 0 WHEN i % 1000 = 1 THEN 5 ELSE 3 END, 0,
    CASE WHEN i % 100 = 0 THEN 0 ELSE 1 END, CASE WHEN i % 200 = 0 THEN i END,
    CASE WHEN i % 500 = 0 THEN 'k' || i % 7 END, CASE WHEN i % 300 = 0 THEN i END, i, i
FROM generate_series(1, 1000000) AS i;
INSERT INTO results (number, run, event, handler, revision, attempt, kind, time, "binary", data)
SELECT i, i, i, i % 20 + 1, 1, 1, 0, i, 0, '1' FROM generate_series(1, 1000000) AS i;
INSERT INTO attempts (run, attempt, outcome, revision, started_at, finished_at, pool)
SELECT i, 1, 1, 1, i, i, 'process' FROM generate_series(1, 1000000, 10) AS i;
INSERT INTO trees SELECT i, 1, 0, 0, 0 FROM generate_series(1, 1000000, 10) AS i;
INSERT INTO commits SELECT i, i, i, i, 0, '{1,0,1}' FROM generate_series(1, 20000) AS i;
INSERT INTO counts SELECT i, '{1,0,1}' FROM generate_series(200, 20000, 200) AS i;
INSERT INTO last_errors SELECT i % 20 + 1, i, '["a","b"]' FROM generate_series(1, 20000) AS i;
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    database = Postgres(tmp_path_factory.mktemp("plans"), tmp_path_factory.mktemp("shared"))
    with psycopg.connect(database.url, autocommit=True, options="-c search_path=busway") as connection:
        connection.execute(FILL)
        connection.execute("VACUUM ANALYZE")
    yield database
    database.close()


def scans(connection, statement, parameters):
    """Return the large tables that a plan reads from beginning to end."""
    plan = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters).fetchone()[0][0]["Plan"]
    found, nodes = [], [plan]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] not in SMALL:
            found.append(f"{node['Relation Name']} in {statement}")
        # An index that is read whole is no better.
        whole = "Index" in node["Node Type"] and "Index Cond" not in node and "Scan" in node["Node Type"]
        if whole and not any(limited(above, node) for above in [plan]):
            found.append(f"all of {node.get('Index Name')} in {statement}")
    return found


def limited(above, node):
    """Return whether a LIMIT or min() stands above a node, so that it reads only the start of its index."""
    if above is node:
        return False
    for child in above.get("Plans", []):
        if child is node or limited(child, node) or contains(child, node):
            return above["Node Type"] in {"Limit", "Result", "Aggregate"} or limited(child, node)
    return False


def contains(above, node):
    return above is node or any(contains(child, node) for child in above.get("Plans", []))


READS = {
    "bounds": lambda r: r.log_bounds(),
    "position": lambda r: r.position(500_000),
    "results": lambda r: r.results(500_000, 100, 1 << 20),
    "results with events": lambda r: r.results_with_events(500_000, 100, 1 << 20),
    "event": lambda r: r.event(5),
    "events": lambda r: r.events(EventQuery(), 100),
    "events before": lambda r: r.events(EventQuery(before=500_000), 100),
    "events of a type": lambda r: r.events(EventQuery(type="type.7"), 100),
    "events of a pattern": lambda r: r.events(EventQuery(type="type.*"), 100),
    "events of a source": lambda r: r.events(EventQuery(source="/source/3"), 100),
    "events of a subject": lambda r: r.events(EventQuery(subject="s10"), 100),
    "events of an id": lambda r: r.events(EventQuery(id="event-5"), 100),
    "events of a correlation": lambda r: r.events(EventQuery(correlationid="event-5"), 100),
    "children": lambda r: r.children([5, 6, 7], limit=10, max_bytes=1000),
    "runs": lambda r: r.runs(RunQuery(), 100),
    "runs of a handler": lambda r: r.runs(RunQuery(handler="h3"), 100),
    "runs of an event": lambda r: r.runs(RunQuery(event=5), 100),
    **{f"{s.value} runs": lambda r, s=s: r.runs(RunQuery(state=s), 100) for s in RunState},
    "runs of events": lambda r: r.runs_of([5, 6, 7], limit=10),
    "run": lambda r: r.run(1),
    "waiting": lambda r: r.waiting(1, 100, now=1 << 60),
    "waiting without a key": lambda r: r.waiting(1, 100, now=1 << 60, keyless=True),
    "due": lambda r: r.due(1 << 60, 100),
    "partition keys": lambda r: r.partition_keys(1, "", 100),
    "runs of keys": lambda r: r.key_runs(1, ["k0", "k1"], 1 << 60, 5, 1 << 20),
    "next due": lambda r: r.next_due(),
    "next expiry": lambda r: r.next_expiry(),
    "old results": lambda r: r.old_results(1 << 60, 100, 1 << 20),
    "old roots": lambda r: r.old_roots(500_000, 1 << 60, 100),
    "layer": lambda r: r.layer([5, 6, 7], 1 << 60),
    "counts": lambda r: r.counts(),
    "last errors": lambda r: r.last_errors(),
    "handlers": lambda r: r.handlers(),
    "durables": lambda r: r.durables("", 100),
}


@pytest.mark.long
def test_no_read_scans_a_table(full):
    asked = []
    reader = full.reader(threads=1)

    @sa.event.listens_for(reader._snapshots._engine, "before_cursor_execute")
    def remember(_connection, _cursor, statement, parameters, *_):
        asked.append((statement, parameters))

    async def read_all():
        for read in READS.values():
            await read(reader)

    asyncio.run(read_all())
    reader.close()
    asked = [(s, p) for s, p in asked if s.lstrip().startswith(("SELECT", "WITH"))]
    assert len(asked) > len(READS)
    with psycopg.connect(full.url, options="-c search_path=busway") as connection:
        found = [
            fault for statement, parameters in asked for fault in scans(connection, statement, parameters)
        ]
    assert not found, "\n\n".join(found)


@pytest.mark.long
def test_no_write_scans_a_table(full):
    many = list(range(1, 200))
    nothing = {"text": [None] * len(many), "number": many}
    asked = [
        (statements.SELECT_RUNS, (many,)),
        (statements.SELECT_SEEN, ([f"event-{n}" for n in many], ["/source/1"] * len(many))),
        (statements.SELECT_HEAD, ()),
        (statements.SELECT_COMMIT, (5,)),
        (statements.SELECT_TREE, (5,)),
        (statements.SELECT_RESULTS_AFTER, (999_990,)),
        (statements.UPDATE_RUN, (nothing["text"],) * len(MUTABLE) + (many,)),
        (statements.UPDATE_SETTLED, (nothing["text"],) * len(SETTLED) + (many,)),
        (statements.INSERT[ATTEMPT], (nothing["text"],) * len(COLUMNS[ATTEMPT][1])),
        (statements.CLEAR_PARTITION_KEY, (many,)),
        (statements.DELETE_TREES, (many,)),
        (statements.DELETE_RESULTS, (500,)),
        (statements.DELETE_RUNS, (many,)),
        (statements.DELETE_ATTEMPTS, (many,)),
        (statements.DELETE_EVENTS, (many,)),
    ]
    with psycopg.connect(full.url, options="-c search_path=busway") as connection:
        found = [
            fault for statement, parameters in asked for fault in scans(connection, statement, parameters)
        ]
    assert not found, "\n\n".join(found)


@pytest.mark.long
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM events WHERE datacontenttype = 'x'",
        "SELECT count(*) FROM results",
        "SELECT * FROM runs WHERE priority = 3 ORDER BY id DESC",
    ],
)
def test_a_scan_would_be_found(full, statement):
    with psycopg.connect(full.url, options="-c search_path=busway") as connection:
        assert scans(connection, statement, ())

"""No query of PostgreSQL reads a whole table: the plans on 250,000 events."""

import asyncio
import re

import psycopg
import pytest
import sqlalchemy as sa
from busway.domain.run import RunState
from busway.gateway.store.core.transaction import ATTEMPT, COLUMNS, MUTABLE, SETTLED
from busway.gateway.store.port.audit import AuditQuery, Entry, PruneAudit, Record
from busway.gateway.store.port.once import Once
from busway.gateway.store.port.operations import FinishReplay, Publish
from busway.gateway.store.port.reader import EventQuery, RunQuery
from busway.gateway.store.port.retention import PruneKeys, PruneReplays
from busway.gateway.store.port.uploads import Upload
from busway.gateway.store.postgres import connections, statements

from tests.store.databases import Postgres
from tests.store.kit import event

COUNT = 250_000
SMALL = {
    "handlers",
    "handler_revisions",
    "node_names",
    "keys",
    "durables",
    "replays",
    "cell",
    "counts",
    "schedules",
    "sources",
    "breakers",
}  # of as many rows as users make, or nodes that were started
FILL = """
INSERT INTO handlers (name, revision, overrides, file_digest, missing, deleted, created_at, updated_at)
SELECT 'h' || i, 1, '{}', '', 0, 0, 1, 1 FROM generate_series(1, 20) AS i;
INSERT INTO events (seq, id, source, type, subject, time, accepted_at, correlationid, parent, "binary", data)
SELECT i, 'event-' || i, '/source/' || i % 50, 'type.' || i % 100,
    CASE WHEN i % 10 = 0 THEN 's' || i END, i, i,
    CASE WHEN i % 3 = 0 THEN 'event-' || i / 2 END, CASE WHEN i % 3 = 0 THEN i / 2 END, 0, '{"n":1}'
FROM generate_series(1, 250000) AS i;
INSERT INTO runs (id, event, handler, root, priority, created_at, state, counted, attempt, due, partitionkey,
    expires_at, finished_at, last_result, replay)
SELECT i, i, i % 20 + 1, i, 4, i, CASE WHEN i % 100 = 0 THEN 0 WHEN i % 1000 = 1 THEN 5 ELSE 3 END, 0,
    CASE WHEN i % 100 = 0 THEN 0 ELSE 1 END, CASE WHEN i % 200 = 0 THEN i END,
    CASE WHEN i % 500 = 0 THEN 'k' || i % 7 END, CASE WHEN i % 300 = 0 THEN i END, i, i,
    CASE WHEN i % 50 = 2 THEN -1 END
FROM generate_series(1, 250000) AS i;
INSERT INTO results (number, run, event, handler, revision, attempt, kind, time, "binary", data)
SELECT i, i, i, i % 20 + 1, 1, 1, 0, i, 0, '1' FROM generate_series(1, 250000) AS i;
INSERT INTO attempts (run, attempt, outcome, revision, started_at, finished_at, pool)
SELECT i, 1, 1, 1, i, i, 'process' FROM generate_series(1, 250000, 10) AS i;
INSERT INTO replays (id, handler, types, "after", "before", shadow, state, matched, created, position,
    created_at) SELECT i, 1, '["**"]', 0, 9, 1, 0, 0, 0, 0, 1 FROM generate_series(1, 3) AS i;
INSERT INTO trees SELECT i, 1, 0, 0, 0 FROM generate_series(1, 250000, 10) AS i;
INSERT INTO producers SELECT 'p' || i, 1, 1, 0, 0, i, i FROM generate_series(1, 20000) AS i;
INSERT INTO idempotency_keys SELECT i % 3, 'k' || i, i, '\\x00', '\\x00', i
    FROM generate_series(1, 250000, 10) AS i;
INSERT INTO audit (id, time, actor, action, object)
    SELECT i, i, 'key:' || i % 5, 'a.' || i % 20, 'o' || i FROM generate_series(1, 100000) AS i;
INSERT INTO commits SELECT i, 1, i + 250000, i + 250000, i + 250000, 0, 1, '{1,0,1}', ''
    FROM generate_series(1, 20000) AS i;
INSERT INTO counts SELECT i, '{1,0,1}' FROM generate_series(200, 20000, 200) AS i;
INSERT INTO last_errors SELECT i % 20 + 1, i, '["a","b"]' FROM generate_series(1, 20000) AS i;
"""

INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON oid = indrelid
WHERE relnamespace = 'busway'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    database = Postgres(tmp_path_factory.mktemp("plans"), tmp_path_factory.mktemp("shared"))
    with psycopg.connect(database.url, autocommit=True, options="-c search_path=busway") as connection:
        indexes = connection.execute(INDEXES).fetchall()
        for name, _ in indexes:  # made at the end, which takes half of the time
            connection.execute(f"DROP INDEX {name}")
        connection.execute(FILL)
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute("VACUUM ANALYZE")
    yield database
    database.close()


@pytest.fixture
def empty(tmp_path_factory):
    database = Postgres(tmp_path_factory.mktemp("plans"), tmp_path_factory.mktemp("shared"))
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
        whole = whole and node.get("Relation Name") not in SMALL
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
    "position": lambda r: r.position(125_000),
    "results": lambda r: r.results(125_000, 100, 1 << 20),
    "results with events": lambda r: r.results_with_events(125_000, 100, 1 << 20),
    "event": lambda r: r.event(5),
    "events": lambda r: r.events(EventQuery(), 100),
    "events before": lambda r: r.events(EventQuery(before=125_000), 100),
    "events of a type": lambda r: r.events(EventQuery(type="type.7"), 100),
    "events of a pattern": lambda r: r.events(EventQuery(type="type.*"), 100),
    "events within patterns": lambda r: r.events(EventQuery(within=("type.*", "other")), 100),
    "types of events": lambda r: r.event_types([5, 125_000]),
    "events of a source": lambda r: r.events(EventQuery(source="/source/3"), 100),
    "events of a subject": lambda r: r.events(EventQuery(subject="s10"), 100),
    "events of an id": lambda r: r.events(EventQuery(id="event-5"), 100),
    "events of a correlation": lambda r: r.events(EventQuery(correlationid="event-5"), 100),
    "children": lambda r: r.children([5, 6, 7], limit=10, max_bytes=1000),
    "runs": lambda r: r.runs(RunQuery(), 100),
    "runs of a handler": lambda r: r.runs(RunQuery(handler="h3"), 100),
    "runs of an event": lambda r: r.runs(RunQuery(event=5), 100),
    "runs of a replay": lambda r: r.runs(RunQuery(replay=1), 100),
    "replay": lambda r: r.replay(1),
    "replays": lambda r: r.replays("h1", 1 << 60, 100),
    "unfinished replays": lambda r: r.unfinished_replays(1000),
    "past events": lambda r: r.past_events(
        ["type.7"], lambda _: True, after=5, before=1 << 60, limit=9, max_bytes=1 << 20
    ),
    "results of a replay": lambda r: r.replay_results(1, 125_000, 100, 1 << 20),
    **{f"{s.value} runs": lambda r, s=s: r.runs(RunQuery(state=s), 100) for s in RunState},
    "runs of events": lambda r: r.runs_of([5, 6, 7], limit=10),
    "run": lambda r: r.run(1),
    "waiting": lambda r: r.waiting(1, 100, now=1 << 60),
    "some that wait": lambda r: r.waiting_of([1, 125_000, 249_999], 1 << 20),
    "some that run": lambda r: r.running([1, 125_000, 249_999]),
    "rules": lambda r: r.rules(),
    "waiting without a key": lambda r: r.waiting(1, 100, now=1 << 60, keyless=True),
    "due": lambda r: r.due(1 << 60, 100),
    "partition keys": lambda r: r.partition_keys(1, "", 100),
    "runs of keys": lambda r: r.key_runs(1, ["k0", "k1"], 1 << 60, 5, 1 << 20),
    "oldest": lambda r: r.oldest(1 << 60),
    "next expiry": lambda r: r.next_expiry(),
    "old results": lambda r: r.old_results(1 << 60, 100, 1 << 20),
    "old roots": lambda r: r.old_roots(125_000, 1 << 60, 100),
    "layer": lambda r: r.layer([5, 6, 7], 1 << 60),
    "counts": lambda r: r.counts(),
    "last errors": lambda r: r.last_errors(),
    "handlers": lambda r: r.handlers(),
    "durables": lambda r: r.durables("", 100),
    "producer": lambda r: r.producer("p500"),
    "old keys": lambda r: r.old_keys(1 << 60),
    "old replays": lambda r: r.old_replays(1 << 60),
    "audit": lambda r: r.audit(AuditQuery(before=50_000), 100),
    "audit of an actor": lambda r: r.audit(AuditQuery(actor="key:3"), 100),
    "audit of actions": lambda r: r.audit(AuditQuery(actions=["a.3", "a.4"]), 100),
    "audit of an object": lambda r: r.audit(AuditQuery(object="o5"), 100),
    "audit of a time": lambda r: r.audit(AuditQuery(since=99_000, until=99_500), 100),
    "old audit": lambda r: r.old_audit(500),
    "schedule": lambda r: r.schedule("s"),
    "schedules": lambda r: r.schedules("", 100),
    "timings of schedules": lambda r: r.schedule_timings(),
    "sources": lambda r: r.sources(),
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


MANY = list(range(1, 200))
ABSENT = [-n for n in MANY]
NOTHING = [None] * len(MANY)
WRITES = [
    (statements.SELECT_RUNS, (MANY,)),
    (statements.SELECT_SEEN, ([f"event-{n}" for n in MANY], ["/source/1"] * len(MANY))),
    (statements.SELECT_HEAD, ()),
    (statements.SELECT_STATE, ()),
    (statements.SELECT_COMMIT, (5,)),
    (statements.SELECT_TERM, ()),
    (statements.CLOSE_NODE, (1, 1, 1)),
    (statements.SELECT_TREE, (5,)),
    (statements.SELECT_RESULTS_AFTER, (249_990,)),
    (statements.UPDATE_RUN, (NOTHING,) * len(MUTABLE) + (ABSENT,)),
    (statements.UPDATE_SETTLED, (NOTHING,) * len(SETTLED) + (ABSENT,)),
    (statements.INSERT[ATTEMPT], (NOTHING,) * len(COLUMNS[ATTEMPT][1])),
    (statements.CLEAR_PARTITION_KEY, (MANY,)),
    (statements.DELETE_TREES, (MANY,)),
    (statements.DELETE_RESULTS, (500,)),
    (statements.DELETE_RUNS, (MANY,)),
    (statements.DELETE_ATTEMPTS, (MANY,)),
    (statements.DELETE_EVENTS, (MANY,)),
]


@pytest.mark.long
def test_no_write_scans_a_table(full):
    with connections.connect(full.url, "test", settings=connections.BY_INDEX) as connection:
        found = [
            fault for statement, parameters in WRITES for fault in scans(connection, statement, parameters)
        ]
    assert not found, "\n\n".join(found)


def once(key, owner, events=()):
    return Publish(events=list(events), once=Once(owner=owner, key=key, digest=b"", now=2_000_000))


def upload(producer, first=0):
    counts = {"first": first, "lines": 1, "rejected": 1, "now": 3_000_000}
    return Upload(events=[], producer=producer, oldest=5, most=10_000, **counts)


CHANGES = {
    "an idempotency key that was used": once("k3", 0),
    "one that was not, and one more": once("new", 1, [event("x", handlers=())]),
    "old idempotency keys": PruneKeys(before=9, limit=3),
    "a producer that is new": upload("p"),
    "a producer that goes on": upload("p20000", 1),
    "old replays": PruneReplays(before=5, limit=3),
    "the end of a replay": FinishReplay(replay=1, now=9),
    "old entries of the audit log": PruneAudit(before=9, limit=3),
    "an entry of the audit log": Record(entry=Entry(actor="cli", action="a.b", time=9)),
}


@pytest.mark.long
def test_no_change_scans_a_table(full):
    """Statements that go through SQLAlchemy, as the committer sends them."""
    batches, asked = full.batches(), []

    @sa.event.listens_for(batches._engine, "before_cursor_execute")
    def remember(_connection, _cursor, statement, parameters, *_):
        asked.append((statement, parameters))

    for name, operation in CHANGES.items():
        before = len(asked)
        [reply] = batches.write([operation])
        assert not isinstance(reply, Exception), (name, reply)
        assert len(asked) > before, name
    batches.close()
    with connections.connect(full.url, "test", settings=connections.BY_INDEX) as connection:
        found = [
            fault
            for statement, parameters in asked
            if statement.lstrip().startswith(("SELECT", "WITH", "DELETE", "UPDATE"))
            for fault in scans(connection, statement, parameters)
        ]
    assert not found, "\n\n".join(found)


@pytest.mark.long
def test_plans_of_writes_made_on_a_small_database_scan_no_table_when_it_is_large(empty):
    """Prepared statements keep their plan until somebody analyzes the table. Those of two connections: one
    makes them on empty tables, one on tables of 200 rows.
    """
    count = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
    writes = [write for write in WRITES if write[0] != statements.INSERT[ATTEMPT]]

    def write_all(connection, times):
        for statement, parameters in writes:
            for _ in range(times):  # no ROLLBACK: psycopg forgets its prepared statements then
                connection.execute(statement, parameters)
        connection.execute("SELECT pg_stat_force_next_flush()")

    def connect():
        return connections.connect(empty.url, "test", settings=connections.BY_INDEX)

    with (
        psycopg.connect(empty.url, autocommit=True, options="-c search_path=busway") as other,
        connect() as on_none,
        connect() as on_some,
    ):
        tables = (
            "events",
            "runs",
            "results",
            "attempts",
            "trees",
            "commits",
            "counts",
            "last_errors",
            "handlers",
            "replays",
            "producers",
            "idempotency_keys",
            "audit",
        )

        def clear():
            for table in tables:
                other.execute(f"DELETE FROM {table}")

        for table in tables:
            other.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        clear()
        write_all(on_none, 20)
        clear()
        other.execute(re.sub(r"\b(250000|20000)\b", "200", FILL))
        write_all(on_some, 20)
        clear()
        other.execute(FILL)
        for connection in (on_none, on_some):
            other.execute("SELECT pg_stat_force_next_flush()")
            before = dict(other.execute(count).fetchall())
            write_all(connection, 1)
            after = dict(other.execute(count).fetchall())
            read = {table: after[table] - before[table] for table in before}
            assert 0 < max(read.values()) < COUNT / 100, read


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

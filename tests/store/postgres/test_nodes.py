"""What several nodes write is accepted from the right one only, and says what it changed."""

import asyncio
import io

import msgspec
import psycopg
import pytest
import sqlalchemy as sa
from busway.domain.run import RunState
from busway.gateway.errors import Conflict
from busway.gateway.store.core.transaction import Expelled
from busway.gateway.store.core.writer import Outdated, Refused, Writer
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.port.cell import CommitChanges, NodeRow
from busway.gateway.store.port.commits import Outdated as OutdatedChange
from busway.gateway.store.port.operations import (
    Assign,
    Cancel,
    CreateKey,
    Lead,
    Retry,
    Return,
    RevokeKey,
    Settled,
    Stopped,
)
from busway.gateway.store.postgres import connections
from busway.gateway.store.postgres.cell import PostgresCellLink
from busway.gateway.store.postgres.facade import PostgresDatabase
from busway.gateway.store.postgres.transaction import PostgresTransaction

from tests.store.databases import Postgres
from tests.store.kit import (
    NOW,
    append,
    event,
    handler,
    listening,
    mark,
    over_the_wire,
    publish,
    reading,
    settle,
)

CLOSED = "UPDATE nodes SET closed_at = 1 WHERE id = %s"
NODE = NodeRow(
    id=0, name="", version="1", beat=0, boot="", pid_namespace=0, pid=0, pid_started=0, processes=0,
    threads=0, targets=[], opened_at=0,
)  # fmt: skip


class Cell:
    """A database that nodes use."""

    def __init__(self, database):
        self.database = database
        self.engine = connections.engine(database.url, "test", poolclass=sa.NullPool)

    def begin(self):
        """Let two nodes join. The first one leads in term 1. Handlers 1 and 2 make the version 3."""
        self.one, self.two = self.join("one"), self.join("two")
        assert self.write(self.one, Lead(now=NOW, max_losses=10, term=1, node=self.one)) == [[]]
        self.write(self.one, handler("one", rules=1))
        self.write(self.one, handler("two", rules=2))
        return self

    def join(self, name="another"):
        async def main():
            link = PostgresCellLink(self.database.url)
            await link.open()
            try:
                return await link.join(msgspec.structs.replace(NODE, name=name))
            finally:
                await link.close()

        return asyncio.run(main())

    def ask(self, statement, *parameters):
        with psycopg.connect(
            self.database.url, autocommit=True, options="-c search_path=busway"
        ) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def write(self, node, *operations):
        """Write a batch of a node and return its replies."""
        with self.engine.connect() as connection:
            return Writer(PostgresTransaction(connection, "test", node)).write(over_the_wire(operations))[1]

    def changes(self):
        """Return what the newest commit changed."""
        [(changes,)] = self.ask("SELECT changes FROM commits ORDER BY number DESC LIMIT 1")
        return msgspec.msgpack.decode(changes, type=CommitChanges) if changes else None

    def run(self, id_):
        return self.ask("SELECT state, attempt, node, token, worker FROM runs WHERE id = %s", id_)[0]

    def nodes(self, id_):
        """Return the names of the nodes that had the attempts of a run."""

        async def main():
            async with reading(self.database) as reader:
                return [attempt.node for attempt in (await reader.run(id_))[1]]

        return asyncio.run(main())

    def lingering(self):
        """Return the attempts that have ended and may still run: run, node, handler, key."""

        async def main():
            async with reading(self.database) as reader:
                return [
                    (found.run.id, found.node, found.run.handler, found.run.key)
                    for found in await reader.lingering()
                ]

        return asyncio.run(main())

    def count(self, table):
        return self.ask(f"SELECT count(*) FROM {table}")[0][0]

    def published(self, *events):
        return self.write(self.one, msgspec.structs.replace(publish(*events), rules=3))[0]

    def assign(self, run=1, **changes):
        known = {
            "token": 77, "attempt": 1, "revision": 1, "pool": "process", "node": self.two, "term": 1,
            "rules": 3, "now": NOW,
        }  # fmt: skip
        return Assign(run=run, **(known | changes))


@pytest.fixture
def cell(tmp_path, shared_folder):
    database = Postgres(tmp_path, shared_folder)
    yield Cell(database).begin()
    database.close()


def test_a_batch_of_a_node_whose_row_is_closed_is_refused_as_a_whole(cell):
    cell.ask(CLOSED, cell.two)
    with pytest.raises(Expelled):
        cell.write(cell.two, msgspec.structs.replace(publish(event()), rules=3))
    assert cell.count("events") == 0
    cell.published(event())
    assert cell.count("events") == 1


@pytest.mark.parametrize("together", [False, True])
def test_what_was_made_from_older_handlers_does_nothing(cell, together):
    cell.published(event())
    others = [handler("one", rules=3)] if together else []  # its name is taken: all are written one by one
    old = [
        msgspec.structs.replace(publish(event()), rules=2),
        settle(1, published=[event()], rules=2),
        handler("three", rules=2),
        cell.assign(rules=2),
    ]
    replies = cell.write(cell.two, *others, *old)
    assert [type(reply) for reply in replies] == [*(Refused for _ in others), *(Outdated for _ in old)]
    assert (cell.count("events"), cell.count("results"), cell.count("handlers")) == (1, 0, 2)
    assert cell.run(1)[0] == 0


def test_nodes_are_behind_that_have_older_handlers_or_keys(cell):
    revoke = RevokeKey(id=1, now=NOW)
    cell.write(cell.one, CreateKey(name="me", digest=b"1", scopes=["admin"], now=NOW), revoke)
    [(rules,)] = cell.ask("SELECT rules FROM commits ORDER BY number DESC LIMIT 1")
    assert rules == 5
    known = {cell.one: 5, cell.two: 4, cell.join(): 0}  # the last one has not read any
    cell.ask(CLOSED, closed := cell.join())
    for node, has in (known | {closed: 4}).items():
        cell.ask("UPDATE nodes SET rules = %s WHERE id = %s", has, node)

    async def behind():
        async with reading(cell.database) as reader:
            return [await reader.nodes_behind(version) for version in (4, 5)]

    assert asyncio.run(behind()) == [[], [cell.two]]


def test_a_change_of_handlers_raises_their_version_and_others_do_not(cell):
    cell.published(event(), event(), event())
    new = settle(1, published=[event()], rules=3)
    assert cell.write(cell.one, new, handler("three", rules=3), settle(2, rules=3))[1] == 3
    [(rules,)] = cell.ask("SELECT rules FROM commits ORDER BY number DESC LIMIT 1")
    assert rules == 4
    [old] = cell.write(cell.one, settle(3, published=[event()], rules=3))
    assert isinstance(old, Outdated)
    [without] = cell.write(cell.one, settle(3, rules=3))  # it published nothing
    assert without.accepted


def test_a_run_is_assigned_once_by_the_leader_to_an_open_node(cell):
    cell.published(event(), event())
    cell.ask(CLOSED, cell.two)
    refused = [
        cell.assign(term=0), cell.assign(term=2), cell.assign(), cell.assign(node=999),
        cell.assign(node=cell.one, attempt=2), cell.assign(run=999, node=cell.one),
    ]  # fmt: skip
    assert cell.write(cell.one, *refused) == [False] * len(refused)
    cell.ask("UPDATE nodes SET closed_at = NULL")
    assert cell.write(cell.one, cell.assign()) == [True]
    assert cell.run(1) == (2, 1, cell.two, 77, None)
    assert cell.changes() == CommitChanges([], [(1, cell.two)])
    assert cell.write(cell.one, cell.assign(token=78)) == [False]
    assert not cell.write(cell.one, settle(1, token=5, rules=3))[0].accepted
    assert cell.write(cell.two, mark(1, token=77)) == [True]
    assert cell.run(1) == (2, 1, cell.two, 77, 99)
    assert cell.write(cell.two, settle(1, token=77, rules=3))[0].accepted
    assert cell.changes() == CommitChanges([1], [])


def test_only_the_node_that_leads_has_attempts_that_are_not_marked(cell):
    cell.published(event())
    [(before,)] = cell.ask("SELECT runs::text FROM runs")
    assert cell.write(cell.two, mark(1), append(1, 0), settle(1, rules=3)) == [False, 0, Settled(False)]
    assert cell.ask("SELECT runs::text FROM runs") == [(before,)]
    assert (cell.count("results"), cell.count("attempts")) == (0, 0)
    assert lead(cell, cell.two, 2, (cell.one, 0)) == []
    assert cell.write(cell.two, append(1, 0), settle(1, rules=3))[1].accepted


def test_what_may_still_run_and_what_has_stopped_is_noted(cell):
    cell.published(event(attributes={"partitionkey": "k"}), event(), event())
    cell.write(cell.one, cell.assign(1), cell.assign(2))
    cell.write(cell.one, Cancel(runs=[1, 3], now=NOW))  # the third waits
    assert cell.changes() == CommitChanges([1, 3], lingering=[1])
    cell.write(cell.one, Retry(runs=[1], now=NOW))  # which takes its key away
    assert cell.write(cell.two, settle(2, token=77, rules=3, lingers=True))[0].accepted
    assert cell.changes() == CommitChanges([2], lingering=[2])
    assert cell.lingering() == [(1, cell.two, 1, "k"), (2, cell.two, 1, None)]
    cell.write(cell.two, Stopped(runs=[2, 3]))
    assert cell.changes() == CommitChanges(stopped=[2, 3])
    assert cell.lingering() == [(1, cell.two, 1, "k")]
    cell.write(cell.two, settle(2, token=77, rules=3, lingers=True))
    assert not cell.changes()
    assert lead(cell, cell.one, 1, (cell.two, 0)) == []
    assert cell.lingering() == [], "their node is gone"


def test_an_assigned_attempt_that_never_started_waits_again_under_the_same_number(cell):
    cell.published(event())
    cell.write(cell.one, cell.assign())
    assert cell.write(cell.two, Return(run=1, token=5, now=NOW + 1)) == [False]
    assert cell.write(cell.two, Return(run=1, token=77, now=NOW + 1)) == [True]
    assert cell.changes() == CommitChanges([1], [])
    assert cell.run(1)[:3] == (0, 0, None)
    assert cell.write(cell.two, settle(1, token=77, rules=3)) == [Settled(False)]

    async def waiting():
        async with reading(cell.database) as reader:
            return await reader.waiting_of([1], 1 << 20)

    [run] = asyncio.run(waiting()).runs
    assert (run.attempt, run.fence) == (0, -(NOW + 1))
    assert cell.write(cell.one, cell.assign(token=78, fence=run.fence)) == [True]


def lead(cell, node, term, *gone):
    [reply] = cell.write(node, Lead(now=NOW + 9, max_losses=10, term=term, node=node, gone=list(gone)))
    return reply


def test_a_node_leads_when_the_leader_before_is_gone_and_only_its_runs_are_lost(cell):
    third = cell.join()
    cell.published(event(), event(), event())
    cell.write(cell.one, mark(1), cell.assign(2, node=third), cell.assign(3))
    assert lead(cell, cell.two, 2) is None, "the leader is open"
    assert lead(cell, cell.two, 2, (cell.one, 5)) is None, "it has renewed its row meanwhile"
    assert lead(cell, cell.two, 3, (cell.one, 0)) is None, "another term began"
    cell.ask("UPDATE nodes SET closed_at = NULL")
    assert lead(cell, cell.two, 2, (cell.one, 0)) == [1]
    assert [cell.run(n)[0] for n in (1, 2, 3)] == [0, 2, 2]
    assert cell.changes() == CommitChanges([1], [])
    with pytest.raises(Expelled):
        cell.write(cell.one, settle(1, rules=3))
    assert lead(cell, cell.two, 2, (third, 0)) == [2], "the leader closes the rows of others"
    assert lead(cell, cell.two, 2) == []
    assert cell.run(3)[:3] == (2, 1, cell.two)


def test_a_leader_hands_over_to_the_next_one_and_keeps_its_attempts(cell):
    cell.published(event())
    cell.write(cell.one, mark(1))
    handing = Lead(now=NOW, max_losses=10, term=2)
    assert cell.write(cell.two, handing) == [None], "only the leader can"
    assert cell.write(cell.one, handing) == [[]]
    assert cell.write(cell.one, cell.assign()) == [False]
    assert lead(cell, cell.two, 3) == []
    assert cell.run(1)[0] == 2
    assert cell.write(cell.one, settle(1, rules=3))[0].accepted


def test_each_attempt_names_the_node_that_had_it(cell):
    cell.published(*[event() for _ in range(5)])
    cell.write(cell.one, settle(1, rules=3), settle(2, state=RunState.RETRYABLE, rules=3), mark(3))
    cell.write(cell.one, cell.assign(4), cell.assign(5), cell.assign(2, attempt=2))
    assert [cell.nodes(run) for run in (1, 2, 3, 4, 5)] == [
        ["one"], ["one", "two"], ["one"], ["two"], ["two"]
    ]  # fmt: skip
    cell.write(cell.two, settle(2, 2, token=77, rules=3), settle(4, token=77, rules=3))
    cell.write(cell.one, Cancel(runs=[5], now=NOW))
    cell.ask("UPDATE nodes SET name = 'other'")  # the names of the past are not those of the open nodes
    assert lead(cell, cell.two, 2, (cell.one, 0)) == [3]
    cell.write(cell.two, mark(3, 2))
    assert [cell.nodes(run) for run in (1, 2, 3, 4, 5)] == [
        ["one"], ["one", "two"], ["one", "two"], ["two"], ["two"]
    ]  # fmt: skip


def test_one_node_alone_says_nothing_to_others(cell):
    cell.ask(CLOSED, cell.two)
    cell.published(event())
    cell.write(cell.one, settle(1, rules=3))
    assert cell.changes() is None


def test_nodes_of_an_export_are_no_nodes_of_the_database_that_imports_it(cell, tmp_path, shared_folder):
    cell.published(event())
    cell.write(cell.one, mark(1))
    assert cell.run(1)[:3] == (2, 1, cell.one)
    file = io.BytesIO(b"".join(line for line, *_ in PostgresDatabase(cell.database.url).export()))
    database = Postgres(tmp_path, shared_folder)
    try:
        for _ in PostgresDatabase(database.url).load(file):
            pass
        other = Cell(database)
        assert other.run(1)[:3] == (2, 1, cell.one)
        node = other.join()
        assert node > cell.two, "its number is that of no node of the export"
        assert lead(other, node, 1) == [1]
        assert other.nodes(1) == ["one"]
    finally:
        database.close()


def test_events_are_matched_again_when_the_store_has_newer_handlers(cell):
    async def main():
        commits = GroupCommits(cell.database.url)
        await commits.start(cell.one)
        notified = listening(commits)
        asked = []

        def match(operation, again):
            asked.append(operation)
            for new in operation.events if hasattr(operation, "events") else operation.published:
                new.handlers = (2,)
            operation.rules = 3
            asyncio.get_running_loop().call_soon(again, operation)

        commits.match_again(match)
        try:
            old = msgspec.structs.replace(publish(event(handlers=())), rules=2)
            [stored] = await commits.publish(old)
            assert (stored.seq, stored.first_run) == (1, 1)
            assert [(run.id, run.handler, run.event.data) for run in notified.runs] == [(1, 2, b'{"n":1}')]
            [run] = notified.runs
            reply = asyncio.get_running_loop().create_future()
            commits.settle(settle(1, handler=2, published=[event(handlers=(1,))], rules=2), run, "two", reply)
            assert commits.backlog == 1
            await commits.drained()
            assert (await reply).accepted
            assert [run.handler for run in notified.runs] == [2, 2]
            assert len(asked) == 2
            with pytest.raises(OutdatedChange):
                await commits.change(handler("three", rules=2))
            with pytest.raises(Conflict):
                await commits.change(handler("one", rules=3))
        finally:
            await commits.close()

    asyncio.run(main())


def test_reads_go_on_when_the_server_has_ended_their_connections(cell):
    end = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'busway/reader' AND datname = current_database()
    """

    async def main():
        reader = PostgresDatabase(cell.database.url).reader()
        await reader.open()
        try:
            for read in (reader.running, reader.rules, reader.totals):  # some need no transaction, some do
                [(ended,)] = cell.ask(end)
                assert ended
                while cell.ask(
                    f"SELECT count(*) FROM ({end.replace('count(pg_terminate_backend(pid))', 'pid')}) AS x"
                )[0][0]:
                    await asyncio.sleep(0.01)
                await read()
        finally:
            reader.close()

    asyncio.run(main())

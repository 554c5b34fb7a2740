"""What a node does with messages about commits: in any order, doubled, lost, out of date, of no commit."""

import asyncio
from functools import partial

import msgspec
import pytest
from busway.domain.handler import Handler
from busway.gateway.attempts.inflight import Attempt, InFlight
from busway.gateway.dispatch.assigned import Assigned
from busway.gateway.dispatch.assigner import Assigner
from busway.gateway.dispatch.registry import Registry
from busway.gateway.errors import Unavailable
from busway.gateway.nodes.following import LACKS, CommitFollower, Parts
from busway.gateway.store.core.writer import Writer
from busway.gateway.store.port import news
from busway.gateway.store.port.operations import Cancel, Stopped
from busway.gateway.store.postgres.cell import PostgresCellLink
from busway.gateway.store.postgres.reader import PostgresReader
from busway.gateway.store.postgres.transaction import PostgresTransaction

from tests.dispatch.kit import CATALOG, Hands
from tests.e2e.disturbance import Cutter
from tests.ports import unused_port
from tests.servers import chosen
from tests.store.databases import Postgres
from tests.store.kit import NOW, event, handler, over_the_wire, publish, settle

from .test_nodes import Cell

ONE = Handler(id=1, name="one", overrides={"target": "a:b", "events": ["x"]})


class CountingLink(PostgresCellLink):
    reads = 0

    async def commits_after(self, number, limit):
        self.reads += 1
        return await super().commits_after(number, limit)


class Node:
    """A node that records what it is told. Its `newest` commit is far behind all others."""

    def __init__(self, cell):
        self.newest = 0
        self.messages, self.applied, self.started, self.ended = [], [], [], []
        self._cell, self._link = cell, CountingLink(cell.database.url)

    async def __aenter__(self):
        await self._link.open()
        parts = Parts(
            self, None, self, lambda: 99, {1: "one"}.get, lambda: True, self.ended.append, asyncio.sleep
        )
        self._follower = CommitFollower(self._cell.two, await self._link.newest(), self._link, self, parts)
        await self.hear()
        return self

    async def __aexit__(self, *_):
        await self._link.close()

    async def hear(self, *messages):
        """Return how often it read the log for these messages; without any, it looks by itself."""
        before = self._link.reads
        self.messages += messages
        await self._follower.catch_up(heard=bool(messages))
        return self._link.reads - before

    def received(self):
        received, self.messages = self.messages, []
        return received

    async def reached(self, _number):
        raise AssertionError("this node commits nothing")

    def follow(self, committed):
        self.applied.append(committed)

    async def find(self, _ids, known):
        return known

    def accept(self, _node, ids, known):
        self.started.append((ids, [(each.run.id, each.run.event.data, each.token) for each in known]))


@pytest.fixture
def cell(tmp_path, shared_folder):
    database = Postgres(tmp_path, shared_folder)
    yield Cell(database).begin()
    database.close()


def commit(cell, *operations):
    """Write operations of the other node in one commit, and return the message about it."""
    with cell.engine.connect() as connection:
        transaction = PostgresTransaction(connection, "test", cell.one, notifies=False)
        Writer(transaction).write(over_the_wire(operations))
        return transaction.news


def publish_assign_and_settle(cell):
    """Publish two events, assign the run of the first, and settle that of the second. Return the messages."""
    return [
        commit(cell, msgspec.structs.replace(publish(event(), event()), rules=3)),
        commit(cell, cell.assign()),
        commit(cell, settle(2, rules=3)),
    ]


def test_messages_in_any_order_are_applied_once_in_that_of_commits_without_a_read(cell):
    async def main():
        async with Node(cell) as node:
            first, second, third = publish_assign_and_settle(cell)
            assert await node.hear(third, first, first, second, third) == 0
            assert [[run.id for run in each.runs] for each in node.applied] == [[1, 2], [], []]
            assert [[*each.unread] for each in node.applied] == [[], [], []]
            assert [(each.ended, each.final) for each in node.applied][2] == ([2], True)
            ((result, of),) = node.applied[2].results
            assert (result.number, result.handler, result.run, of.data) == (1, "one", 2, b'{"n":1}')
            assert node.started == [([1], [(1, b'{"n":1}', 77)])]
            assert not node.ended

    asyncio.run(main())


def test_what_messages_lack_is_read(cell):
    async def main():
        async with Node(cell) as node:
            messages = publish_assign_and_settle(cell)
            assert (
                await node.hear(messages[0], b"7", messages[2]) == 1
            )  # one is lost, one has the number only
            assert [each.results for each in node.applied] == [[], [], []]
            assert node.applied[2].ended == [2]
            large = commit(cell, msgspec.structs.replace(publish(event(data=b"1" * 40_000)), rules=3))
            assert await node.hear(large) == 0
            assert [*node.applied[-1].unread] == [3]

    asyncio.run(main())


def test_a_node_starts_only_its_own_runs_of_a_commit_that_assigns_some_to_others_too(cell):
    async def main():
        async with Node(cell) as node:
            created = commit(cell, msgspec.structs.replace(publish(*(event(n) for n in "abc")), rules=3))
            shared = [
                msgspec.structs.replace(cell.assign(), run=run, token=70 + run, node=who)
                for run, who in ((1, cell.one), (2, cell.two), (3, cell.one))
            ]
            assert await node.hear(created, commit(cell, *shared)) == 0
            assert node.started == [([2], [(2, b'{"n":1}', 72)])]

    asyncio.run(main())


def test_handlers_that_this_node_changed_itself_are_not_read(cell):
    """The message may come before the reply of the committer. What is read then may be out of date later."""

    class Own(Node):
        version, read = 3, 0

        async def reached(self, _number):
            self.version = 4  # its listeners know the handler now

        async def handlers(self):
            self.read += 1
            return []

        async def renew(self):
            pass

    async def main():
        async with Own(cell) as node:
            node._follower._parts = node._follower._parts._replace(
                reader=node, version=lambda: node.version, renew=node.renew
            )
            with cell.engine.connect() as connection:
                transaction = PostgresTransaction(connection, "test", cell.two, notifies=False)
                Writer(transaction).write(over_the_wire([handler("three", rules=3)]))
            assert news.decode(transaction.news).row.rules == 4
            assert await node.hear(transaction.news) == 0
            assert (node.read, node.applied) == (0, [])

    asyncio.run(main())


class Reads(Cutter):
    """A reader whose connection can be cut."""

    def __init__(self, cell):
        super().__init__(chosen.postgres().port)
        self._name = cell.database.url.rpartition("/")[2].partition("?")[0]

    def __enter__(self):
        super().__enter__()
        way = f"postgresql://postgres@127.0.0.1:{self.port}/{self._name}?sslmode=disable&gssencmode=disable"
        self.reader = PostgresReader(way, 1)
        return self

    async def cut(self):
        self.lead_to(unused_port())
        super().cut()
        while not await fails(self.reader.rules):
            pass

    def go_on(self):
        self.lead_to(chosen.postgres().port)


async def fails(read):
    try:
        await read()
    except Unavailable:
        return True
    return False


def test_a_commit_reaches_the_listeners_once_if_what_it_assigned_cannot_be_read_at_first(cell):
    """The connection for reads is cut. The node tries the whole commit again."""

    async def main(reads):
        reader = reads.reader
        await reader.open()
        registry, hands = Registry(), Hands()
        registry.load([ONE], CATALOG)
        async with Node(cell) as node:
            assigned = Assigned(node, reader, registry, InFlight(hands), lambda: NOW)
            node._follower._parts = node._follower._parts._replace(assigned=assigned)
            publish_assign_and_settle(cell)
            await reads.cut()
            for _ in range(2):
                assert await fails(node.hear)
            reads.go_on()
            await node.hear()
            assert [[*each.unread] for each in node.applied] == [[1, 2], [], []]
            assert [each.ended for each in node.applied] == [[], [], [2]]
            assert [(each.run, each.token) for each in hands.history] == [(1, 77)]
        reader.close()

    with Reads(cell) as reads:
        asyncio.run(main(reads))


def test_an_attempt_that_lingered_on_another_node_is_looked_at_again_if_it_could_not_be_read(cell):
    async def main(reads):
        reader, in_flight, freed = reads.reader, InFlight(Hands()), []
        await reader.open()
        commit(cell, msgspec.structs.replace(publish(event()), rules=3))
        commit(cell, cell.assign())
        commit(cell, Cancel(runs=[1], now=NOW))
        [found] = await reader.lingering()
        in_flight.linger(Attempt(0, found.run, found.attempt, "one", 1, ONE.spec, ""))
        assigner = Assigner(None, reader, in_flight, None, lambda: 3, lambda: NOW, None, freed.extend)
        await reads.cut()
        assert await fails(partial(assigner.adopt_lingering, [found]))
        reads.go_on()
        commit(cell, Stopped(runs=[1]))
        assert assigner.lingers(1)
        await assigner.adopt_lingering([])  # as when the node tries again to lead
        assert ([run.id for run in freed], assigner.lingers(1)) == ([1], False)
        reader.close()

    with Reads(cell) as reads:
        asyncio.run(main(reads))


def test_content_that_a_later_commit_of_this_node_may_have_changed_is_not_used(cell):
    async def main():
        async with Node(cell) as node:
            node.newest = 1_000
            assert await node.hear(*publish_assign_and_settle(cell)) == 0
            assert [([*each.unread], each.runs, each.final) for each in node.applied] == [
                ([1, 2], [], False), ([], [], False), ([], [], False),
            ]  # fmt: skip
            assert node.started == [([1], [])]
            assert len(node.applied[2].results) == 1  # a log does not change

    asyncio.run(main())


@pytest.mark.parametrize("follows", [True, False])
def test_a_message_of_a_commit_that_the_database_lacks_is_found_out(cell, follows):
    """As after a failover: it came late, or was committed on the server that is gone."""

    async def main():
        async with Node(cell) as node:
            told = news.decode(commit(cell, msgspec.structs.replace(publish(event()), rules=3)))
            await node.hear()
            lost = msgspec.structs.replace(
                told,
                row=msgspec.structs.replace(told.row, number=told.row.number + 1),
                before=(told.row.event, told.row.run, told.row.result, told.row.digest + (not follows)),
            )
            assert await node.hear(news.encode(lost)) == (not follows)
            assert len(node.applied) == 1 + follows
            await node.hear()
            assert node.ended == ([LACKS] if follows else [])

    asyncio.run(main())

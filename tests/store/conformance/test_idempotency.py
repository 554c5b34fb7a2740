"""A publication with an idempotency key is stored once. Later ones get its receipts, or a refusal."""

import asyncio

import msgspec
import pytest
from busway.gateway.dispatch.retention import Retention
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.once import IDEMPOTENT_FOR, NotStored, Once
from busway.gateway.store.port.operations import PublishEncoded, StoredEvent
from busway.gateway.store.port.reader import EventQuery
from busway.gateway.store.port.retention import PruneKeys

from tests.store.conformance.test_cuts import wired
from tests.store.databases import ON_ALL
from tests.store.kit import NOW, committing, event, listening, publish, until
from tests.store.wire import CUTS, LOST, WRITTEN

pytestmark = ON_ALL

OTHER_BODY, TOO_MANY = NotStored(), NotStored(full=True)


def once(*events, key="k", owner=1, digest=b"d", now=NOW, **fields):
    operation = publish(*events)
    operation.once = Once(owner=owner, key=key, digest=digest, now=now, **fields)
    return operation


def stored(store):
    return [each.id for each in reversed(store.read("events", EventQuery(), 10_000))]


def test_the_same_request_gets_the_receipts_of_the_first_one(store):
    store.write_one(publish(event("old")))
    first = once(event("a", handlers=(1, 2)), event("old"), event("b", handlers=(), source="/s"))
    assert store.write_one(first) == [StoredEvent(2, 2), StoredEvent(1, 0, True), StoredEvent(3, 4)]
    kept = [
        (2, "a", "/", "order.created", 2, False),
        (1, "old", "/", "order.created", 0, True),
        (3, "b", "/s", "order.created", 0, False),
    ]
    again = once(event("c"), event("old"), event("d"))
    assert store.write_one(again) == NotStored(kept)
    store.reopen()
    assert store.write_one(again) == NotStored(kept)
    assert stored(store) == ["old", "a", "b"]
    assert store.read("counts")[1] == {"available": 2}


def test_another_body_with_the_same_key_is_not_stored(store):
    store.write_one(once(event("a")))
    assert store.write_one(once(event("b"), digest=b"e")) == OTHER_BODY
    assert stored(store) == ["a"]


def test_keys_belong_to_their_owner(store):
    store.write_one(once(event("a"), owner=1))
    assert store.write_one(once(event("b"), owner=2)) == [StoredEvent(2, 2)]
    assert store.write_one(once(event("c"), owner=2)).receipts[0][1] == "b"


def test_one_batch_stores_a_key_once(store):
    first, other, second, third = store.write(
        once(event("a")), once(event("b"), key="l"), once(event("c")), once(event("d"), digest=b"e")
    )
    assert (first, other) == ([StoredEvent(1, 1)], [StoredEvent(2, 2)])
    assert (second.receipts[0][1], third) == ("a", OTHER_BODY)
    assert stored(store) == ["a", "b"]


def test_a_refused_publication_leaves_its_key_free(store):
    broken = once(event("x", due=1 << 63))
    refused, after = store.write(broken, once(event("y"), digest=b"e"))
    assert after == [StoredEvent(1, 1)], refused
    assert stored(store) == ["y"]


def test_a_key_is_free_again_after_its_time(store):
    store.write_one(once(event("a")))
    assert isinstance(store.write_one(once(event("b"), now=NOW + IDEMPOTENT_FOR - 1)), NotStored)
    late = NOW + IDEMPOTENT_FOR
    assert store.write_one(once(event("c"), digest=b"e", now=late)) == [StoredEvent(2, 2)]
    assert store.write_one(once(event("d"), digest=b"e", now=late)).receipts[0][1] == "c"


def test_an_owner_has_so_many_keys_at_most(store):
    assert isinstance(store.write_one(once(event("a"), key="1", most=2)), list)
    two, three, again, other = store.write(
        once(event("b"), key="2", most=2),
        once(event("c"), key="3", most=2),
        once(event("d"), key="1", most=2),
        once(event("e"), key="3", most=2, owner=2),
    )
    assert (type(two), three, type(other)) == (list, TOO_MANY, list)
    assert again.receipts[0][1] == "a"
    assert store.write_one(PruneKeys(before=NOW + 1, limit=1)) == 3  # the same microsecond
    assert isinstance(store.write_one(once(event("f"), key="3", most=2)), list)


def test_retention_forgets_old_keys_only(store):
    for number in range(5):
        store.write_one(once(event(handlers=()), key=str(number), now=NOW + number))

    class Direct:
        def change(self, operation):
            done = asyncio.get_running_loop().create_future()
            done.set_result(store.write_one(operation))
            return done

    now = NOW + IDEMPOTENT_FOR + 3
    store.run(Retention(Direct(), store.reader, 1 << 40, lambda: now).sweep())
    early = NOW + 5
    replies = store.write(*(once(event(handlers=()), key=str(n), now=early) for n in range(5)))
    assert [type(reply) for reply in replies] == [list, list, list, NotStored, NotStored]


def test_a_large_publication_with_encoded_events_keeps_its_receipts(store):
    events = [event(f"e{n}", handlers=()) for n in range(600)]
    operation = PublishEncoded(events=[msgspec.Raw(msgspec.msgpack.encode(each)) for each in events])
    operation.once = Once(owner=1, key="k", digest=b"d", now=NOW)
    assert [one.seq for one in store.write_one(operation)] == list(range(1, 601))
    again = store.write_one(once(event("z")))
    assert [(seq, id_) for seq, id_, *_ in again.receipts] == [(n + 1, f"e{n}") for n in range(600)]


def test_listeners_get_the_runs_of_the_first_one_only(database):
    async def scene():
        async with committing(database) as commits:
            notified = listening(commits)
            assert await commits.publish(once(event("a"))) == [StoredEvent(1, 1)]
            assert (await commits.publish(once(event("b")))).receipts[0][1] == "a"
            assert [run.id for run in notified.runs] == [1]

    asyncio.run(scene())


@pytest.mark.fault
@pytest.mark.parametrize("cut", CUTS)
def test_after_a_commit_with_an_unknown_outcome_the_key_decides(database, cut):
    async def scene():
        async with wired(database, cut) as (commits, wire, reader):
            await commits.publish(publish(event("before")))
            wire.arm()
            (reply,) = await asyncio.gather(commits.publish(once(event("a"))), return_exceptions=True)
            # What the committer wrote may be whole before it is cut.
            assert isinstance(reply, Unavailable) or (reply == [StoredEvent(2, 1)] and cut not in LOST)
            await until(lambda: commits.healthy and commits.pid != wire.process.pid)
            again = await commits.publish(once(event("b")))
            written = isinstance(again, NotStored)
            assert written in ((True,) if cut in WRITTEN else (False,) if cut in LOST else (True, False))
            if written:
                assert again.receipts == [(2, "a", "/", "order.created", 1, False)]
            found = [each.id for each in reversed(await reader.events(EventQuery(), 99))]
            assert found == ["before", "a" if written else "b"]

    asyncio.run(scene())

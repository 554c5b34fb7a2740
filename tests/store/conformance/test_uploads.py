"""Uploads in the store: lines and how far they came are one transaction, and each line is taken once."""

import asyncio

import pytest
from busway.gateway.store.port.operations import StoredEvent
from busway.gateway.store.port.reader import EventQuery, ProducerRecord
from busway.gateway.store.port.uploads import Upload, Uploaded

from tests.store.kit import NOW, committing, event, listening, until


def upload(*events, producer="p", first=0, lines=None, now=NOW, rejected=0, oldest=0, most=100, **fields):
    lines = len(events) + rejected if lines is None else lines
    known = {"producer": producer, "first": first, "lines": lines, "rejected": rejected, "now": now}
    return Upload(events=list(events), oldest=oldest, most=most, **known, **fields)


def test_lines_are_counted_with_their_events(store):
    assert store.write_one(upload(event(), event("b", handlers=()), rejected=2)) == Uploaded(
        4, [StoredEvent(1, 1), StoredEvent(2, 2)]
    )
    reply = store.write_one(upload(event("b"), event(), first=4, lines=5, now=NOW + 5))
    assert reply == Uploaded(9, [StoredEvent(2, 0, True), StoredEvent(3, 2)])
    assert store.read("producer", "p") == ProducerRecord("p", 9, 3, 1, 2, NOW, NOW + 5)
    assert store.read("producer", "q") is None
    assert len(store.read("waiting", 1, 10)) == 2


@pytest.mark.parametrize("first", [0, 2, 4, 99])
def test_lines_that_do_not_follow_store_nothing(store, first):
    store.write(upload(event(), event(), event()))
    assert store.write_one(upload(event("other"), first=first)) == Uploaded(3, None)
    assert store.write_one(upload(event("other"), first=1, producer="q")) == Uploaded(0, None)
    assert store.read("events", EventQuery(id="other"), 10) == []
    assert store.read("producer", "q") is None
    assert store.write_one(upload(event("other"), first=3)).lines == 4


def test_the_same_lines_twice_in_one_batch_are_taken_once(store):
    first, second = store.write(upload(event(), event()), upload(event(), event()))
    assert (len(first.stored), second) == (2, Uploaded(2, None))


def test_producers_are_forgotten_by_age_and_number(store):
    for age in range(5):
        store.write(upload(event(), producer=f"p{age}", now=NOW + age))
    store.write(upload(event(), producer="p0", first=1, now=NOW + 9))
    store.write(upload(event(), producer="new", now=NOW + 10, oldest=NOW + 3))
    known = [store.read("producer", f"p{age}") is not None for age in range(5)]
    assert known == [True, False, False, True, True]
    store.write(upload(event(), producer="newer", now=NOW + 11, most=2))
    assert [store.read("producer", id_) is not None for id_ in ("p0", "p4", "new", "newer")] == [
        False, False, True, True,
    ]  # fmt: skip


def test_a_gateway_notifies_its_listeners_of_the_runs(database):
    async def check():
        async with committing(database) as commits:
            notified = listening(commits)
            first = commits.change(upload(event(), event(handlers=(1, 2))))
            again = commits.change(upload(event(), event()))
            assert (await first).lines == 2
            assert await again == Uploaded(2, None)
            await until(lambda: notified)
            assert [run.handler for run in notified.runs] == [1, 1, 2]

    asyncio.run(check())

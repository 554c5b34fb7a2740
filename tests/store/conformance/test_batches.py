"""A batch leaves what its operations would leave one by one, also those about the same run or event."""

import os
import random

import pytest
from busway.domain.result import Kind
from busway.domain.run import Error, RunState
from busway.gateway.errors import Conflict
from busway.gateway.store.port.operations import (
    Acknowledge,
    Cancel,
    CancelWaiting,
    CreateKey,
    DeleteDurable,
    Expire,
    Lead,
    Mark,
    OpenDurable,
    PruneEvents,
    PruneResults,
    ReleaseDurable,
    Retry,
    RetryDead,
    StoredEvent,
    TakeDurable,
)
from busway.gateway.store.port.reader import EventQuery, RunQuery

from tests.store.kit import NOW, Store, append, event, handler, mark, publish, settle

GONE = Error("Gone", "gone")


@pytest.fixture
def another(database, tmp_path, shared_folder):
    """A second database of the same kind."""
    folder = tmp_path / "another"
    folder.mkdir()
    made = type(database)(folder, shared_folder)
    opened = Store(made)
    yield opened
    opened.close()
    made.close()


def contents(store):
    """Return what readers show of a database."""
    runs = store.read("runs", RunQuery(), 10_000)
    names = ("log_bounds", "totals", "counts", "last_errors", "handlers", "keys", "next_expiry")
    return {
        "events": store.read("events", EventQuery(), 10_000),
        "results": store.results(),
        "runs": [store.read("run", run.id) for run in runs],
        "waiting": [store.read("waiting", number, 10_000, now=NOW + 50) for number in (1, 2)],
        "due": store.read("due", 1 << 62, 10_000),
        "children": store.read("children", [run.id for run in runs]),
        "durables": store.read("durables", "", 100),
        "revisions": [store.read("revisions", each.id) for each in store.read("handlers")],
        "keys_of": [store.read("key_runs", 1, ["a", "b"], NOW + 50, 100, 1 << 30)],
        **{name: store.read(name) for name in names},
    }


class Chaos:
    """Random operations about few runs, events and names: valid, late, repeated and refused ones."""

    def __init__(self, chance):
        self.chance = chance
        self.runs = self.now = 0

    def operation(self):
        self.now += 1
        kinds = [self.publish] * 5 + [self.settle] * 7 + [self.mark] * 3 + [self.append] * 4
        kinds += [self.retry] * 3 + [self.cancel] * 2 + [self.other] * 3
        return self.chance.choice(kinds)()

    def publish(self):
        return publish(*[self.event() for _ in range(self.chance.choice((1, 1, 2)))])

    def event(self, **fields):
        chance = self.chance
        handlers = tuple(chance.choices((1, 2), k=chance.choice((0, 1, 1, 2))))
        self.runs += len(handlers)
        key = chance.choice((None, "a", "b"))
        more = {
            "attributes": {} if key is None else {"partitionkey": key},
            "due": chance.choice((None, None, NOW + chance.randrange(99))),
            "expires_at": chance.choice((None, None, NOW + chance.randrange(99))),
            "priority": chance.randrange(10),
        }
        id_ = chance.choice((None, f"e{chance.randrange(20)}"))
        return event(id_, handlers=handlers, **more, **fields)

    def run(self):
        return self.chance.randrange(max(1, self.runs - 12), self.runs + 2)

    def settle(self):
        chance, run = self.chance, self.run()
        state = chance.choice(list(RunState)[:2] + [RunState.SUCCEEDED] * 3 + [RunState.DEAD])
        state = RunState.RETRYABLE if state is RunState.AVAILABLE else state
        published = [self.event(root=1, parent=run) for _ in range(chance.choice((0, 0, 1)))]
        return settle(
            run, chance.choice((1, 1, 1, 2, 3)), state, published=published, root=1,
            token=chance.choice((None, 7)), fence=chance.choice((0, 0, -NOW)),
            lost=0 if chance.random() < 0.98 else 1 << 63,
        )  # fmt: skip

    def mark(self):
        marking: Mark = mark(self.run(), self.chance.choice((1, 1, 2)), self.chance.choice((None, 7)))
        marking.fence = self.chance.choice((0, 0, -NOW))
        return marking

    def append(self):
        return append(self.run(), self.chance.randrange(3), self.chance.choice((1, 1, 2)))

    def cancel(self):
        return self.chance.choice(
            (
                Cancel(runs=[self.run(), self.run()], error=GONE, now=NOW + self.now),
                CancelWaiting(handler=self.chance.choice((1, 2)), error=GONE, now=NOW, limit=2),
                Expire(error=GONE, now=NOW + self.chance.randrange(30), limit=2, spare=[self.run()]),
                Lead(now=NOW + self.now, max_losses=2),
            )
        )

    def retry(self):
        state = self.chance.choice((RunState.DEAD, RunState.CANCELLED))
        return self.chance.choice(
            (
                Retry(runs=[self.run(), self.run()], now=NOW),
                RetryDead(state=state, handler=self.chance.choice((None, 1)), now=NOW, limit=2),
            )
        )

    def other(self):
        number, name = self.chance.randrange(4), self.chance.choice("xyz")
        return self.chance.choice(
            (
                handler("one", self.chance.choice((0, 1)), revision=self.now),
                OpenDurable(name=name, number=0, digest=0, now=NOW, most=2),
                DeleteDurable(name=name),
                TakeDurable(name=name),
                ReleaseDurable(name=name, generation=self.chance.randrange(1, 4)),
                Acknowledge(positions=[(name, number, 0, self.chance.randrange(1, 3))], now=NOW),
                PruneResults(until=self.chance.randrange(3)),
                PruneEvents(trees=[[number + 1]]),
            )
        )


@pytest.mark.parametrize("round_", range(2))
def test_batches_leave_what_their_operations_leave_one_by_one(store, another, round_):
    seed = int(os.environ.get("SEED", random.randrange(1 << 32))) + round_
    print(f"SEED={seed - round_}")
    chance = random.Random(seed)
    chaos = Chaos(chance)
    operations = [chaos.operation() for _ in range(200)]
    for _ in range(3):
        operations.insert(chance.randrange(len(operations)), handler("one"))
    alone = [store.write(operation)[0] for operation in operations]
    together, batch = [], []
    for operation in operations:
        batch.append(operation)
        if chance.random() < 0.2:
            together += another.write(*batch)
            batch = []
    together += another.write(*batch)
    assert [refused(reply) for reply in together] == [refused(reply) for reply in alone]
    expected, found = contents(store), contents(another)
    for name, value in expected.items():
        assert found[name] == value, name
    assert sum(isinstance(reply, Conflict) for reply in alone) >= 3
    store.reopen()
    assert contents(store) == expected


def refused(reply):
    return "refused" if isinstance(reply, Conflict) else reply


def test_a_run_lives_its_life_in_one_batch(store):
    replies = store.write(
        publish(event("a")),
        mark(1, token=5),
        append(1, 0, token=5),
        settle(1, token=5, state=RunState.RETRYABLE, due=NOW + 9),
        Retry(runs=[1], now=NOW + 1),
        mark(1, 2, token=6),
        append(1, 0, attempt=2, token=6),
        Cancel(runs=[1], now=NOW + 2),
        settle(1, 2, token=6),
        Retry(runs=[1], now=NOW + 3),
        settle(1, 3, fence=-NOW - 3, published=[event("b", root=1, parent=1, handlers=())], root=1),
        settle(1, 3, token=9),
        PruneResults(until=2),
    )
    assert [replies[n].accepted for n in (3, 8, 10, 11)] == [True, False, True, False]
    assert [replies[n] for n in (1, 2, 5, 6, 7)] == [True, 1, True, 3, [1]]
    assert [(r.number, r.kind, r.attempt) for r in store.results()] == [
        (3, Kind.PARTIAL, 2),
        (4, Kind.CANCELLED, 2),
        (5, Kind.SUCCEEDED, 3),
    ]
    run, attempts = store.read("run", 1)
    assert (run.state, run.attempt, run.error) == (RunState.SUCCEEDED, 3, None)
    assert [(a.attempt, a.outcome) for a in attempts] == [(1, "failed"), (2, "cancelled"), (3, "succeeded")]
    assert store.read("counts") == {1: {"succeeded": 1}}
    assert store.read("children", [1])[0][1].id == "b"


def test_one_event_is_stored_once_however_often_a_batch_has_it(store):
    again = event("a", root=1, parent=1)
    replies = store.write(
        publish(event("a"), event("a", source="/other"), event("a")),
        publish(event("a", source="/other"), event("b")),
        settle(1, root=1, published=[again, event("c", root=1, parent=1), event("c", root=1, parent=1)]),
        publish(event("c")),
    )
    first, second = StoredEvent(1, 0, True), StoredEvent(2, 0, True)
    assert replies[0] == [StoredEvent(1, 1), StoredEvent(2, 2), first]
    assert replies[1] == [second, StoredEvent(3, 3)]
    assert replies[2].stored == [first, StoredEvent(4, 4), StoredEvent(4, 0, True)]
    assert replies[3] == [StoredEvent(4, 0, True)]
    assert len(store.read("runs", RunQuery(), 99)) == 4


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_an_operation_that_is_refused_leaves_the_others_of_its_batch(store, place):
    """Wherever it is: its numbers are used by the others."""
    store.write(publish(event("first"), event("second")))
    operations = [
        publish(event("a", handlers=(1, 2))),
        settle(1, published=[event("b", root=1, parent=1)], root=1),
        append(2, 0),
        CreateKey(name="k", digest=b"d", scopes=[], now=NOW),
    ]
    operations.insert(place, settle(2, published=[event("never", root=2, parent=2)], lost=1 << 63))
    replies = store.write(*operations)
    assert isinstance(replies.pop(place), Conflict)
    assert replies[0] == [StoredEvent(3, 3)]
    assert (replies[1].accepted, replies[1].stored) == (True, [StoredEvent(4, 5)])
    assert (replies[2], [key.id for key in store.read("keys")]) == (2, replies[3:])
    assert [e.id for e in store.read("events", EventQuery(), 9)] == ["b", "a", "second", "first"]
    assert store.read("counts") == {1: {"succeeded": 1, "available": 3}, 2: {"available": 1}}
    assert [r.kind for r in store.results()] == [Kind.SUCCEEDED, Kind.PARTIAL]
    assert store.write_one(publish(event("never"))) == [StoredEvent(5, 6)]


def test_several_refusals_of_one_batch(store):
    replies = store.write(
        handler("one"), publish(event("a")), handler("two"), handler("three"), handler("three"), settle(1)
    )
    assert [isinstance(reply, Conflict) for reply in replies] == [True, False, True, False, True, False]
    assert [(h.name, h.id) for h in store.read("handlers")] == [("one", 1), ("two", 2), ("three", replies[3])]
    assert store.read("counts") == {1: {"succeeded": 1}}


def test_an_empty_batch_changes_nothing(store):
    before = contents(store)
    assert store.write() == []
    assert store.write(publish()) == [[]]
    assert contents(store) == before


def test_a_large_batch_is_written(store):
    size = 1_500
    replies = store.write(*[publish(event(handlers=(1, 2))) for _ in range(size)])
    assert replies[-1] == [StoredEvent(size, 2 * size - 1)]
    settled = store.write(*[settle(run, event=(run + 1) // 2) for run in range(1, 2 * size + 1)])
    assert [reply.number for reply in settled] == list(range(1, 2 * size + 1))
    assert store.write_one(Cancel(runs=list(range(1, 2 * size)), now=NOW)) == []
    assert store.read("counts") == {1: {"succeeded": size}, 2: {"succeeded": size}}
    assert len(store.read("runs_of", list(range(1, size + 1)))) == 2 * size

"""Durable subscriptions in the store: first position, forward only, and only to positions in the log."""

import pytest
from busway.domain.cursor import Position
from busway.gateway.store.port.operations import (
    Acknowledge,
    CreateKey,
    DeleteDurable,
    OpenDurable,
    Opened,
    PruneResults,
    ReleaseDurable,
    TakeDurable,
    Unmoved,
)

from tests.store.kit import NOW, append, event, publish


def opening(name, number=0, digest=0, most=10, **fields):
    return OpenDurable(name=name, number=number, digest=digest, now=NOW, most=most, **fields)


def acknowledging(*places, now=NOW + 1):
    return Acknowledge(positions=[(*place, 1) if len(place) == 3 else place for place in places], now=now)


def mark(store, number):
    position = store.read("position", number)
    return position.digest


@pytest.fixture
def log(store):
    store.write(publish(event()), *[append(1, n) for n in range(5)])
    return store


def places(store):
    return {record.name: record.position.number for record in store.read("durables", "", 100)}


def test_opening_again_keeps_the_position(log):
    assert log.write_one(opening("a", 2, mark(log, 2))) == Opened(2, mark(log, 2), 1)
    assert log.write_one(opening("a", 4, mark(log, 4))) == Opened(2, mark(log, 2), 2)
    record = log.read("durable", "a")
    assert (record.position, record.created_at, record.acknowledged_at) == (
        Position(2, mark(log, 2)),
        NOW,
        None,
    )
    assert log.read("durable", "b") is None


def test_a_name_keeps_the_type_patterns_of_whoever_created_it(log):
    key = log.write_one(CreateKey(name="k", digest=b"d", scopes=["subscribe"], now=NOW, types=["a.*"]))
    # A token, a key of a file, an unlimited key, and a name that was created before names had types.
    log.write(
        opening("token", key=-(1 << 63), types=["b", "c.**"]),
        opening("file", key=1 << 40, types=["b"]),
        opening("all", key=key + 1),
        opening("old", key=key),
    )
    assert log.write_one(opening("token", key=7, types=["d"])) is not None  # it exists
    assert {record.name: record.types for record in log.read("durables", "", 9)} == {
        "token": ("b", "c.**"),
        "file": ("b",),
        "all": (),
        "old": ("a.*",),
    }


def test_one_key_cannot_take_all_names(log):
    for name in "abc":
        assert log.write_one(opening(name, key=1, most_of_key=3)) is not None
    assert log.write_one(opening("d", key=1, most_of_key=3)) is None
    assert log.write_one(opening("a", key=1, most_of_key=3)) is not None
    assert log.write_one(opening("d", key=2, most_of_key=3)) is not None
    for name in "efgh":
        assert log.write_one(opening(name, most_of_key=3)) is not None  # without keys there is no other one
    assert log.write_one(DeleteDurable(name="b"))
    assert log.write_one(opening("i", key=1, most_of_key=3)) is not None


def test_names_move_forward_and_never_back(log):
    log.write(opening("a"), opening("b"))
    assert log.write_one(acknowledging(("a", 4, mark(log, 4)), ("b", 1, mark(log, 1)))) == Unmoved([], [])
    assert log.write_one(acknowledging(("a", 2, mark(log, 2)), ("b", 5, mark(log, 5)))) == Unmoved([], [])
    assert places(log) == {"a": 4, "b": 5}
    assert log.read("durable", "a").acknowledged_at == NOW + 1


def test_only_positions_that_are_not_in_the_log_are_refused(log):
    log.write(opening("a"), opening("b"), opening("c"))
    operation = acknowledging(("a", 3, mark(log, 4)), ("b", 9, 1), ("c", 3, mark(log, 3)))
    assert log.write_one(operation) == Unmoved(["a", "b"], [])
    assert places(log) == {"a": 0, "b": 0, "c": 3}


def test_a_pruned_position_is_accepted_unchecked(log):
    log.write(opening("a"))
    log.write(PruneResults(until=3))
    assert log.write_one(acknowledging(("a", 2, 7))) == Unmoved([], [])
    assert places(log) == {"a": 2}


def test_an_older_generation_moves_nothing(log):
    log.write(opening("a"), opening("b"))
    assert log.write_one(TakeDurable(name="a")) == Opened(0, 0, 2)
    assert log.write_one(TakeDurable(name="c")) is None
    operation = acknowledging(("a", 4, mark(log, 4)), ("b", 1, mark(log, 1)), ("c", 1, mark(log, 1)))
    assert log.write_one(operation) == Unmoved([], ["a", "c"])
    assert places(log) == {"a": 0, "b": 1}
    assert log.write_one(acknowledging(("a", 4, mark(log, 4), 2))) == Unmoved([], [])
    assert places(log) == {"a": 4, "b": 1}
    log.write(ReleaseDurable(name="a", generation=2), ReleaseDurable(name="c", generation=1))
    assert log.write_one(TakeDurable(name="a")) == Opened(4, mark(log, 4), 3)
    assert log.read("durable", "a").generation == 3


def test_the_number_of_names_is_limited(log):
    assert all(log.write(*[opening(name, most=2) for name in "ab"]))
    assert log.write_one(opening("c", most=2)) is None
    assert log.write_one(opening("a", most=2)) is not None
    assert log.write_one(DeleteDurable(name="a")) is True
    assert log.write_one(DeleteDurable(name="a")) is False
    assert log.write_one(opening("c", most=2)) is not None
    assert places(log) == {"b": 0, "c": 0}


def test_names_are_listed_in_pages(log):
    log.write(*[opening(f"n{n}") for n in range(5)])
    assert [r.name for r in log.read("durables", "", 2)] == ["n0", "n1"]
    assert [r.name for r in log.read("durables", "n1", 10)] == ["n2", "n3", "n4"]

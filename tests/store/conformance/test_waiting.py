"""Reads of waiting runs: limited in runs and bytes, and by key in the order of ordered handlers."""

from busway.domain.run import RunState
from busway.gateway.store.port.operations import Cancel, Retry

from tests.store.kit import NOW, event, publish, settle


def keyed(key, **fields):
    return event(attributes={"partitionkey": key}, **fields)


def failed(run, due=NOW + 1000, **more):
    return settle(run, state=RunState.RETRYABLE, due=due, **more)


def key_runs(store, *keys, now=NOW, per_key=10, max_bytes=1 << 30):
    return [
        (found.key, [run.id for run in found.runs], found.more)
        for found in store.read("key_runs", 1, list(keys), now, per_key, max_bytes)
    ]


def test_a_run_has_its_partition_key(store):
    store.write(publish(keyed("a"), event()))
    assert [run.key for run in store.read("waiting", 1, 10)] == ["a", None]


def test_keys_are_those_of_waiting_runs_page_by_page(store):
    store.write(publish(*[keyed(k) for k in "cabca"], event(), keyed("z", handlers=(2,)), keyed("d")))
    store.write(settle(8))
    assert store.read("partition_keys", 1, "", 10) == ["a", "b", "c"]
    assert store.read("partition_keys", 1, "", 2) == ["a", "b"]
    assert store.read("partition_keys", 1, "b", 2) == ["c"]
    assert store.read("partition_keys", 1, "c", 2) == []


def test_a_key_has_started_runs_first_then_due_runs_in_event_order(store):
    store.write(publish(*[keyed("a", priority=n) for n in range(4)], keyed("a", due=NOW + 5), keyed("b")))
    store.write(failed(3))
    assert key_runs(store, "a", "b") == [("a", [3, 1, 2, 4], False), ("b", [6], False)]
    assert key_runs(store, "b", "none", "a", now=NOW + 5)[2] == ("a", [3, 1, 2, 4, 5], False)
    assert key_runs(store, "a", per_key=2) == [("a", [3, 1], True)]


def test_runs_of_keys_stop_at_the_bytes_but_always_have_the_first_run(store):
    store.write(publish(*[keyed(k, data=b"x" * 100) for k in "aaabb"]))
    assert key_runs(store, "a", "b", max_bytes=1) == [("a", [1], True)]
    assert key_runs(store, "a", "b", max_bytes=350) == [("a", [1, 2, 3], False), ("b", [4], True)]


def test_a_manual_retry_removes_the_key(store):
    store.write(publish(*[keyed("a") for _ in range(3)]), failed(1), Cancel(runs=[2], now=NOW))
    reply = store.write_one(Retry(runs=[1, 2], now=NOW))
    assert [run.key for run in reply.runs] == [None]
    assert key_runs(store, "a") == [("a", [3], False)]
    assert [run.id for run in store.read("waiting", 1, 10)] == [1, 2, 3]


def test_waiting_runs_can_be_limited_to_those_without_a_key(store):
    store.write(publish(keyed("a"), event(), keyed("b"), event(due=NOW + 5)))
    assert [run.id for run in store.read("waiting", 1, 10, keyless=True)] == [2]
    assert [run.id for run in store.read("waiting", 1, 10, now=NOW + 5, keyless=True)] == [2, 4]


def test_waiting_runs_include_those_whose_due_time_passed(store):
    store.write(publish(event(due=NOW + 2, priority=9), event(due=NOW + 9), event(), event(priority=5)))
    assert [run.id for run in store.read("waiting", 1, 10, now=NOW + 2)] == [1, 4, 3]
    assert [run.id for run in store.read("waiting", 1, 1, now=NOW + 2)] == [1]


def test_waiting_and_due_runs_stop_at_the_bytes(store):
    store.write(publish(*[event(data=b"x" * 100) for _ in range(3)]))
    store.write(publish(*[event(data=b"x" * 100, due=NOW + n) for n in range(1, 4)]))
    assert [run.id for run in store.read("waiting", 1, 10, max_bytes=150)] == [1, 2]
    assert [run.id for run in store.read("due", NOW + 9, 10, max_bytes=1)] == [4]
    assert [run.id for run in store.read("due", NOW + 9, 10, after=NOW + 1)] == [5, 6]


def test_the_oldest_run_of_a_handler_is_the_one_that_could_have_started_first(store):
    assert store.read("oldest", NOW) == {}
    store.write(publish(event(accepted_at=NOW + 3), event(accepted_at=NOW + 1, priority=9)))
    store.write(publish(event(due=NOW + 2), event(due=NOW + 50), event(handlers=(2,), due=NOW + 70)))
    assert store.read("oldest", NOW + 10) == {1: NOW + 1}
    store.write(settle(2))
    assert store.read("oldest", NOW + 10) == {1: NOW + 2}
    assert store.read("oldest", NOW + 1) == {}
    store.write(settle(3), failed(1, due=NOW + 9))
    assert store.read("oldest", NOW + 60) == {1: NOW + 9}
    assert store.read("oldest", NOW + 70) == {1: NOW + 9, 2: NOW + 70}

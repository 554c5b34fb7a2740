"""Events are stored once, numbered without holes, all or none of an operation."""

from busway.gateway.errors import Conflict
from busway.gateway.store.port.operations import StoredEvent
from busway.gateway.store.port.reader import EventQuery

from tests.store.databases import ON_ALL
from tests.store.kit import event, handler, publish, settle

pytestmark = ON_ALL


def test_events_and_runs_are_numbered_from_one_in_order(store):
    stored = store.write_one(publish(event(handlers=(1, 2)), event(handlers=()), event(handlers=(2,))))
    assert stored == [StoredEvent(1, 1), StoredEvent(2, 3), StoredEvent(3, 3)]
    assert [(r.id, r.event, r.handler) for r in store.read("runs_of", [1, 2, 3])] == [
        (1, 1, "one"),
        (2, 1, "two"),
        (3, 3, "two"),
    ]


def test_a_second_event_with_the_same_source_and_id_is_not_stored(store):
    store.write(publish(event("a")))
    assert store.write_one(publish(event("b"), event("a"))) == [StoredEvent(2, 2), StoredEvent(1, 0, True)]
    assert [e.id for e in store.read("events", EventQuery(), 10)] == ["b", "a"]


def test_duplicates_are_found_within_one_operation_and_one_batch(store):
    first, second = store.write(publish(event("a"), event("a")), publish(event("a")))
    assert first == [StoredEvent(1, 1), StoredEvent(1, 0, True)]
    assert second == [StoredEvent(1, 0, True)]


def test_the_same_id_of_another_source_is_another_event(store):
    store.write(publish(event("a")))
    assert store.write_one(publish(event("a", source="/else"))) == [StoredEvent(2, 2)]


def test_a_generated_id_that_exists_is_a_duplicate_and_the_rest_is_stored(store):
    store.write(publish(event("a")))
    again = event("a")
    again.made_id = True
    replies = store.write(publish(event("b")), publish(again), publish(event("c")))
    assert replies == [[StoredEvent(2, 2)], [StoredEvent(1, 0, True)], [StoredEvent(3, 3)]]


def test_an_operation_that_is_refused_fails_alone_and_takes_no_numbers(store):
    broken = publish(event("x"), event("y", due=1 << 63))  # too large for an integer of a database
    replies = store.write(publish(event("a")), broken, handler("one"), publish(event("b")))
    assert replies[0] == [StoredEvent(1, 1)]
    assert isinstance(replies[1], Conflict)
    assert isinstance(replies[2], Conflict)
    assert replies[3] == [StoredEvent(2, 2)]
    assert store.write_one(publish(event("x"))) == [StoredEvent(3, 3)]


def test_all_fields_of_an_event_are_read_back(store):
    attributes = {"flag": True, "n": 7, "priority": 9, "text": "é\u2028"}
    new = event(
        "a", data=b'{"x": "\xc3\xa9"}', attributes=attributes, subject="s", datacontenttype="application/json"
    )
    store.write(
        publish(new, event("b", data=b"\x00\xff", binary=True), event("c", data=None, correlationid="a"))
    )
    first, second, third = (store.read("event", seq) for seq in (1, 2, 3))
    assert (first.data, first.attributes, first.subject, first.root) == (new.data, attributes, "s", 1)
    assert first.attributes["flag"] is True
    assert (first.correlationid, third.correlationid) == ("a", "a")
    assert (second.data, second.binary) == (b"\x00\xff", True)
    assert (third.data, third.binary) == (None, False)
    assert store.read("event", 4) is None


def test_events_keep_their_depth_and_know_what_they_descend_from(store):
    store.write_one(publish(event(type_="a")))
    for depth in (1, 2, 3):
        below = event(type_="abcd"[depth], root=1, parent=depth, depth=depth)
        store.write_one(settle(depth, event=depth, root=1, published=[below]))
    assert [store.read("event", seq).depth for seq in (1, 2, 3, 4)] == [0, 1, 2, 3]
    assert [run.event.depth for run in store.read("waiting_of", [4], 1 << 20).runs] == [3]
    assert store.read("chain", 4, 10) == ["a", "b", "c", "d"]
    assert store.read("chain", 4, 2) == ["c", "d"]
    assert store.read("chain", 9, 10) == []

"""Schedules: what is saved, and that a firing and its event are one."""

import msgspec
from busway.domain.schedule import Schedule
from busway.gateway.store.port.operations import DeleteSchedule, Fire, SaveSchedule
from busway.gateway.store.port.reader import RunQuery

from tests.store.databases import ON_ALL
from tests.store.kit import NOW, event

pytestmark = ON_ALL


def schedule(name="s", version=1, **fields):
    known = {
        "cron": None, "every": "30s", "timezone": "UTC", "event": '{"type":"t"}', "catch_up": "one",
        "paused": False, "description": "é", "anchor": NOW, "after": NOW, "last_fired_at": None,
        "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return Schedule(name=name, version=version, **known | fields)


def save(*arguments, most=10, **fields):
    return SaveSchedule(schedule=schedule(*arguments, **fields), most=most)


def fire(after, until, *, version=1, id_=None, name="s"):
    new = event(id_ or f"s@{until}", source="/schedules/s", handlers=(1, 2))
    return Fire(name=name, version=version, fired_at=until, after=after, until=until, events=[new])


def test_schedules_are_saved_and_listed_by_name(store):
    assert store.write(save("b"), save("a", cron="0 3 * * *", every=None), save("b")) == [None, None, "taken"]
    assert store.write_one(save("c", most=2)) == "full"
    assert store.read("schedule", "b") == schedule("b")
    assert store.read("schedule", "c") is None
    assert [found.name for found in store.read("schedules", "", 10)] == ["a", "b"]
    assert [found.name for found in store.read("schedules", "a", 10)] == ["b"]
    assert [found.name for found in store.read("schedules", "", 1)] == ["a"]
    assert store.write(DeleteSchedule(name="b"), DeleteSchedule(name="b")) == [True, False]
    assert store.read("schedule", "b") is None


def test_a_change_of_an_older_version_is_refused(store):
    store.write_one(save())
    changed = save("s", 2, description="second")
    assert store.write(changed, save("s", 2, description="other"), save("no", 2)) == [
        None,
        "changed",
        "changed",
    ]
    assert store.read("schedule", "s") == changed.schedule


def test_only_schedules_that_are_not_paused_have_a_timing(store):
    store.write(save("a"), save("b", paused=True), save("c", cron="0 3 * * *", every=None, after=NOW + 5))
    found = store.read("schedule_timings")
    assert [(each.name, each.timing.cron, each.timing.every, each.after) for each in found] == [
        ("a", None, 30_000_000, NOW),
        ("c", "0 3 * * *", None, NOW + 5),
    ]


def test_a_firing_happens_once(store):
    store.write_one(save())
    first, again, next_ = store.write(fire(NOW, NOW + 1), fire(NOW, NOW + 1), fire(NOW + 1, NOW + 2))
    assert [stored.seq for stored in first] == [1]
    assert again is None
    assert [stored.seq for stored in next_] == [2]
    assert store.read("totals") == (2, 0)
    assert len(store.read("runs", RunQuery(), 10)) == 4
    fired = schedule(after=NOW + 2, last_fired_at=NOW + 2)
    assert store.read("schedule", "s") == fired
    store.reopen()
    assert store.write(fire(NOW + 1, NOW + 2), fire(NOW, NOW + 3)) == [None, None]
    assert store.read("schedule", "s") == fired


def test_nothing_fires_under_an_old_definition(store):
    store.write_one(save())
    store.write_one(save("s", 2, paused=True, after=NOW - 5))
    assert store.write(fire(NOW, NOW + 1), fire(NOW, NOW + 1, name="other")) == [None, None]
    assert store.read("totals") == (0, 0)
    assert store.write_one(fire(NOW, NOW + 1, version=2)) is not None


def test_a_change_keeps_the_firings_since_it_was_made(store):
    store.write_one(save())
    store.write_one(fire(NOW, NOW + 9))
    store.write_one(save("s", 2, description="new"))
    assert store.read("schedule", "s") == schedule(
        version=2, description="new", after=NOW + 9, last_fired_at=NOW + 9
    )


def test_a_firing_by_hand_leaves_the_others_as_they_are(store):
    store.write_one(save())
    by_hand = Fire(name="s", version=1, fired_at=NOW + 3, events=[event("s@3")])
    assert store.write(by_hand, msgspec.structs.replace(by_hand, version=2))[1] is None
    assert store.read("schedule", "s") == schedule(last_fired_at=NOW + 3)


def test_firings_that_are_left_out_are_done(store):
    store.write_one(save())
    assert (
        store.write_one(Fire(name="s", version=1, fired_at=None, after=NOW, until=NOW + 3, events=[])) == []
    )
    assert store.read("schedule", "s") == schedule(after=NOW + 3)


def test_a_firing_whose_event_exists_is_done_without_a_second_one(store):
    store.write_one(save())
    store.write_one(fire(NOW, NOW + 1))
    store.write(DeleteSchedule(name="s"), save())
    (stored,) = store.write_one(fire(NOW, NOW + 1))
    assert stored.duplicate
    assert store.read("totals") == (1, 0)

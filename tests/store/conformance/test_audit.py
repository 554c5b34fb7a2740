"""The audit log: each change has its entry in the same transaction, and what changes nothing has none."""

import json

from busway.domain.run import Error, RunState
from busway.domain.schedule import Schedule
from busway.domain.source import Source
from busway.gateway.errors import Conflict
from busway.gateway.store.port.audit import Audited, AuditQuery, Entry, PruneAudit, Record
from busway.gateway.store.port.keys import RotateKey
from busway.gateway.store.port.operations import (
    Cancel,
    CancelReplay,
    CreateKey,
    CreateReplay,
    DeleteDurable,
    DeleteSchedule,
    Fire,
    OpenDurable,
    Retry,
    RetryDead,
    RevokeKey,
    SaveSchedule,
)
from busway.gateway.store.port.sources import DeleteSource, SaveSource

from tests.store.kit import NOW, event, handler, publish

SECRET = "never stored in the audit log"
KEY = CreateKey(name="shop", digest=SECRET.encode(), scopes=["publish"], now=NOW, types=["a.*"])
SCHEDULE = Schedule(name="daily", version=1, cron="0 4 * * *", every=None, timezone="UTC", event="{}",
    catch_up="none", paused=False, description="", anchor=NOW, after=NOW, last_fired_at=None,
    created_at=NOW, updated_at=NOW)  # fmt: skip
SOURCE = Source(name="repo", kind="hmac", secret=SECRET, type="t", created_at=NOW, updated_at=NOW)
WHY = Error("Cancelled", "why")


def entry(action="x.y", **fields):
    return Entry(
        **{"actor": "key:7", "name": "me", "address": "203.0.113.7", "action": action, "time": NOW} | fields
    )


def audited(operation, **fields):
    return Audited(entry=entry(**fields), operation=operation)


def read(store, limit=100, **query):
    return store.read("audit", AuditQuery(**query), limit)


def test_each_change_has_an_entry_and_what_changes_nothing_has_none(store):
    store.write(publish(event(), event(), event(handlers=())))
    store.write(OpenDurable(name="name", number=0, digest=0, now=NOW, most=9))
    replay = CreateReplay(handler=1, types=["**"], after=0, before=9, shadow=True, now=NOW, most=9)
    changes = [
        (KEY, "1", {"name": "shop", "scopes": ["publish"], "types": ["a.*"]}),
        (RotateKey(id=1, until=NOW + 9, key=CreateKey(name="shop", digest=b"2", scopes=["publish"], now=NOW)),
         "1", {"name": "shop", "new": "2"}),
        (RotateKey(id=9, until=NOW, key=KEY), None, None),
        (RevokeKey(id=1, now=NOW), "1", {}),
        (RevokeKey(id=9, now=NOW), None, None),
        (SaveSource(source=SOURCE), "repo", {"kind": "hmac"}),
        (SaveSource(source=SOURCE), None, None),
        (DeleteSource(name="repo"), "repo", {}),
        (DeleteSource(name="repo"), None, None),
        (SaveSchedule(schedule=SCHEDULE, most=9), "daily", {"version": 1}),
        (SaveSchedule(schedule=SCHEDULE, most=9), None, None),
        (Fire(name="daily", version=1, fired_at=NOW, events=[event(handlers=())]), "daily", {"events": [4]}),
        (Fire(name="daily", version=8, fired_at=NOW, events=[event(handlers=())]), None, None),
        (DeleteSchedule(name="daily"), "daily", {}),
        (DeleteSchedule(name="daily"), None, None),
        (Cancel(runs=[1], error=WHY, now=NOW), "1", {"runs": 1}),
        (Cancel(runs=[1], error=WHY, now=NOW), None, None),
        (Retry(runs=[1], now=NOW), "1", {"runs": 1}),
        (Retry(runs=[1], now=NOW), None, None),
        (Cancel(runs=[1, 2], error=WHY, now=NOW), "1", {"runs": 2}),
        (RetryDead(state=RunState.CANCELLED, handler=1, now=NOW, limit=9),
         "one", {"state": "cancelled", "runs": 2}),
        (RetryDead(state=RunState.DEAD, handler=None, now=NOW, limit=9), None, None),
        (replay, "one", {"replay": "1", "types": ["**"], "after": 0, "before": 9, "shadow": True}),
        (CancelReplay(replay=1, error=WHY, now=NOW, limit=9), "1", {"runs": 0}),
        (CancelReplay(replay=9, error=WHY, now=NOW, limit=9), None, None),
        (DeleteDurable(name="name"), "name", {}),
        (DeleteDurable(name="name"), None, None),
        (handler("one", 1, revision=2), "one", {"revision": 2}),
    ]  # fmt: skip
    for number, (operation, object_, details) in enumerate(changes):
        before = len(read(store))
        store.write(audited(operation, action=f"n.{number}"))
        found = read(store)
        assert len(found) == before + (details is not None), operation
        if details is not None:
            newest = found[0]
            assert (newest.actor, newest.name, newest.address) == ("key:7", "me", "203.0.113.7")
            assert (newest.action, newest.object, newest.time) == (f"n.{number}", object_, NOW), operation
            assert json.loads(newest.details or "{}") == details, operation
            assert SECRET not in str(newest)


def test_entries_are_filtered_paged_and_pruned(store):
    for number in range(6):
        fields = {
            "actor": f"key:{number % 2}",
            "action": f"a.{number % 3}",
            "object": str(number),
            "time": NOW + number,
        }
        store.write(Record(entry=entry(**fields), details={"n": number, "text": "ü\0"}))
    store.write(Record(entry=entry(name="a\0b", object=None, address=None, time=NOW + 9)))

    def ids(**query):
        return [record.id for record in read(store, **query)]

    assert ids() == [7, 6, 5, 4, 3, 2, 1]
    assert ids(before=3) == [2, 1]
    assert [record.id for record in read(store, 2)] == [7, 6]
    assert ids(actor="key:1") == [6, 4, 2]
    assert ids(object="3") == [4]
    assert ids(actions=["a.0", "a.2"]) == [6, 4, 3, 1]
    assert ids(actions=["a.1"], actor="key:0") == [5]
    assert ids(since=NOW + 2, until=NOW + 4) == [4, 3]
    assert read(store)[0].name == "a\N{REPLACEMENT CHARACTER}b"
    assert store.read("old_audit", NOW + 3) is True
    assert store.write(PruneAudit(before=NOW + 3, limit=2)) == [2]
    assert store.write(PruneAudit(before=NOW + 3, limit=2)) == [1]
    assert store.read("old_audit", NOW + 3) is False
    assert ids() == [7, 6, 5, 4]


def test_a_refused_change_leaves_no_entry(store):
    store.write(audited(KEY))
    refused = store.write(audited(KEY), publish(event(handlers=())))
    assert isinstance(refused[0], Conflict)
    assert len(read(store)) == 1


def test_a_command_writes_entries(database):
    assert database.apply(audited(KEY, actor="cli", address=None)) == 1

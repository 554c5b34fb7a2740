"""Breakers count in the transaction that settles, and pause their handler there."""

import msgspec
from busway.domain.breaker import Breaker, BreakerCheck, Pause
from busway.domain.event import Event
from busway.domain.handler import Handler
from busway.domain.run import Outcome, RunState
from busway.domain.times import SECOND
from busway.gateway.store.core.writer import Outdated
from busway.gateway.store.port.operations import SaveHandler

from tests.store.databases import ON_ALL
from tests.store.kit import NOW, event, publish, report, settle

pytestmark = ON_ALL

RULE = Breaker(failures=3, within=10, seconds=5)
FIELDS = {"target": "a:b", "events": ["**"]}


def failed(run, at=0, rule=RULE, notices=()):
    """An attempt of a run that failed so many seconds after NOW."""
    told = report(Outcome.FAILED, finished_at=NOW + round(at * SECOND))
    return settle(run, state=RunState.DEAD, report=told, breaker=BreakerCheck(rule, list(notices)))


def succeeded(run):
    return settle(run, breaker=BreakerCheck(RULE))


def began(store, runs=9):
    handler = store.read("handlers")[0]
    handler = msgspec.structs.replace(handler, overrides=FIELDS, updated_at=NOW)
    store.write(SaveHandler(handler=handler, fields=FIELDS), *(publish(event()) for _ in range(runs)))
    return handler


def paused(store, *operations):
    """Which of these operations paused the handler."""
    return [reply.paused is not None for reply in store.write(*operations)]


def test_the_last_of_so_many_failures_pauses(store):
    before = began(store)
    alarm = event("alarm", type_="busway.handler.paused", handlers=(2,))
    assert paused(store, failed(1), failed(2, 1, notices=[alarm])) == [False, False]
    assert store.read("event", 10) is None
    (reply,) = store.write(failed(3, 2, notices=[alarm]))
    expected = msgspec.structs.replace(
        before,
        overrides={**FIELDS, "paused": True},
        pause=Pause(
            by="breaker", reason="3 attempts failed within 10 s, and none succeeded between them",
            since=NOW + 2 * SECOND, until=NOW + 7 * SECOND,
        ),
        updated_at=NOW + 2 * SECOND,
    )  # fmt: skip
    assert reply.paused == expected
    assert store.read("handlers")[0] == expected
    stored = store.read("event", 10)
    assert isinstance(stored, Event)
    assert stored.id == "alarm"
    assert paused(store, failed(4, 3), failed(5, 3)) == [False, False]  # they were running then


def test_old_failures_and_those_before_a_success_do_not_count(store):
    began(store)
    assert paused(store, failed(1), failed(2, 1), failed(3, 10.5), succeeded(4)) == [False] * 4
    assert paused(store, failed(5, 11), failed(6, 12)) == [False] * 2
    assert paused(store, failed(7, 13)) == [True]


def test_after_it_resumed_by_itself_one_failure_pauses_it_again(store):
    began(store)
    store.write(failed(1), failed(2), failed(3))
    handler = msgspec.structs.replace(store.read("handlers")[0], overrides=FIELDS, pause=None)
    store.write(SaveHandler(handler=handler, fields=FIELDS))
    assert paused(store, failed(4, 20)) == [True]
    store.write(SaveHandler(handler=handler, fields=FIELDS))
    assert paused(store, succeeded(5), failed(6, 30)) == [False, False]
    assert paused(store, failed(7, 31), failed(8, 32)) == [False, True]
    store.write(SaveHandler(handler=handler, fields=FIELDS, resets_breaker=True))
    assert paused(store, failed(9, 33)) == [False]


def test_an_outcome_that_is_sent_again_says_that_the_handler_is_paused(store):
    began(store)
    last = failed(3)
    store.write(failed(1), failed(2), last)
    (reply,) = store.write(last)
    assert reply.accepted
    assert isinstance(reply.paused, Handler)


def test_a_change_made_from_before_the_pause_does_nothing(store):
    before = began(store)
    store.write(failed(1), failed(2), failed(3))
    change = SaveHandler(handler=before, fields=FIELDS, seen=before.updated_at)
    (reply,) = store.write(change)
    assert isinstance(reply, Outdated)
    assert store.read("handlers")[0].spec.paused

"""Which firings of a schedule happen, and what they publish."""

from __future__ import annotations

from typing import Any

import pytest
from busway.domain.handler import FieldError
from busway.domain.schedule import LATE, MOST_MISSED, Due, Schedule, template_faults
from busway.domain.times import SECOND, from_text

START = from_text("2026-01-31T12:00:00Z")


def schedule(**fields: Any) -> Schedule:
    known: dict[str, Any] = {
        "name": "s",
        "version": 1,
        "cron": None,
        "every": "60s",
        "timezone": "UTC",
        "event": '{"type":"t","data":{"a":1.50},"priority":9}',
        "catch_up": "one",
        "paused": False,
        "description": "",
        "anchor": START,
        "after": START,
        "last_fired_at": None,
        "created_at": START,
        "updated_at": START,
    }
    return Schedule(**known | fields)


def minute(n: int) -> int:
    return START + n * 60 * SECOND


@pytest.mark.parametrize("catch_up", ["one", "none", "all"])
def test_a_firing_in_time_happens(catch_up: str) -> None:
    one = schedule(catch_up=catch_up)
    assert one.due(minute(1) - 1) is None
    assert one.due(minute(1)) == Due([minute(1)], minute(1))
    assert one.due(minute(1) + LATE) == Due([minute(1)], minute(1))
    assert schedule(catch_up=catch_up, after=minute(1)).due(minute(1)) is None


def test_missed_firings() -> None:
    late = minute(3) + LATE + 1
    assert schedule(catch_up="one").due(late) == Due([minute(3)], minute(3), missed=True)
    assert schedule(catch_up="none").due(late) == Due([], minute(3), missed=True)
    assert schedule(catch_up="none").due(minute(3)) == Due([minute(3)], minute(3), missed=True)
    assert schedule(catch_up="all").due(late) == Due([minute(1), minute(2), minute(3)], minute(3))


def test_the_firings_that_are_caught_up_have_a_bound() -> None:
    found = schedule(catch_up="all").due(minute(500_000))
    newest = [minute(n) for n in range(500_001 - MOST_MISSED, 500_001)]
    assert found == Due(newest, minute(500_000), missed=True)


def test_a_clock_that_was_set_back_repeats_nothing() -> None:
    assert schedule(after=minute(60)).due(minute(10)) is None


def test_an_event_has_the_time_of_its_firing() -> None:
    event = schedule().published(minute(1), minute(5))
    assert (event.id, event.source, event.type) == ("s@2026-01-31T12:01:00Z", "/schedules/s", "t")
    assert (event.time, event.accepted_at, event.data) == (minute(1), minute(5), b'{"a":1.50}')
    assert (event.priority, event.correlationid, event.made_id) == (9, event.id, False)
    assert schedule().published(minute(1) + 5, 0).id == "s@2026-01-31T12:01:00.000005Z"
    assert schedule(event='{"type":"t"}').published(START, START).data is None


@pytest.mark.parametrize("name", ["id", "source", "time", "deliverat", "expirytime"])
def test_what_the_event_of_a_schedule_cannot_have(name: str) -> None:
    faults = template_faults({"type": "t", name: "2026-01-31T12:00:00Z"}, START)
    assert [fault.field for fault in faults] == [name]


def test_the_event_of_a_schedule_is_checked() -> None:
    assert template_faults({"type": "t", "data": None, "colour": "red"}, START) == []
    assert [fault.field for fault in template_faults({"type": "a b"}, START)] == ["type"]
    with pytest.raises(FieldError):
        schedule(event='{"type":"a b"}').published(START, START)

"""Durations are counted in heaps; what is read has every attempt, however many there were."""

from __future__ import annotations

import random

import pytest
from busway.domain.event import Event
from busway.domain.handler import Spec
from busway.domain.histogram import SECONDS, Histogram
from busway.domain.run import Outcome, Run
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.attempts.statistics import Durations
from busway.gateway.executors.port import Ended

EVENT = Event(seq=1, id="e", source="/", type="t", time=0, correlationid="e", root=1)
SPEC = Spec(target="m:f", events=("t",))


def attempt(handler="h", pool="process"):
    return Attempt(1, Run(id=1, event=EVENT, handler=7, since=1_000_000), 1, handler, 1, SPEC, pool)


def ended(wall, waited=0.0, outcome=Outcome.SUCCEEDED):
    started = 1_000_000 + round(waited * 1e6)
    return Ended(1, outcome, started, started + round(wall * 1e6), 1, wall_time=wall)


def test_counting_many_at_once_is_counting_one_by_one():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(50):
        values = [chance.choice([*SECONDS, chance.uniform(0, 400), 0]) for _ in range(chance.randrange(40))]
        one_by_one, at_once = Histogram(), Histogram()
        for value in values:
            one_by_one.add(value)
        cut = chance.randrange(len(values) + 1)
        at_once.extend(values[:cut])
        at_once.extend(values[cut:])
        assert at_once.counts == one_by_one.counts
        assert at_once.total == pytest.approx(one_by_one.total)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_every_attempt_is_in_what_is_read(count):
    durations = Durations()
    for number in range(count):
        durations.take([(attempt(), ended(0.002, waited=0.02 * (number % 2)))])
    durations.take([(attempt("other", "thread"), ended(7.0, outcome=Outcome.FAILED))])
    for _ in range(2):
        assert {labels: sum(h.counts) for labels, h in durations.attempts().items()} == {
            ("h", "process", "succeeded"): count,
            ("other", "thread", "failed"): 1,
        }
        waits = durations.waits()
        assert sum(waits["h"].counts) == count
        assert waits["h"].total == pytest.approx(0.02 * (count // 2))
        assert durations.attempts()["other", "thread", "failed"].total == pytest.approx(7.0)


def test_an_attempt_that_started_before_its_run_was_due_did_not_wait():
    durations = Durations()
    durations.take([(attempt(), ended(0.002, waited=-5.0))])
    assert durations.waits()["h"].total == 0


def test_the_newest_attempts_are_the_last_256():
    durations = Durations()
    assert durations.newest(7) == {"p50": None, "p95": None, "attempts": 0}
    for _ in range(300):
        durations.take([(attempt(), ended(9.0))])
    for _ in range(200):
        durations.take([(attempt(), ended(0.5))])
    assert durations.newest(7) == {"p50": 0.5, "p95": 9.0, "attempts": 256}

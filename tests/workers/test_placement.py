"""Where handlers that leave it to the gateway are placed: decided from figures, moved seldom."""

from __future__ import annotations

import random

import pytest
from busway.domain.event import Event
from busway.domain.handler import Handler
from busway.domain.pattern import matcher
from busway.domain.run import Error, Outcome, Run
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.dispatch.placement import ENOUGH, Placement
from busway.gateway.dispatch.registry import RegisteredHandler
from busway.gateway.executors.port import Ended

EVENT = Event(seq=1, id="e", source="/", type="t", time=0, correlationid="e", root=1)


class Case:
    """One handler and the clock."""

    def __init__(self, default="auto", kind="function", **fields):
        self.now = 1_000_000
        self.placement = Placement(default, lambda: self.now)
        self.kind = kind
        self.revise("digest", 1, **fields)

    def revise(self, digest, revision, **fields):
        declared = {"target": "m:f", "events": ["t"], **fields}
        handler = Handler(
            id=7, name="f", declared=declared, file_digest=digest, revision=revision, updated_at=5
        )
        self.entry = RegisteredHandler(handler, handler.spec, matcher(("t",)))

    @property
    def pool(self):
        return self.placement.pool(self.entry, self.kind)

    @property
    def place(self):
        return self.placement.place(self.entry, self.kind)

    def attempt(self, pool=None, revision=None):
        run = Run(id=1, event=EVENT, handler=7)
        revision = revision or self.entry.handler.revision
        return Attempt(1, run, 1, "f", revision, self.entry.spec, pool or self.pool)

    def note(self, cpu, wall=0.010, *, times=1, apart=None, starved=0.0, **more):
        """End attempts one after another, or `apart` seconds apart though each takes `wall`."""
        for _ in range(times):
            attempt = self.attempt(**more)
            start, self.now = self.now, self.now + round((apart if apart is not None else wall) * 1e6)
            ended = Ended(
                token=1, outcome=Outcome.SUCCEEDED, started_at=start, finished_at=start + round(wall * 1e6),
                worker=1, cpu_time=cpu, wall_time=wall, starved=starved,
            )  # fmt: skip
            self.placement.take([(attempt, ended)])

    def crash(self):
        error = Error("WorkerDied", "killed by SIGSEGV")
        ended = Ended(
            token=1, outcome=Outcome.FAILED, started_at=1, finished_at=self.now, worker=1, error=error
        )  # fmt: skip
        self.placement.take([(self.attempt(), ended)])

    def moves(self, costs):
        """Take attempts of these costs; return how many lay between one move and the next."""
        gaps, count, last = [], 0, self.pool
        for cpu in costs:
            self.note(cpu)
            count += 1
            if self.pool != last:
                gaps.append(count)
                count, last = 0, self.pool
        return gaps


@pytest.mark.parametrize(
    ("default", "fields", "pool", "reason"),
    [
        ("process", {}, "process", "the gateway was started with it"),
        ("thread", {}, "thread", "the gateway was started with it"),
        ("thread", {"pool": "process"}, "process", "the handler chose it"),
        ("auto", {"pool": "thread"}, "thread", "the handler chose it"),
        ("thread", {"memory": 64}, "process", "it has a memory limit, and so worker processes of its own"),
        ("auto", {}, "process", "not measured yet: 0 of 30 attempts"),
        ("process", {"pool": "auto"}, "process", "not measured yet: 0 of 30 attempts"),
    ],
)
def test_what_was_chosen_holds(default, fields, pool, reason):
    case = Case(default, **fields)
    assert (case.place.pool, case.place.reason) == (pool, reason)


def test_a_handler_that_waits_goes_to_threads_after_thirty_attempts_and_the_figures_say_so():
    case = Case()
    case.note(0.0004, times=ENOUGH - 1)
    assert (case.pool, case.place.reason) == ("process", "not measured yet: 29 of 30 attempts")
    case.note(0.0004)
    assert case.pool == "thread"
    assert case.place.reason == "it waits: cpu/wall 0.04 over 30 attempts"
    assert case.place.since == case.now


def test_a_handler_that_computes_stays_in_processes_and_the_figures_say_so():
    case = Case()
    began = case.place.since
    case.note(0.0098, times=100)
    assert (case.pool, case.place.since) == ("process", began)
    assert case.place.reason == "it computes: cpu/wall 0.98 over 30 attempts"


def test_between_the_two_bounds_nothing_moves():
    case = Case()
    case.note(0.0045, times=990)
    assert (case.pool, case.place.reason) == ("process", "it does both: cpu/wall 0.45 over 30 attempts")
    case.note(0.0004, times=ENOUGH)
    assert case.pool == "thread"
    case.note(0.0045, times=1000)
    assert case.pool == "thread"


def test_a_waiter_that_begins_to_compute_comes_back():
    case = Case()
    case.note(0.0004, times=ENOUGH)
    assert case.pool == "thread"
    case.note(0.009, times=2 * ENOUGH)
    assert (case.pool, case.place.reason) == ("process", "it computes: cpu/wall 0.90 over 60 attempts")


def test_computing_shows_also_where_threads_wait_for_one_another():
    case = Case()
    case.note(0.0004, times=ENOUGH)
    case.note(0.050, wall=0.400, apart=0.050, times=2 * ENOUGH)  # eight at once on one interpreter
    assert case.pool == "process"


def test_on_a_busy_machine_a_handler_that_computes_is_told_from_one_that_waits():
    burner, waiter = Case(), Case()
    burner.note(0.010, wall=0.070, starved=0.0595, times=ENOUGH)
    waiter.note(0.0004, wall=0.070, starved=0.060, times=ENOUGH)
    assert (burner.pool, waiter.pool) == ("process", "thread")


def test_a_busy_waiter_is_no_computer():
    case = Case()
    case.note(0.0004, times=ENOUGH)
    case.note(0.0004, wall=0.012, apart=0.0005, times=500)
    assert case.pool == "thread"


def test_mixed_loads_hardly_ever_move():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    loads = [
        lambda n: 0.009 if n % 2 else 0.0001,
        lambda n: chance.uniform(0, 0.010),
        lambda n: 0.0095 if n // 45 % 2 else 0.0001,
        lambda n: chance.choice([0.0001, 0.0001, 0.0099]),
    ]
    assert [len(Case().moves(map(load, range(20_000)))) <= 6 for load in loads] == [True] * 4


def test_two_moves_lie_thirty_attempts_apart_and_more_each_time_whatever_comes():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    level, costs = 0.0, []
    for _ in range(20_000):
        level = chance.choice([0.0, 0.010]) if chance.random() < 0.01 else level
        costs.append(level)
    gaps = Case().moves(costs)
    assert all(gap >= ENOUGH << n for n, gap in enumerate(gaps))


def test_one_that_ended_its_worker_goes_to_processes_and_stays():
    case = Case()
    case.note(0.0001, times=ENOUGH)
    assert case.pool == "thread"
    case.crash()
    case.note(0.0001, times=1000)
    assert (case.pool, case.place.reason) == ("process", "an attempt ended its worker: killed by SIGSEGV")


@pytest.mark.parametrize("kind", ["coroutine", "async_generator"])
def test_async_targets_go_to_threads_at_once_unless_they_ended_a_worker(kind):
    case = Case(kind=kind)
    assert case.pool == "thread"
    assert "async" in case.place.reason
    case.crash()
    assert case.pool == "process"


def test_new_code_is_measured_anew_and_attempts_of_the_old_tell_nothing():
    case = Case()
    case.note(0.0001, times=ENOUGH)
    case.crash()
    case.revise("other", 2)
    assert (case.pool, case.place.reason) == ("process", "not measured yet: 0 of 30 attempts")
    case.note(0.0001, times=100, revision=1)
    assert case.pool == "process"
    case.note(0.0001, times=ENOUGH)
    assert case.pool == "thread"


def test_a_new_revision_of_the_same_code_changes_no_place():
    case = Case()
    case.note(0.0001, times=ENOUGH)
    case.revise("digest", 2, timeout=5)
    assert case.pool == "thread"


def test_attempts_that_tell_no_time_or_ran_elsewhere_are_not_counted():
    case = Case()
    assert case.pool == "process"
    case.note(None, times=100)
    case.note(0.0001, times=100, pool="thread")
    assert case.place.reason == "not measured yet: 0 of 30 attempts"

"""The pure rules: pace, what a death means, how stacks are read."""

from __future__ import annotations

import random

import pytest
from busway.gateway.executors.python.host import policy
from busway.gateway.executors.python.host.pace import Pace
from busway.gateway.executors.python.host.policy import AttemptPhase, DeathVerdict, cause_of, verdicts
from busway.gateway.executors.python.wire.pace import QUICK

UNSTARTED, RUNNING, RETURNED, SETTLED, OVERDUE = AttemptPhase


def judge(*phases, killed=False, alone=False):
    return verdicts(phases, killed=killed, alone=alone)


def test_a_handler_is_quick_after_twenty_attempts_of_which_almost_all_are():
    pace = Pace("h")
    for _ in range(19):
        pace.extend([QUICK / 2])
    assert not pace.quick
    pace.extend([QUICK / 2])
    assert pace.quick


def test_one_slow_attempt_in_twenty_ends_being_quick_until_it_is_long_ago():
    pace = Pace("h")
    for _ in range(20):
        pace.extend([QUICK / 2])
    pace.extend([1.0])
    pace.extend([1.0])
    assert not pace.quick
    for _ in range(100):
        pace.extend([QUICK / 2])
    assert pace.quick


def test_pace_agrees_with_counting_the_window():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    pace, walls = Pace("h"), []
    for _ in range(1000):
        ended = [QUICK * (0.5 if chance.random() < 0.95 else 2) for _ in range(chance.randrange(1, 9))]
        walls += ended
        pace.extend(ended)
        last = walls[-100:]
        assert pace.quick == (len(last) >= 20 and sum(w >= QUICK for w in last) < len(last) / 20)


def test_the_only_started_attempt_is_charged_and_unstarted_ones_go_back():
    assert judge(RUNNING, UNSTARTED, UNSTARTED) == [
        DeathVerdict.CHARGE,
        DeathVerdict.RETURN,
        DeathVerdict.RETURN,
    ]


def test_of_several_started_none_is_charged_and_each_runs_again_alone():
    assert judge(RUNNING, RUNNING, UNSTARTED) == [
        DeathVerdict.LOSE_ALONE,
        DeathVerdict.LOSE_ALONE,
        DeathVerdict.RETURN,
    ]


def test_alone_the_second_death_is_charged():
    assert judge(RUNNING, alone=True) == [DeathVerdict.CHARGE]
    assert judge(RETURNED, alone=True) == [DeathVerdict.CHARGE]


def test_alone_one_that_seems_not_to_have_started_is_lost():
    assert judge(UNSTARTED, alone=True) == [DeathVerdict.LOSE_ALONE]
    assert judge(UNSTARTED, alone=True, killed=True) == [DeathVerdict.RETURN]


def test_one_that_had_returned_is_innocent_while_another_ran():
    assert judge(RETURNED, RUNNING) == [DeathVerdict.LOSE, DeathVerdict.CHARGE]


def test_one_that_had_returned_is_suspect_when_nothing_ran():
    assert judge(RETURNED) == [DeathVerdict.LOSE_ALONE]


def test_a_kill_for_an_overdue_attempt_costs_its_siblings_nothing():
    phases = (OVERDUE, RUNNING, RETURNED, UNSTARTED, SETTLED)
    expected = [
        DeathVerdict.GIVE_UP,
        DeathVerdict.LOSE,
        DeathVerdict.LOSE,
        DeathVerdict.RETURN,
        DeathVerdict.NOTHING,
    ]
    assert judge(*phases, killed=True) == expected


def test_an_overdue_attempt_in_its_grace_is_a_suspect_too():
    assert judge(OVERDUE, RUNNING) == [DeathVerdict.GIVE_UP, DeathVerdict.LOSE_ALONE]


def test_a_settled_attempt_that_may_still_run_is_a_suspect_too():
    assert judge(SETTLED, RUNNING) == [DeathVerdict.NOTHING, DeathVerdict.LOSE_ALONE]


@pytest.mark.parametrize(
    ("status", "text"),
    [(11, "killed by SIGSEGV"), (256 * 3, "exited with status 3"), (0, "exited with status 0"),
     (9, "killed by SIGKILL (out of memory, or killed by a user)"), (11 | 128, "killed by SIGSEGV"),
     (None, "ended with an unknown status")],
)  # fmt: skip
def test_a_death_is_told_in_words(status, text):
    assert cause_of(status) == text


DUMP = """Fatal Python error: Segmentation fault

Thread 0x00000000000000aa (most recent call first):
  File "/x/other.py", line 1 in other

Current thread 0x00000000000000bb (most recent call first):
  File "{ours}/invocation.py", line 5 in progress
  File "/x/mine.py", line 3 in inner
  File "/x/mine.py", line 9 in target
  File "{ours}/inline.py", line 22 in perform
  File "/usr/lib/python3.11/threading.py", line 982 in run
"""


def test_the_stack_of_one_thread_shows_only_the_users_frames():
    dump = DUMP.format(ours=policy._OURS[0])
    lines = policy.stack_of_thread(dump, 0xBB).splitlines()[1:]
    assert lines == ['  File "/x/mine.py", line 3 in inner', '  File "/x/mine.py", line 9 in target']
    assert "other.py" in policy.stack_of_thread(dump, 0xAA)
    assert policy.stack_of_thread(dump, 0xCC) is None
    assert "mine.py" in policy.newest_stack(dump)

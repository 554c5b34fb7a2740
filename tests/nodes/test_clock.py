"""The time that nodes share, measured with answers that take their time."""

from __future__ import annotations

import random

import pytest
from busway.gateway.nodes.clock import CellClock

SECOND = 1_000_000


class Times:
    """A monotonic clock, the clock of this machine, and that of the database, moved by hand."""

    def __init__(self, behind: int) -> None:
        self.passed, self.behind = 5 * SECOND, behind

    def monotonic(self) -> int:
        return self.passed * 1000

    def own(self) -> int:
        return 10**15 + self.passed - self.behind

    def there(self) -> int:
        return 10**15 + self.passed


@pytest.mark.parametrize("behind", [0, 3600 * SECOND, -3600 * SECOND])
def test_the_time_is_right_within_the_fastest_answer(behind: int) -> None:
    chance = random.Random(4)
    times = Times(behind)
    clock = CellClock(times.own, times.monotonic)
    assert clock() == times.own()
    fastest = SECOND
    for _ in range(50):
        sent = clock.monotonic()
        there, back = (chance.randrange(1, 400_000) for _ in range(2))
        times.passed += there
        answer = times.there()
        times.passed += back
        clock.measured(sent, answer)
        fastest = min(fastest, there + back)
        assert abs(clock() - times.there()) <= fastest
        assert abs(clock.skew() - behind) <= fastest
        times.passed += 2 * SECOND


def test_a_slow_answer_changes_nothing() -> None:
    times = Times(0)
    clock = CellClock(times.own, times.monotonic)
    clock.measured(clock.monotonic(), times.there())
    before = clock() - times.there()
    sent, answer = clock.monotonic(), times.there()
    times.passed += 60 * SECOND
    clock.measured(sent, answer)
    assert clock() - times.there() == before
    times.behind = 7 * SECOND  # somebody sets the clock of this machine
    assert clock() - times.there() == before
    assert clock.skew() == 7 * SECOND

"""New runs of a key wait until the older commits of other nodes are known."""

import pytest
from busway.domain.event import to_event
from busway.domain.handler import Handler
from busway.domain.run import Run
from busway.gateway.dispatch.early import EarlyRuns
from busway.gateway.dispatch.registry import Registry
from busway.gateway.store.port.commits import Committed

from tests.dispatch.kit import seeded
from tests.store.kit import event

ORDERED, OTHER = 1, 2


def early():
    registry = Registry()
    fields = {ORDERED: {"ordered": True}, OTHER: {}}
    registry.load(
        [
            Handler(id=n, name=f"h{n}", overrides={"target": "a:b", "events": ["t"], **more})
            for n, more in fields.items()
        ],
        [],
    )
    return EarlyRuns(registry)


def run(id_, handler=ORDERED, key="k", data=b"1", **fields):
    return Run(id=id_, event=to_event(event(data=data), id_), handler=handler, key=key, **fields)


def commit(number, **fields):
    return Committed(head=0, number=number, **fields)


def test_commits_of_two_nodes_release_runs_in_their_order():
    """Own commits come in order, and those of others in order, each at any time."""
    chance = seeded()
    for _ in range(300):
        waiting, total = early(), chance.randrange(1, 30)
        waiting.know(commit(100))
        numbers = range(101, 101 + total)
        own = {number for number in numbers if chance.random() < 0.5}
        ours, theirs = sorted(own), [number for number in numbers if number not in own]
        seen, started = {100}, []
        while ours or theirs:
            # What others wrote is applied after all older own commits.
            mine = ours and (not theirs or ours[0] < theirs[0] or chance.random() < 0.5)
            number = (ours if mine else theirs).pop(0)
            seen.add(number)
            complete = all(each in seen for each in range(100, number))
            assert waiting.know(commit(number)) is complete
            if complete:
                started += [number, *(each.id for each in waiting.ready())]
            else:
                assert waiting.hold(run(number), number)
        assert started == [*numbers]
        assert not waiting.ready()
        assert [waiting.is_stuck() for _ in range(2)] == [False, False]


def test_runs_that_have_no_place_in_an_order_do_not_wait():
    waiting = early()
    assert not waiting.hold(run(1, OTHER), 5)
    assert not waiting.hold(run(2, key=None), 5)
    assert not waiting.hold(run(3, attempt=1), 5)  # it waits again
    assert not waiting.hold(run(4, handler=9), 5)
    assert waiting.hold(run(5), 5)


@pytest.mark.parametrize("reads", [lambda waiting: waiting.clear(), lambda w: w.know(commit(9, rescan=True))])
def test_reading_the_store_again_ends_the_wait(reads):
    waiting = early()
    waiting.know(commit(1))
    assert not waiting.know(commit(9))
    waiting.hold(run(1), 9)
    assert waiting.ready() == []
    assert [waiting.is_stuck() for _ in range(2)] == [False, True]
    reads(waiting)
    assert waiting.ready() == []  # the store has it
    assert waiting.know(commit(10))
    assert [waiting.is_stuck() for _ in range(2)] == [False, False]


def test_a_run_that_has_ended_does_not_start_later():
    waiting = early()
    waiting.know(commit(1))
    waiting.know(commit(3))
    waiting.hold(run(1), 3)
    waiting.hold(run(2), 3)
    waiting.end(1)
    assert waiting.know(commit(2))
    assert [each.id for each in waiting.ready()] == [2]


def test_the_memory_of_runs_that_wait_is_bounded():
    waiting, number = early(), 0
    while not waiting.full:
        number += 1
        waiting.hold(
            Run(id=number, event=to_event(event(data=b"1" * 100_000), 1), handler=ORDERED, key="k"), 9
        )
    assert 80 <= number <= 90
    waiting.end(number)
    assert not waiting.full
    waiting.hold(run(1_000), 9)
    waiting.clear()
    assert not waiting.full

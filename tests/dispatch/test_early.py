"""New runs of a key wait until the older commits of other nodes are known."""

from busway.domain.event import to_event
from busway.domain.handler import Handler
from busway.domain.run import Run
from busway.gateway.dispatch.early import EarlyRuns
from busway.gateway.dispatch.registry import Registry

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


def run(id_, handler=ORDERED, key="k", **fields):
    return Run(id=id_, event=to_event(event(), id_), handler=handler, key=key, **fields)


def test_commits_of_two_nodes_release_runs_in_their_order():
    """Own commits come in order, and those of others in order, each at any time."""
    chance = seeded()
    for _ in range(300):
        waiting, total = early(), chance.randrange(1, 30)
        waiting.know(100)
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
            assert waiting.know(number) is complete
            if complete:
                started += [number, *(each.id for each in waiting.ready())]
            else:
                assert waiting.hold(run(number), number)
        assert started == [*numbers]
        assert not waiting.runs


def test_runs_that_have_no_place_in_an_order_do_not_wait():
    waiting = early()
    assert not waiting.hold(run(1, OTHER), 5)
    assert not waiting.hold(run(2, key=None), 5)
    assert not waiting.hold(run(3, attempt=1), 5)  # it waits again
    assert not waiting.hold(run(4, handler=9), 5)
    assert waiting.hold(run(5), 5)
    assert [*waiting.runs] == [5]


def test_reading_the_store_ends_the_wait():
    waiting = early()
    waiting.know(1)
    assert not waiting.know(9)
    waiting.hold(run(1), 9)
    assert waiting.ready() == []
    assert [waiting.is_stuck() for _ in range(2)] == [False, True]
    waiting.know_all()
    assert [each.id for each in waiting.ready()] == [1]
    assert waiting.know(10)
    assert [waiting.is_stuck() for _ in range(2)] == [False, False]

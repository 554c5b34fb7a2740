"""An attempt that published many events is settled in steps. Until then it is in flight."""

from __future__ import annotations

import asyncio

import pytest
from busway.domain.run import Error
from busway.gateway.attempts import recorder
from busway.gateway.executors.port import Published
from busway.gateway.store.port.operations import Cancel
from busway.gateway.store.port.reader import EventQuery

from tests.dispatch.kit import Hands, gateway, until


def published(count, type_="many.child"):
    return [Published(f"{type_}.{n}", b"%d" % n, False, {}) for n in range(count)]


async def running(made, hands):
    """Have the run of one event started, and return its assignment."""
    await made.publish(made.event("one"))
    await until(lambda: hands.taken)
    ((_, assignment),) = hands.taken.items()
    return assignment


async def stored(made):
    return [e.type for e in await made.reader.events(EventQuery(type="many.**"), 100_000)]


@pytest.mark.parametrize("count", [1, recorder.FEW, recorder.FEW + 1, 3 * recorder.STEP])
def test_what_it_published_is_stored_with_its_outcome(tmp_path, count):
    async def claim():
        hands = Hands()
        async with gateway(tmp_path / "busway.db", hands, one={"events": ["one.**"]}) as made:
            assignment = await running(made, hands)
            made.end(assignment, published=published(count))
            assert assignment.run in made.in_flight.runs
            assert (assignment.token in made.in_flight.live) is (count > recorder.FEW)
            await made.recorder.prepared()
            await made.commits.drained()
            await until(lambda: not made.in_flight.runs)
            assert await stored(made) == [f"many.child.{n}" for n in range(count)][::-1]
            record, _ = await made.reader.run(assignment.run)
            assert record.state == "succeeded"

    asyncio.run(claim())


def test_one_that_is_cancelled_meanwhile_publishes_nothing(tmp_path, monkeypatch):
    async def claim():
        hands = Hands()
        async with gateway(tmp_path / "busway.db", hands, one={"events": ["one.**"]}) as made:
            assignment = await running(made, hands)
            cancelling = made.commits.change(
                Cancel(runs=[assignment.run], error=Error("Cancelled", "by the test"), now=made.now)
            )
            monkeypatch.setattr(recorder, "STEP", 1)  # so many steps that the commit comes between them
            made.end(assignment, published=published(10_000))
            await cancelling
            assert made.recorder._preparing == 1
            await made.recorder.prepared()
            await made.commits.drained()
            assert await stored(made) == []
            record, _ = await made.reader.run(assignment.run)
            assert record.state == "cancelled"
            table = made.in_flight
            assert [*table.runs, *table.live, *table.lingering] == []

    asyncio.run(claim())


def test_one_that_published_too_many_fails(tmp_path):
    async def claim():
        hands = Hands()
        async with gateway(
            tmp_path / "busway.db", hands, one={"events": ["one.**"], "max_attempts": 1}
        ) as made:
            assignment = await running(made, hands)
            made.end(assignment, published=published(recorder.MAX_PUBLISHED + 1))
            await made.recorder.prepared()
            await made.commits.drained()
            record, _ = await made.reader.run(assignment.run)
            assert record.state == "dead"
            assert "10000 events" in record.error.message
            assert await stored(made) == []

    asyncio.run(claim())

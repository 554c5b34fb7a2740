"""The queues of group commit: what is in a batch, and in which order."""

import asyncio

from busway.gateway.store.group import queues
from busway.gateway.store.port.operations import Append, Settle

from tests.store.kit import append, event, publish, settle


def test_outcomes_precede_events_that_were_published_earlier():
    waiting = queues.Queues()
    loop = asyncio.new_event_loop()
    for operation in (publish(event()), publish(event())):
        waiting.add_change(queues.QueuedOperation(operation, b"", loop.create_future()))
    waiting.outcomes.add(queues.QueuedOperation(settle(1), b"", loop.create_future()))
    outcomes, changes = waiting.take()
    assert [type(entry.operation) for entry in outcomes] == [Settle]
    assert len(changes) == 2
    loop.close()


def test_a_batch_is_bounded_but_never_empty():
    line = queues.Queues()
    loop = asyncio.new_event_loop()
    for size in (queues.BATCH_BYTES + 1, 1, queues.BATCH_BYTES, 1):
        line.outcomes.add(queues.QueuedOperation(append(1, 0), b"x" * size, loop.create_future()))
    assert [len(line.take()[0]) for _ in range(3)] == [1, 1, 1]
    assert [type(entry.operation) for entry in line.take()[0]] == [Append]
    assert not line
    loop.close()

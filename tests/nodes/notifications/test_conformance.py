"""What holds for notifications over PostgreSQL and over NATS."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from .kit import OverNats, OverPostgres, run, until

SEED = int(os.environ.get("BUSWAY_TEST_SEED", "20261128"))
Adapter = OverPostgres | OverNats


def test_what_one_node_tells_all_others_hear(adapter: Adapter) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(adapter.node(adapter.port)) for _ in range(3)]
            for number, node in enumerate(nodes):
                before = [each.heard for each in nodes]
                await adapter.tell(node, number)
                for other, heard in zip(nodes, before, strict=True):
                    if other is not node:
                        await until(lambda other=other, heard=heard: other.heard > heard)

    run(main())


@pytest.mark.long
@pytest.mark.parametrize("lost", [1.0, 0.5])
def test_lost_repeated_late_and_reordered_ones_do_no_harm(adapter: Adapter, lost: float) -> None:
    print("BUSWAY_TEST_SEED", SEED)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            relay = stack.enter_context(adapter.relay(adapter.port, lost, SEED))
            node = await stack.enter_async_context(adapter.node(relay.port))
            other = await stack.enter_async_context(adapter.node(adapter.port))
            await until(lambda: node.quiet)
            before = node.heard
            for number in range(30):
                passed = relay.notifications
                await adapter.tell(other, number)
                await until(lambda passed=passed: relay.notifications > passed)
            if lost < 1:
                await until(lambda: node.heard > before)
            quiet = node.quiet
            await until(lambda: node.quiet > quiet)  # it looks by itself
            assert (node.heard > before) is (lost < 1)

    run(main())


def test_a_node_hears_again_after_its_connection_broke(adapter: Adapter) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            relay = stack.enter_context(adapter.relay(adapter.port, 0.0, SEED))
            node = await stack.enter_async_context(adapter.node(relay.port))
            other = await stack.enter_async_context(adapter.node(adapter.port))
            for number in range(3):
                relay.cut()
                before, passed = node.heard, relay.notifications
                while relay.notifications == passed or node.heard == before:
                    await adapter.tell(other, number)
                    await asyncio.sleep(0.05)

    run(asyncio.wait_for(main(), 60))

"""Events about subscribers that lag."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from busway.contract.frames import Selects
from busway.domain.handler import Handler
from busway.gateway.access.scopes import OPEN
from busway.gateway.dispatch.registry import Registry
from busway.gateway.store.port.reader import EventQuery
from busway.gateway.subscribers import lagging
from busway.gateway.subscribers.lagging import EVERY, LONG, LagReports
from busway.gateway.subscribers.selection import select
from busway.gateway.subscribers.session import Subscription

from tests.subscribers.kit import store


class Deaf:
    """The other end of a subscription that takes nothing."""

    access = OPEN

    def push(self, *_: object) -> bool:
        return False

    def lag(self, _: object) -> None:
        pass

    def close(self, *_: object, flush: bool) -> None:
        pass


@pytest.mark.parametrize("asked", [True, False])
def test_a_subscription_that_lags_is_reported_once_until_it_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr(lagging, "BEHIND", 3)
    rules = Registry()
    pattern = "busway.subscriber.*" if asked else "**"
    rules.take([Handler(id=1, name="invoice", overrides={"target": "a:b", "events": [pattern]})])

    async def main() -> list[object]:
        async with store(tmp_path) as one:
            now = 1_000_000_000_000_000
            reports = LagReports(one.hub, rules, one.commits, lambda: now, "web1")
            slow, slower = Subscription("slow", select(Selects())), Subscription("slower", select(Selects()))
            for each in (slow, slower):
                each.open = True
                one.hub.watch(each, Deaf())
            await one.produce(4)
            slow.position = 1
            for step in (0, LONG - 1, 1, 1, EVERY, 1, EVERY, LONG):
                now += step
                reports.look()
            slower.position = 4
            reports.look()
            slower.position = 0
            for step in (1, LONG):
                now += step
                reports.look()
            slower.open = slow.open = False
            await one.produce(1)  # what was published before is stored now
            query = EventQuery(type="busway.**", source="/busway")
            found = await one.reader.events(query, 100)
            return [msgspec.json.decode(event.data or b"") for event in reversed(found)]

    expected = [
        {"node": "web1", "subscription": name, "durable": None, "behind": behind, "lagging": 2}
        for name, behind in (("slower", 4), ("slow", 3), ("slower", 4))
    ]
    assert asyncio.run(main()) == (expected if asked else [])

"""Large bodies are matched and encoded slice by slice, and handlers may change meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from busway.domain.handler import Handler
from busway.gateway.dispatch.registry import Registry
from busway.gateway.ingest.publisher import LARGE, EventWaiter, Publisher
from busway.gateway.turns import Turns

from tests.store.databases import SQLite
from tests.store.kit import NOW, committing


def handler(number: int, subject: str, *, deleted: bool = False) -> Handler:
    filter_ = {"all": [{"exact": {"subject": subject}}, {"exact": {"data.n": 1}}]}
    fields = {"target": "a:b", "events": ["t"], "filter": filter_}
    return Handler(id=number, name=f"h{number}", overrides=fields, deleted=deleted)


EVENTS = [
    {"type": "t", "subject": f"s{n % 4}", "data": {"n": n % 2, "long": "x" * 500}, "at": f"a{n}"}
    for n in range(1500)
]


@pytest.mark.parametrize("after", [0, 1, 7, 20, 10_000])
def test_all_events_are_matched_with_the_handlers_in_force_at_the_end(tmp_path: Path, after: int) -> None:
    body = msgspec.json.encode(EVENTS)
    assert len(body) > LARGE

    async def scenario() -> None:
        async with committing(SQLite(tmp_path, tmp_path)) as commits:
            committed = []
            commits.listen(committed.append)
            rules = Registry()
            rules.load([handler(1, "s1"), handler(2, "s2")], [])
            publisher = Publisher(commits, rules, lambda: NOW, 1 << 20, Turns())
            publisher.closed = None
            waiter = EventWaiter(asyncio.get_running_loop().create_future())
            change = [handler(1, "s1", deleted=True), handler(3, "s3")]
            at = 0
            for at, _ in enumerate(publisher._steps(body, waiter)):
                if at == after:
                    rules.take(change)
            assert at > 20
            stored = await waiter.stored
            while sum(len(each.runs) for each in committed) < 375:
                await asyncio.sleep(0.01)
            runs = [run for each in committed for run in each.runs]
            wanted = ("s3", 3) if after < at else ("s1", 1)
            assert {(run.event.subject, run.handler) for run in runs} == {wanted}
            for run in runs:
                sent = EVENTS[run.event.seq - 1]
                assert run.event.attributes == {"at": sent["at"]}
                assert msgspec.json.decode(run.event.data) == sent["data"]
            assert [one.seq for one in stored] == [*range(1, 1501)]
            assert [len(new.handlers) for new in waiter.events] == [
                int(event["subject"] == wanted[0]) for event in EVENTS
            ]

    asyncio.run(scenario())

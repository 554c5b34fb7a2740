"""Sources of webhooks."""

import asyncio

from busway.domain.source import Source
from busway.gateway.store.port.sources import DeleteSource, SaveSource

from tests.store.kit import NOW, reading


def source(name="repo", **fields):
    usual = {
        "kind": "hmac",
        "secret": "s e c r e t",
        "type": "shop.{event}",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Source(name=name, **{**usual, **fields})


FULL = source(
    "full", previous_secret="ä\U0001f600'\"", previous_until=NOW + 5, filter={"exact": {"data.a": None}},
    signature_header="x-s", id_header="x-i", paused=True, description="two\nlines\x00",
)  # fmt: skip


def test_sources_are_listed_by_name_with_all_fields(store):
    assert store.read("sources") == []
    assert store.write(SaveSource(source=source()), SaveSource(source=FULL)) == [True, True]
    assert store.read("sources") == [FULL, source()]


def test_a_source_is_replaced_only_as_it_was_seen(store):
    later, other = source(updated_at=NOW + 1), source(updated_at=NOW + 1, paused=True)
    replies = store.write(
        SaveSource(source=source()), SaveSource(source=source(type="taken")),
        SaveSource(source=later, seen=NOW), SaveSource(source=other, seen=NOW),
        SaveSource(source=source("gone"), seen=NOW),
    )  # fmt: skip
    assert replies == [True, False, True, False, False]
    assert store.read("sources") == [later]


def test_a_deleted_source_is_gone(store):
    replies = store.write(SaveSource(source=source()), DeleteSource(name="repo"), DeleteSource(name="repo"))
    assert replies == [True, True, False]
    assert store.read("sources") == []


def test_a_command_reads_what_was_written(database):
    assert database.apply(SaveSource(source=FULL)) is True

    async def sources():
        async with reading(database) as reader:
            return await reader.sources()

    assert asyncio.run(sources()) == [FULL]

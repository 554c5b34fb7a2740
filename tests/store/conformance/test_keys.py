"""API keys, and commands that write while a gateway does."""

import asyncio

import pytest
from busway.gateway.errors import Conflict
from busway.gateway.store.port.operations import CreateKey, RevokeKey
from busway.gateway.store.port.reader import KeyRecord

from tests.store.kit import NOW, committing, event, publish, reading


def key(name="k", digest=b"d", **fields):
    return CreateKey(name=name, digest=digest, scopes=["admin", "publish"], now=NOW, **fields)


def record(id_, name="k", digest=b"d", expires_at=None, revoked_at=None):
    return KeyRecord(
        id=id_, name=name, digest=digest, scopes=["admin", "publish"], created_at=NOW, expires_at=expires_at,
        revoked_at=revoked_at,
    )  # fmt: skip


def test_keys_are_listed_oldest_first_with_all_fields(store):
    assert store.read("keys") == []
    assert store.write(key("b"), key("b", b"\x00\xff" * 16, expires_at=NOW + 5)) == [1, 2]
    assert store.read("keys") == [record(1, "b"), record(2, "b", b"\x00\xff" * 16, NOW + 5)]


def test_a_digest_exists_once(store):
    store.write_one(key())
    first, second, third = store.write(key("other"), key("third", b"e"), key("fourth", b"e"))
    assert isinstance(first, Conflict)
    assert isinstance(third, Conflict)
    assert [(known.name, known.id) for known in store.read("keys")] == [("k", 1), ("third", second)]


def test_a_revoked_key_keeps_the_time_of_its_first_revocation(store):
    store.write(key(), key("other", b"e"))
    assert store.write(RevokeKey(id=1, now=NOW + 1), RevokeKey(id=1, now=NOW + 2)) == [True, True]
    assert store.write_one(RevokeKey(id=99, now=NOW + 1)) is False
    assert store.read("keys") == [record(1, revoked_at=NOW + 1), record(2, "other", b"e")]


def test_a_command_creates_and_revokes_keys(database):
    number = database.apply(key())
    with pytest.raises(Conflict):
        database.apply(key("other"))
    assert database.apply(RevokeKey(id=number, now=NOW + 1)) is True
    assert database.apply(RevokeKey(id=99, now=NOW + 1)) is False

    async def keys():
        async with reading(database) as reader:
            return await reader.keys()

    assert asyncio.run(keys()) == [record(number, revoked_at=NOW + 1)]


def test_commands_write_while_a_gateway_writes(database):
    async def main():
        async with committing(database) as commits:
            going = asyncio.Event()
            stored = []

            async def load():
                while not going.is_set():
                    stored.extend(await commits.publish(publish(event())))

            loading = asyncio.create_task(load())
            for n in range(5):
                await asyncio.to_thread(database.apply, key(digest=b"%d" % n))
            going.set()
            await loading
            assert commits.healthy
            assert [one.seq for one in stored] == list(range(1, len(stored) + 1))
            async with reading(database) as reader:
                assert len(await reader.keys()) == 5
                assert await reader.totals() == (len(stored), 0)

    asyncio.run(main())

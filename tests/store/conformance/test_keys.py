"""API keys, and commands that write while a gateway does."""

import asyncio

import pytest
from busway.gateway.errors import Conflict
from busway.gateway.store.port.keys import RotateKey, UseKeys
from busway.gateway.store.port.operations import CreateKey, RedeemTicket, RevokeKey
from busway.gateway.store.port.reader import KeyRecord

from tests.store.kit import NOW, committing, event, publish, reading


def key(name="k", digest=b"d", **fields):
    return CreateKey(name=name, digest=digest, scopes=["admin", "publish"], now=NOW, **fields)


def record(id_, name="k", digest=b"d", expires_at=None, revoked_at=None, **fields):
    return KeyRecord(
        id=id_, name=name, digest=digest, scopes=["admin", "publish"], created_at=NOW, expires_at=expires_at,
        revoked_at=revoked_at, **fields,
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


def test_a_key_has_type_patterns(store):
    store.write_one(key(types=["order.**", "bill"]))
    assert store.read("keys") == [record(1, types=["order.**", "bill"])]


def test_a_rotated_key_expires_at_the_end_of_the_overlap_or_earlier(store):
    store.write(key(), key("soon", b"e", expires_at=NOW + 5), key("out", b"f"), RevokeKey(id=3, now=NOW))
    until = NOW + 9
    replies = store.write(
        RotateKey(id=1, until=until, key=key(digest=b"g", types=["a"])),
        RotateKey(id=2, until=until, key=key("soon", b"h", expires_at=NOW + 99)),
        RotateKey(id=3, until=until, key=key("out", b"i")),
        RotateKey(id=99, until=until, key=key("out", b"j")),
    )
    assert replies == [4, 5, None, None]
    assert store.read("keys") == [
        record(1, expires_at=until),
        record(2, "soon", b"e", NOW + 5),
        record(3, "out", b"f", revoked_at=NOW),
        record(4, digest=b"g", types=["a"]),
        record(5, "soon", b"h", NOW + 99),
    ]
    later = CreateKey(name="late", digest=b"k", scopes=[], now=NOW + 9)
    assert store.write_one(RotateKey(id=1, until=NOW + 20, key=later)) is None


def test_the_last_use_of_a_key_is_recorded_once_a_minute(store):
    store.write(key(), key("other", b"e"))
    minute = 60_000_000

    def used(ids, at):
        assert store.write_one(UseKeys(ids=ids, now=NOW + at)) is None
        return [each.last_used_at and each.last_used_at - NOW for each in store.read("keys")]

    assert used([1], 5) == [5, None]
    assert used([1, 2, 99], 5 + minute - 1) == [5, 5 + minute - 1]
    assert used([1, 2], 5 + minute) == [5 + minute, 5 + minute - 1]


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


def test_a_ticket_is_used_once_and_forgotten_when_it_has_expired(store):
    first = RedeemTicket(id="a", until=NOW + 60, now=NOW)
    assert store.write(first, first, RedeemTicket(id="b", until=NOW + 90, now=NOW)) == [True, False, True]
    assert store.write_one(RedeemTicket(id="a", until=NOW + 60, now=NOW + 60)) is False
    assert store.write_one(RedeemTicket(id="c", until=NOW + 120, now=NOW + 61)) is True
    assert store.write_one(RedeemTicket(id="a", until=NOW + 60, now=NOW + 61)) is True
    assert store.write_one(RedeemTicket(id="b", until=NOW + 90, now=NOW + 61)) is False

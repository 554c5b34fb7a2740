"""Ring, items, and the hub's order when commits tell only part of what they changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from busway.contract.frames import Selects
from busway.contract.results import Item, ItemError, ItemList
from busway.domain import times
from busway.domain.result import Kind, Result, ResultEvent
from busway.gateway.access.scopes import OPEN
from busway.gateway.errors import BadCursor, BadSubscription, Gone
from busway.gateway.store.port.commits import Committed
from busway.gateway.subscribers.asyncapi import document
from busway.gateway.subscribers.encoding import encode_item
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.page import last_page, results_page
from busway.gateway.subscribers.ring import PIECE_BYTES, Piece, Ring, cut
from busway.gateway.subscribers.selection import Selection, select
from busway.gateway.subscribers.session import Open, Session, Subscription
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.subscribers.kit import number, store, until
from tests.subscribers.test_session import EPOCH, entry

texts = st.text(min_size=1, max_size=20)
origins = st.builds(ResultEvent, st.integers(1, 10**9), texts, texts, texts, st.none() | texts, texts)
results = st.builds(
    Result,
    number=st.integers(1, 10**15),
    kind=st.sampled_from(list(Kind)),
    event=origins,
    handler=texts,
    revision=st.integers(1, 99),
    run=st.integers(1, 10**9),
    attempt=st.integers(1, 99),
    index=st.none() | st.integers(0, 99),
    data=st.none() | st.sampled_from([b"null", b'{"a": "\xc3\xa9"}', b"[1, 2.50]"]),
    binary=st.booleans(),
    error=st.none() | st.tuples(texts, texts),
    completes=st.none() | st.just(b'{"succeeded":1}'),
    replay=st.integers(-99, 99),
    time=st.integers(0, 4_000_000_000_000_000),
)


@given(results)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_the_fast_encoder_writes_the_item_of_the_contract(one: Result) -> None:
    written = encode_item(one, EPOCH)
    value = "data_base64" if one.binary and one.data is not None else "data"
    assert json.loads(written).keys() == {*Item.__struct_fields__} - {"data", "data_base64"} | {value}
    read = msgspec.json.decode(written, type=Item)
    assert (read.cursor, read.kind, read.event) == (one.cursor(EPOCH), one.kind, one.event)
    assert (read.handler, read.revision, read.run) == (one.handler, one.revision, one.run)
    assert (read.attempt, read.index, read.replay) == (one.attempt, one.index, abs(one.replay) or None)
    assert read.data == (one.data if value == "data_base64" or one.data is None else json.loads(one.data))
    assert read.error == (ItemError(*one.error) if one.error else None)
    assert read.completes == (json.loads(one.completes) if one.completes else None)
    assert times.from_text(read.time) == one.time


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.integers(1, 60_000))
@settings(derandomize=True, deadline=None)
def test_the_ring_holds_the_newest_within_its_bytes(sizes: list[int], room: int) -> None:
    ring = Ring(room, 0)
    for n, size in enumerate(sizes, 1):
        ring.append(entry(n, data=b"1" * size))
    held = [entry.result.number for entry in ring.after(ring.first - 1, 100)]
    assert held == list(range(ring.first, len(sizes) + 1))
    assert ring.bytes <= room
    assert all(ring.position(n) == entry(n).result.position for n in held)
    assert ring.position(ring.first - 1) is None


@given(st.lists(st.integers(0, 90_000), min_size=1, max_size=20))
@settings(derandomize=True, deadline=None)
def test_pieces_cover_everything_and_are_small_unless_one_item(sizes: list[int]) -> None:
    entries = [entry(n, data=b'"' + b"x" * size + b'"') for n, size in enumerate(sizes, 1)]
    after, got = 0, []
    while after < len(entries):
        piece = cut(after, entries[after:], lambda _: True, EPOCH)
        frame = json.loads(piece.frame("s"))
        assert len(frame["items"]) == 1 or piece.size <= PIECE_BYTES
        got += [i["event"]["seq"] for i in frame["items"]]
        after = piece.until.number
    assert got == list(range(1, len(sizes) + 1))


def test_equal_selections_are_one_value() -> None:
    one = select(Selects(types=["b.*", "a.*", "a.*"], kinds=["dead", "failed"]))
    assert one == select(Selects(types=["a.*", "b.*"], kinds=["failed", "dead"]))
    assert select(Selects(types=["a", "**"])) == Selection()


class Listener:
    """Takes pieces as a connection with a free socket does; `free` False is a slow one."""

    access = OPEN

    def __init__(self, hub: Hub, **fields: Any) -> None:
        self.hub = hub
        self.session = Session(OPEN, hub.epoch)
        effect = self.session.subscribe({"id": "s1", **fields})
        assert isinstance(effect, Open)
        self.subscription, self.after = effect.subscription, effect.after
        self.free = True
        self.got: list[int] = []

    async def open(self) -> None:
        self.session.opened(self.subscription, await self.hub.locate(self.after))
        if not self.hub.join(self.subscription, self):
            await self.catch_up()

    async def catch_up(self) -> None:
        while not self.hub.join(self.subscription, self):
            piece = await self.hub.read(self.subscription)
            assert piece is not None
            self.take(piece)

    def take(self, piece: Piece) -> None:
        frame = json.loads(self.session.deliver(self.subscription, piece) or "")
        self.got += [i["event"]["seq"] for i in frame["items"]]

    def push(self, subscription: Subscription, piece: Piece) -> bool:
        if self.free:
            self.take(piece)
        return self.free

    def lag(self, subscription: Subscription) -> None:
        self.lagging = True

    def close(self, code: int, reason: str, *, flush: bool) -> None:
        raise AssertionError(reason)


def test_what_a_commit_does_not_tell_is_read_before_anything_later(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there:
            await there.produce(60)
            log = await there.reader.results_with_events(0, 100, 1 << 20)
            hub = Hub(there.reader, there.commits.epoch, there.hub.durables)
            await hub.start()
            hub.latest = (await there.reader.log_bounds())[1]  # as if it had started before all of them
            hub._ring = Ring(1 << 20, 0)
            listener = Listener(hub)
            await listener.open()
            told = [
                (log[:5], 5),
                ([], 7),
                (log[8:10], 10),
                (log[10:20], 25),
                (log[20:30], 30),
                (log[30:], 60),
            ]
            for some, head in told:
                hub.committed(Committed(results=list(some), head=head))
            await until(lambda: hub.latest.number == 60)
            assert listener.got == list(range(1, 61))

    asyncio.run(claim())


@pytest.mark.parametrize("ring_bytes", [1, 20_000, 1 << 20])
def test_from_catch_up_to_live_nothing_is_lost_or_repeated(tmp_path: Path, ring_bytes: int) -> None:
    async def claim() -> None:
        async with store(tmp_path, ring_bytes) as there:
            await there.produce(30)
            listener = Listener(there.hub, after="earliest")
            await listener.open()
            for round_ in range(12):
                listener.free = round_ % 3 != 1
                await there.produce(20)
                await until(lambda: there.hub.latest.number == 50 + 20 * round_)  # noqa: B023
                if round_ % 3 == 2:
                    await listener.catch_up()
            assert listener.got == list(range(1, 271))

    asyncio.run(claim())


def test_a_commit_that_does_not_concern_a_group_costs_it_nothing(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there:
            listener = Listener(there.hub, correlationid="mine")
            await listener.open()
            await there.produce(50, correlationid="theirs")
            await there.produce(2, correlationid="mine")
            await until(lambda: listener.got == [51, 52])
            there.hub.leave(listener.subscription)
            assert there.hub._groups == {None: {}}

    asyncio.run(claim())


def test_pages_follow_one_another_without_gap_or_repeat(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there:
            await there.produce(10, "order.created")
            await there.produce(10, "user.created")
            await there.produce(3, "order.created")
            after, got = None, []
            while True:
                page = await results_page(there.hub, {"types": ["order.*"]}, after=after, limit=4)
                got += [decode(i)["event"]["seq"] for i in page.items]
                after = page.cursor
                if page.next is None:
                    break
            assert got == [*range(1, 11), 21, 22, 23]
            assert number(page.cursor) == 23
            await there.produce(1)
            page = await results_page(there.hub, after=page.cursor)
            assert [decode(i)["event"]["seq"] for i in page.items] == [24]

    asyncio.run(claim())


def seqs_of(page: ItemList) -> list[int]:
    return [decode(item)["event"]["seq"] for item in page.items]


@pytest.mark.parametrize("size", [10, 100_000])
def test_the_last_results_are_found_from_the_end(tmp_path: Path, size: int) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there:
            data = b'"' + b"x" * size + b'"'
            await there.produce(10, "order.created", data=data, correlationid="mine")
            await there.produce(10, "user.created", data=data)
            page = await last_page(there.hub, last=3)
            assert (seqs_of(page), number(page.cursor), number(page.next)) == ([18, 19, 20], 20, 17)
            page = await last_page(there.hub, last=3, before=page.next)
            assert seqs_of(page) == [15, 16, 17]
            for wanted in (
                {"types": ["order.*"]},
                {"correlationid": "mine"},
                {"filter": {"exact": {"type": "order.created"}}},
            ):
                page = await last_page(there.hub, wanted, last=4)
                assert (seqs_of(page), number(page.cursor)) == ([7, 8, 9, 10], 20)
                assert seqs_of(await results_page(there.hub, wanted)) == [*range(1, 11)]
            page = await last_page(there.hub, last=1000)
            assert (seqs_of(page), page.next) == ([*range(1, 21)], None)
            await there.produce(1)
            assert seqs_of(await results_page(there.hub, after=page.cursor)) == [21]
            with pytest.raises(Gone):
                await last_page(there.hub, last=1, before=f"{'0' * 16}-3-00000000")

    asyncio.run(claim())


def test_the_last_results_of_an_empty_log_are_none(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there:
            page = await last_page(there.hub, last=3)
            assert (page.items, page.next, number(page.cursor)) == ([], None, 0)

    asyncio.run(claim())


def test_a_page_after_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there:
            await there.produce(3)
            good = (await results_page(there.hub)).cursor
            epoch, _, digest = good.split("-")
            for bad in (f"{'0' * 16}-3-{digest}", f"{epoch}-2-{digest}", f"{epoch}-4-{digest}"):
                with pytest.raises(Gone):
                    await results_page(there.hub, after=bad)
            with pytest.raises(BadCursor):
                await results_page(there.hub, after="3")
            with pytest.raises(BadSubscription):
                await results_page(there.hub, {"kinds": ["all"]})

    asyncio.run(claim())


def decode(raw: msgspec.Raw) -> Any:
    return msgspec.json.decode(raw)


def test_the_examples_of_the_asyncapi_document_are_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    whole = document()
    for message in whole["components"]["messages"].values():
        schema = {**message["payload"], "components": whole["components"]}
        for example in message["examples"]:
            jsonschema.validate(example["payload"], schema)

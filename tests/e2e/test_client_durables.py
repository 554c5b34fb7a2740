"""Durable and filtered subscriptions through the Python clients, on a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator

import pytest
from busway import BuswayClientError, Client, SyncClient

from .disturbance import END, HANDLERS, Cutter, Disturbance
from .linear import exactly
from .service import PATIENCE, Service, join


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("durables"))
    service.write("life.py", HANDLERS)
    yield service.start()
    service.close()


async def follow(url: str, got: list[str], connected: threading.Event) -> None:
    async with Client(url) as client, asyncio.timeout(4 * PATIENCE):
        subscription = client.subscribe(durable="steady", after="earliest")
        await subscription.open()
        connected.set()
        async for item in subscription:
            got.append(item.cursor)
            if item.event.type == END:
                return


def follow_in_parts(url: str, got: list[str], repeats: list[int], seed: int) -> None:
    """Take a few items, end, come back under the same name; what was not acknowledged comes again."""
    lengths = random.Random(seed)
    ended = False
    while not ended:
        with contextlib.suppress(BuswayClientError), SyncClient(url) as client:  # the gateway may be away
            ended = take(client, lengths.randint(2, 40), got, repeats)


def take(client: SyncClient, count: int, got: list[str], repeats: list[int]) -> bool:
    with client.subscribe(durable="parts", after="earliest") as results:
        for _ in range(count):
            item = next(results)
            if item.cursor in got:
                repeats.append(len(got) - got.index(item.cursor))
                continue
            got.append(item.cursor)
            if item.event.type == END:
                return True
    return False


@pytest.mark.long
def test_a_durable_name_goes_on_through_kills_and_cuts(service: Service) -> None:
    steady: list[str] = []
    parts: list[str] = []
    repeats: list[int] = []
    connected = threading.Event()
    with Cutter(int(service.options["port"])) as relay:
        life = Disturbance(service, relay)
        followers = [
            threading.Thread(target=lambda: asyncio.run(follow(relay.url, steady, connected))),
            threading.Thread(target=follow_in_parts, args=(service.url, parts, repeats, life.seed)),
        ]
        try:
            for follower in followers:
                follower.start()
            assert connected.wait(PATIENCE)  # a first connection that fails is an error
            life.run(6)
        finally:
            join(followers, steady, parts, repeats)
    log = [item["cursor"] for item in service.results()]
    exactly(log, steady, "the durable client")
    exactly(log, parts, "the client that comes back under its name, without what it was given again,")
    assert 1 in repeats, "an item in hand was not given again"


def test_a_filter_speaks_of_the_event(service: Service) -> None:
    with SyncClient(service.url) as client:
        begin = client.subscribe("order.*").open().cursor
        for n in range(20):
            client.publish("order.picked", {"n": n}, subject="even" if n % 2 == 0 else "odd")
        wanted = {"all": [{"exact": {"subject": "even"}}, {"not": {"exact": {"data.n": 0}}}]}
        with client.subscribe("order.*", kinds=["partial"], filter=wanted, after=begin) as results:
            assert sorted(next(results).data["n"] for _ in range(9)) == list(range(2, 20, 2))


def test_a_name_that_is_taken_over_is_said(service: Service) -> None:
    with SyncClient(service.url) as one, SyncClient(service.url) as other:
        first = one.subscribe(durable="mine").open()
        other.subscribe(durable="mine").open()
        with pytest.raises(BuswayClientError, match="mine"):
            next(first)

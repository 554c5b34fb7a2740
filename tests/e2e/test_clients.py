"""`busway.Client` and `busway.SyncClient` on a real gateway: what they receive is exactly the log."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from busway import BuswayClientError, Client, SyncClient
from busway.client.aio import Completed, Item, NotCompleted

from .disturbance import END, HANDLERS, Cutter, Disturbance
from .linear import exactly
from .service import PATIENCE, Service, join

MORE = """
import time
from busway import Context, handler

@handler("tree.root")
def root(event, ctx: Context):
    for n in range(3):
        ctx.publish("tree.leaf", {"n": n})
    return "root"

@handler("tree.leaf")
def leaf(event): return event.data["n"]

@handler("slow")
def slow(event):
    time.sleep(30)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("clients"))
    service.write("life.py", HANDLERS)
    service.write("more.py", MORE)
    yield service.start()
    service.close()


def is_end(item: Item) -> bool:
    return item.event.type == END


async def follow(url: str, got: list[str], *types: str) -> None:
    async with Client(url) as client, asyncio.timeout(4 * PATIENCE):
        async for item in client.subscribe(*types, after="earliest"):
            got.append(item.cursor)
            if is_end(item):
                return


def follow_plainly(url: str, got: list[str]) -> None:
    with SyncClient(url) as client:
        for item in client.subscribe(after="earliest"):
            got.append(item.cursor)
            if is_end(item):
                return


@pytest.mark.long
def test_what_clients_receive_through_kills_and_cuts_is_exactly_the_log(service: Service) -> None:
    everything: list[str] = []
    orders: list[str] = []
    plainly: list[str] = []
    with Cutter(int(service.options["port"])) as relay:
        followers = [
            threading.Thread(target=lambda: asyncio.run(follow(relay.url, everything))),
            threading.Thread(target=lambda: asyncio.run(follow(relay.url, orders, "order.*", END))),
            threading.Thread(target=follow_plainly, args=(relay.url, plainly)),
        ]
        for follower in followers:
            follower.start()
        Disturbance(service, relay).run(6)
        join(followers, everything, orders, plainly)
    log = [item["cursor"] for item in service.results()]
    assert len(log) > 300
    exactly(log, everything, "the client")
    exactly(log, plainly, "the client without a loop")
    exactly(
        [item["cursor"] for item in service.results(types=["order.*", END])], orders, "the client of orders"
    )


def test_waiting_gives_all_that_came_of_an_event(service: Service) -> None:
    async def claim() -> Completed:
        async with Client(service.url) as client:
            return await client.wait("tree.root", {"x": 1}, timeout=PATIENCE, subject="s")

    done = asyncio.run(claim())
    assert (done.event.type, done.event.runs) == ("tree.root", 1)
    assert done.completes == {"succeeded": 4}
    assert sorted(str(item.data) for item in done.results) == ["0", "1", "2", "root"]


@dataclasses.dataclass
class Order:
    item: str
    total: Decimal
    due: datetime


def test_published_values_have_their_json_forms(service: Service) -> None:
    order = Order("book", Decimal("12.50"), datetime(2026, 1, 2, tzinfo=UTC))
    form = {"item": "book", "total": "12.50", "due": "2026-01-02T00:00:00Z"}
    with SyncClient(service.url) as client:
        one = client.publish("tree.order", {"orders": (order,)}, subject="s")
        two, three = client.publish_many(
            [{"type": "tree.order", "data": order}, {"type": "tree.order", "data": b"raw"}]
        )
        for wrong in ({"price": 1j}, {"price": float("nan")}, "\ud800"):
            with pytest.raises(TypeError, match=r"the event: \.data"):
                client.publish("tree.order", {"orders": [wrong]})
    stored = [service.ok("GET", f"/v1/events/{receipt.seq}") for receipt in (one, two, three)]
    assert [event.get("data") for event in stored] == [{"orders": [form]}, form, None]
    assert (stored[0]["subject"], stored[2]["data_base64"]) == ("s", "cmF3")


def test_waiting_on_a_shared_correlation_gives_only_ones_own(service: Service) -> None:
    with SyncClient(service.url) as client:
        for _ in range(3):
            client.publish("tree.root", correlationid="together")
        done = client.wait("tree.root", correlationid="together", timeout=PATIENCE)
        assert done.completes == {"succeeded": 4}
        assert len(done.results) == 4


def test_waiting_for_what_was_published_before_gives_its_results(service: Service) -> None:
    with SyncClient(service.url) as client:
        first = client.wait("tree.root", id="once", timeout=PATIENCE)
        again = client.wait("tree.root", id="once", timeout=PATIENCE)
        assert (again.event.seq, again.event.duplicate) == (first.event.seq, True)
        assert again.results == first.results


def test_waiting_for_an_event_without_handlers_ends_at_once(service: Service) -> None:
    with SyncClient(service.url) as client:
        done = client.wait("nobody.cares", timeout=PATIENCE)
        assert (done.event.runs, done.results, done.completes) == (0, [], {})


def test_waiting_has_its_time(service: Service) -> None:
    with SyncClient(service.url) as client:
        for seconds in (1, 10, 100):
            with pytest.raises(NotCompleted) as late:
                client.wait("slow", timeout=seconds)
            if late.value.event:  # a busy machine may take longer than the first times to store it
                break
        assert isinstance(late.value, TimeoutError)
        assert f"stored but was not completed within {seconds} s" in str(late.value)
        assert late.value.event
        assert service.post(f"/v1/events/{late.value.event.seq}/cancel").is_success


def test_a_cursor_is_behind_what_was_dealt_with(service: Service) -> None:
    with SyncClient(service.url) as client, client.subscribe("tree.*") as results:
        assert results.cursor is None
        results.open()
        begun = results.cursor
        client.wait("tree.root", timeout=PATIENCE)
        first, second = next(results), next(results)
        assert begun != results.cursor == first.cursor
        with client.subscribe("tree.*", after=results.cursor) as again:
            assert next(again) == second


def test_a_closed_client_ends_its_subscriptions(service: Service) -> None:
    client = SyncClient(service.url)
    results = client.subscribe("never").open()
    ended = threading.Event()

    def read() -> None:
        assert list(results) == []
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    client.close()
    assert ended.wait(PATIENCE)
    reader.join()


def test_errors_name_the_gateway_and_the_key_and_what_to_do(service: Service) -> None:
    """Last here: the first key closes the gateway to those without one."""
    service.key = service.ok("POST", "/v1/keys", {"name": "all", "scopes": ["admin"]})["key"]
    key = service.ok("POST", "/v1/keys", {"name": "p", "scopes": ["publish"]})["key"]
    _, number, secret = key.split("_", 2)  # the secret may have another "_"
    cases: list[tuple[str | None, str]] = [
        (None, "without an API key"),
        ("nonsense", "with a malformed API key"),
        (key[:-1] + "?", f"the API key bw_{number}_…"),
    ]
    for given, word in cases:
        url = service.url
        with SyncClient(url, given) as client:
            for call in (lambda c=client: c.publish("a"), lambda c=client: next(c.subscribe())):
                with pytest.raises(BuswayClientError, match=word) as refused:
                    call()
                assert url in refused.value.detail
                assert secret[:8] not in refused.value.detail
    with SyncClient(service.url, key) as client:
        client.publish("a")
        with pytest.raises(BuswayClientError, match="subscribe") as refused:
            next(client.subscribe())
        assert refused.value.code == "not_allowed"


def test_addresses_that_are_none_are_said() -> None:
    with pytest.raises(ValueError, match="http://127"):
        SyncClient("localhost:8000")
    with SyncClient("http://127.0.0.1:9") as client:
        for call in (lambda: client.publish("a"), lambda: client.wait("a"), lambda: next(client.subscribe())):
            with pytest.raises(BuswayClientError, match="busway serve"):
                call()

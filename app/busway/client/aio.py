"""The asynchronous client: publish events and subscribe to results.

async with busway.Client("http://127.0.0.1:8000") as client:
    await client.publish("order.created", {"n": 7})
    async for item in client.subscribe("order.*"):
        print(item.kind, item.data)
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx
import msgspec

from busway.client.credentials import Credentials, Key
from busway.client.errors import BuswayClientError, Gap, Gateway, describe, refusal, unreachable
from busway.client.following import NAME, Following, OnConnect, OnReconnect
from busway.client.network import address, network
from busway.client.subscription import Subscription
from busway.client.waiting import Completed, NotCompleted, seqs
from busway.contract.events import EventDetail, Receipt, ReceiptList, Tree
from busway.contract.filters import Filter
from busway.contract.frames import SubscribeFrame
from busway.contract.results import Item, ItemError
from busway.domain.event import new_id
from busway.domain.jsonvalue import encode
from busway.domain.result import ResultEvent

__all__ = [
    "BuswayClientError",
    "Client",
    "Completed",
    "Gap",
    "Item",
    "ItemError",
    "NotCompleted",
    "Receipt",
    "ResultEvent",
    "Subscription",
]

T = TypeVar("T")
OnResult = Callable[[Item], None]

MAX_BATCH = 10_000  # events per request


class Client:
    """A client for one gateway. Use it as an async context manager.

    Args:
        url: URL of the gateway, such as `http://127.0.0.1:8000`.
        key: an API key or a token, if the gateway requires one. Or a function that returns one, also a
            coroutine function. It is called before the first request, and again shortly before the token
            expires, or when the gateway refuses it. What is not a token is used for a minute. A plain
            function runs in a thread.
        timeout: seconds for one request and for opening a subscription.
        on_reconnect: called before a subscription reconnects, with the reason and the delay in seconds.
        on_connect: called each time a subscription is open, at first and after reconnecting.

    Raises:
        ValueError: the URL is invalid.
        BuswayClientError: a variable for proxies or certificates, such as HTTPS_PROXY or SSL_CERT_FILE,
            cannot be used. Loopback is always reached without a proxy.
    """

    def __init__(
        self,
        url: str,
        key: Key | None = None,
        *,
        timeout: float = 30,
        on_reconnect: OnReconnect | None = None,
        on_connect: OnConnect | None = None,
    ) -> None:
        url = address(url)
        self._network = network(url)
        text = key if isinstance(key, str) else None
        self._credentials = Credentials(key)
        self._gateway = Gateway(url, text, timeout, self._network.variable, self._credentials.renews)
        self._on_reconnect, self._on_connect = on_reconnect, on_connect
        self._http = httpx.AsyncClient(timeout=timeout, **self._network.for_httpx())
        self._following: set[Following] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        for following in list(self._following):
            await following.close()
        await self._http.aclose()

    async def publish(self, type: str, data: Any = None, **attributes: Any) -> Receipt:  # noqa: A002 (CONTRACT 3)
        """Publish one event. When this returns, the event is synced to disk.

        Args:
            type: the event's type.
            data: a value with a JSON form, or bytes.
            attributes: CloudEvents attributes and extensions (`id`, `subject`, `partitionkey`, …). Datetimes
                are converted to RFC 3339.

        Raises:
            BuswayClientError: the gateway refused the event or did not answer. Without an answer, it is
                unknown whether the event is stored. To retry safely, use the same `source` and `id`.
            TypeError: the data has no JSON form.
        """
        return await self._post(_event({**attributes, "type": type, "data": data}), Receipt)

    async def publish_many(self, events: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Publish events, each a mapping `{"type": …, "data": …, …}`.

        They are sent in batches of 10,000. Each batch is stored completely or not at all.

        Raises:
            BuswayClientError: the gateway refused a batch or did not answer.
            TypeError: the data of an event has no JSON form.
        """
        receipts: list[Receipt] = []
        for batch in _batches(_event(event) for event in events):
            receipts += (await self._post(b"[%b]" % b",".join(batch), ReceiptList)).items
        return receipts

    async def wait(
        self,
        type: str,  # noqa: A002 (as publish)
        data: Any = None,
        *,
        timeout: float = 60,
        on_result: OnResult | None = None,
        **attributes: Any,
    ) -> Completed:
        """Publish one event and wait until it is completed: all runs of its tree have ended.

        This also works for an event that is already stored (same `source` and `id`).

        Args:
            type: the event's type.
            data: a value with a JSON form, or bytes.
            timeout: seconds for the whole call.
            on_result: called with each result as it arrives. If the event has a `correlationid` of yours, or
                is already stored, other events may have it too, so it is called when the event is completed.
            attributes: CloudEvents attributes and extensions.

        Raises:
            NotCompleted: the timeout expired. It is a TimeoutError and has the results received so far.
            BuswayClientError, TypeError: as `publish`.
            Gap: as `subscribe`.
        """
        name = attributes.setdefault("id", new_id(time.time_ns() // 1000))
        shared = "correlationid" in attributes
        correlation = attributes.setdefault("correlationid", name)
        results: list[Item] = []
        receipt: Receipt | None = None
        try:
            async with asyncio.timeout(timeout), self.subscribe(correlationid=correlation) as stream:
                await stream.open()
                receipt = await self.publish(type, data, **attributes)
                if receipt.duplicate:
                    return await self._completed_before(receipt, results, on_result)
                if receipt.runs:
                    await self._collect(stream, receipt, results, on_result, shared=shared)
                return Completed(receipt, results)
        except TimeoutError:
            raise NotCompleted(receipt, results, timeout) from None

    def subscribe(
        self,
        *types: str,
        handlers: Iterable[str] = (),
        kinds: Iterable[str] = (),
        filter: Mapping[str, Any] | None = None,  # noqa: A002 (CONTRACT 3)
        correlationid: str | None = None,
        after: str | None = None,
        durable: str | None = None,
        shadow: bool = False,
    ) -> Subscription:
        """Subscribe to results. Without arguments, it selects all results from now on.

        After a lost connection the subscription reconnects and resumes after the last item, without gaps and
        without duplicates. Iterating raises the same exceptions as `Subscription.open`.

        Args:
            types: type patterns of the results' events.
            handlers: only results of these handlers.
            kinds: only these kinds of result, or `completed`.
            filter: only results of events that match this filter.
            correlationid: only results of events with this correlation id.
            after: None or "latest" (from now on), "earliest" (the oldest available), or an item's cursor.
            durable: a name under which the gateway stores the cursor. Requesting the next item acknowledges
                the previous one, so an item whose processing failed is sent again. `after` applies only to
                the first subscription with the name.
            shadow: add the results of shadow replays.
        """
        wanted = SubscribeFrame(
            id=NAME,
            types=list(types) or None,
            handlers=list(handlers) or None,
            kinds=list(kinds) or None,
            filter=cast("Filter | None", filter),  # the gateway validates it
            correlationid=correlationid,
            after=after,
            durable=durable,
            shadow=shadow or None,
        )
        following = Following(
            self._gateway,
            self._network,
            self._credentials,
            wanted,
            self._on_reconnect,
            self._on_connect,
            self._following.discard,
        )
        self._following.add(following)
        return Subscription(following)

    async def _completed_before(
        self, receipt: Receipt, results: list[Item], on_result: OnResult | None
    ) -> Completed:
        """Wait for an event that an earlier request published, from the oldest available results."""
        event = await self._ask(EventDetail, "GET", f"/v1/events/{receipt.seq}")
        if event.runs:
            async with self.subscribe(correlationid=event.correlationid, after="earliest") as stream:
                await self._collect(stream, receipt, results, on_result, shared=True)
        return Completed(receipt, results)

    async def _collect(
        self,
        stream: Subscription,
        receipt: Receipt,
        results: list[Item],
        on_result: OnResult | None,
        *,
        shared: bool,
    ) -> None:
        """Add the items of the event's tree to `results`, up to the one that completes it."""
        async for item in stream:
            results.append(item)
            if on_result and not shared:
                on_result(item)
            if item.completes is None:
                continue
            if not shared:
                return
            tree = await self._ask(Tree, "GET", f"/v1/events/{receipt.seq}/tree")
            mine = set(seqs(tree))
            if item.event.seq in mine or tree.truncated:
                results[:] = [item for item in results if item.event.seq in mine or tree.truncated]
                for each in results:
                    if on_result:
                        on_result(each)
                return

    async def _post(self, body: bytes, shape: type[T]) -> T:
        return await self._ask(shape, "POST", "/v1/events", body)

    async def _ask(self, shape: type[T], method: str, path: str, content: bytes | None = None) -> T:
        key = await self._credentials.text()
        answer = await self._send(method, path, content)
        if answer.status_code == 401 and self._credentials.refused(key):
            answer = await self._send(method, path, content)
        if not answer.is_success:
            raise refusal(self._gateway, answer.status_code, answer.content)
        try:
            return msgspec.json.decode(answer.content, type=shape)
        except msgspec.MsgspecError:
            raise refusal(self._gateway, answer.status_code, b"") from None

    async def _send(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        url = self._gateway.url
        headers = {"Content-Type": "application/json", **await self._credentials.headers()}
        try:
            return await self._http.request(method, url + path, content=content, headers=headers)
        except (httpx.ConnectError, httpx.ProxyError) as problem:
            raise unreachable(self._gateway, problem) from problem
        except (httpx.TransportError, httpx.InvalidURL) as problem:
            why = "timed out" if isinstance(problem, httpx.TimeoutException) else describe(problem)
            raise BuswayClientError(f"no answer from {url}: {why}") from problem


def _event(event: Mapping[str, Any]) -> bytes:
    """Encode an event as JSON."""
    body = {name: _attribute(value) if name != "data" else value for name, value in event.items()}
    data = body.get("data")
    if isinstance(data, bytes | bytearray | memoryview):
        del body["data"]
        body["data_base64"] = base64.b64encode(data).decode()
    return encode(body, "the event")[0]


def _attribute(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone: use datetime.now(timezone.utc)")
    return value.astimezone(UTC).isoformat()


def _batches(events: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for event in events:
        batch.append(event)
        if len(batch) == MAX_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

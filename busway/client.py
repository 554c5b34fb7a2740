"""The client: publish events and follow results from any Python program.

async with busway.Client("http://127.0.0.1:8000") as client:
    await client.publish("order.created", {"n": 7})
    async for item in client.subscribe("order.*"):
        print(item.kind, item.data)
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import httpx
import msgspec

from busway.following import Following, Item, ItemError, OnReconnect, Origin
from busway.problems import BuswayClientError, Gap, describe, refusal

__all__ = ["BuswayClientError", "Client", "Gap", "Item", "ItemError", "Origin", "Receipt"]

MAX_BATCH = 10_000  # events that one request may carry


class Receipt(msgspec.Struct, frozen=True):
    """What the gateway answers when an event is safe: its number, its names, how many runs it starts."""

    seq: int
    id: str
    source: str
    type: str
    runs: int
    duplicate: bool = False


class Client:
    """A connection to a gateway; an async context manager.

    Args:
        url: where the gateway is, such as `http://127.0.0.1:8000`.
        key: a key, if the gateway asks for one.
        timeout: seconds for one request and for opening a subscription.
        on_reconnect: told why a subscription connects again, and in how many seconds.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 30,
        on_reconnect: OnReconnect | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url is like http://127.0.0.1:8000, not {url!r}")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout
        self._on_reconnect = on_reconnect
        self._http = httpx.AsyncClient(headers=self._headers, timeout=timeout)
        self._following: set[Following] = set()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of all connections."""
        for following in list(self._following):
            await following.close()
        await self._http.aclose()

    async def publish(self, type: str, data: Any = None, **attributes: Any) -> Receipt:  # noqa: A002 (CONTRACT 3)
        """Publish one event; it is safe on disk when the receipt is there.

        `attributes` are CloudEvents attributes and extensions (`id`, `subject`, `partitionkey`, …);
        datetimes are written as RFC 3339. Data is JSON, or bytes.

        Raises:
            BuswayClientError: refused, or no answer; without an answer whether it was stored is
                unknown, and publishing it again with the same `source` and `id` stores it once.
            TypeError: the data is not JSON.
        """
        body = await self._post(_event({**attributes, "type": type, "data": data}))
        return msgspec.convert(body, Receipt)

    async def publish_many(self, events: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Publish events given as `{"type": …, "data": …, …}`; all or none of each 10,000 are stored.

        Raises:
            BuswayClientError: refused, or no answer.
            TypeError: some data is not JSON.
        """
        receipts: list[Receipt] = []
        for batch in _batches(_event(event) for event in events):
            body = await self._post(batch)
            receipts += msgspec.convert(body["items"], list[Receipt])
        return receipts

    async def subscribe(
        self,
        *types: str,
        handlers: Iterable[str] = (),
        kinds: Iterable[str] = (),
        filter: Mapping[str, Any] | None = None,  # noqa: A002 (CONTRACT 3)
        after: str | None = None,
        durable: str | None = None,
    ) -> AsyncIterator[Item]:
        """Follow results as they come; types are patterns, empty means all.

        `after`: None or "latest" from now, "earliest" from the oldest kept, or the cursor of an item.
        When the connection breaks it is made again and goes on behind the last item, without gap
        and without repeat.

        Raises:
            BuswayClientError: refused, or the gateway could not be reached in the first place.
            Gap: the place to go on from is no longer in the log.
        """
        wanted: dict[str, Any] = {"types": types, "handlers": list(handlers), "kinds": list(kinds)}
        wanted |= {"filter": filter, "durable": durable}
        address = f"ws{self._url.removeprefix('http')}/v1/subscribe"
        following = Following(address, self._headers, self._timeout, wanted, after)
        self._following.add(following)
        try:
            async for item in following.items(self._on_reconnect):
                yield item
        finally:
            self._following.discard(following)
            await following.close()

    async def _post(self, body: Any) -> Any:
        content = json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            answer = await self._http.post(
                f"{self._url}/v1/events", content=content, headers={"Content-Type": "application/json"}
            )
        except httpx.TransportError as problem:
            why = "it took too long" if isinstance(problem, httpx.TimeoutException) else describe(problem)
            raise BuswayClientError(f"no answer from {self._url}: {why}") from problem
        if answer.is_success:
            return answer.json()
        raise refusal(answer.status_code, answer.content)


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    body = {name: _attribute(value) if name != "data" else value for name, value in event.items()}
    data = body.get("data")
    if isinstance(data, bytes | bytearray | memoryview):
        del body["data"]
        body["data_base64"] = base64.b64encode(data).decode()
    return body


def _attribute(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone: use datetime.now(timezone.utc)")
    return value.astimezone(UTC).isoformat()


def _batches(events: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for event in events:
        batch.append(event)
        if len(batch) == MAX_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

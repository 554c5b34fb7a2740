"""The synchronous client: the methods of `Client` with plain `with` and `for`.

with busway.SyncClient("http://127.0.0.1:8000") as client:
    client.publish("order.created", {"n": 7})
    for item in client.subscribe("order.*"):
        print(item.kind, item.data)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from busway.client.aio import Client, OnResult
from busway.client.credentials import Key
from busway.client.following import OnConnect, OnReconnect
from busway.client.subscription import Subscription
from busway.client.waiting import Completed
from busway.contract.events import Receipt
from busway.contract.results import Item

T = TypeVar("T")


class _Loop:
    """An event loop in its own thread, which answers pings while the program does other work."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="busway-client", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and return its result. Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Stop the thread."""
        if self._loop.is_closed():
            return
        self.call(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        # Dropped iterators close their connections in their own tasks.
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)
        await self._loop.shutdown_asyncgens()

    @property
    def closed(self) -> bool:
        """Whether it is stopped."""
        return self._loop.is_closed()


class SyncSubscription:
    """An iterator of items, and a context manager that closes the connection."""

    def __init__(self, subscription: Subscription, loop: _Loop) -> None:
        self._subscription, self._loop = subscription, loop

    @property
    def cursor(self) -> str | None:
        """The cursor of the last processed item, to resume with `after`. None before it is open."""
        return self._subscription.cursor

    def open(self) -> Self:
        """Subscribe now, not at the first iteration, as `Subscription.open`."""
        self._loop.call(self._subscription.open())
        return self

    def close(self) -> None:
        """Close the connection."""
        if not self._loop.closed:
            self._loop.call(self._subscription.aclose())

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item = self._loop.call(self._next())
        if item is None:
            raise StopIteration
        return item

    async def _next(self) -> Item | None:
        return await anext(aiter(self._subscription), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncClient:
    """A client for one gateway. Use it as a context manager.

    Arguments, results and errors are those of `Client`. Several threads may use it. Only one thread at a time
    may use a subscription.
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
        self._client = Client(url, key, timeout=timeout, on_reconnect=on_reconnect, on_connect=on_connect)
        self._loop = _Loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if not self._loop.closed:
            self._loop.call(self._client.close())
            self._loop.stop()

    def publish(self, type: str, data: Any = None, **attributes: Any) -> Receipt:  # noqa: A002 (as Client)
        """Publish one event, as `Client.publish`."""
        return self._loop.call(self._client.publish(type, data, **attributes))

    def publish_many(self, events: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Publish events, as `Client.publish_many`."""
        return self._loop.call(self._client.publish_many(events))

    def wait(
        self,
        type: str,  # noqa: A002 (as Client)
        data: Any = None,
        *,
        timeout: float = 60,
        on_result: OnResult | None = None,
        **attributes: Any,
    ) -> Completed:
        """Publish one event and wait until it is completed, as `Client.wait`.

        `on_result` is called in the client's thread.
        """
        return self._loop.call(
            self._client.wait(type, data, timeout=timeout, on_result=on_result, **attributes)
        )

    def subscribe(
        self,
        *types: str,
        handlers: Iterable[str] = (),
        kinds: Iterable[str] = (),
        filter: Mapping[str, Any] | None = None,  # noqa: A002 (as Client)
        correlationid: str | None = None,
        after: str | None = None,
        durable: str | None = None,
        shadow: bool = False,
    ) -> SyncSubscription:
        """Subscribe to results, as `Client.subscribe`."""
        subscription = self._client.subscribe(
            *types,
            handlers=handlers,
            kinds=kinds,
            filter=filter,
            correlationid=correlationid,
            after=after,
            durable=durable,
            shadow=shadow,
        )
        return SyncSubscription(subscription, self._loop)

"""Nodes that only notify each other, over each adapter, with a relay between a node and its server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import psycopg
import uvloop
from busway.gateway.errors import Unavailable
from busway.gateway.nodes.notifications.nats import NatsNotifications
from busway.gateway.nodes.notifications.nats_url import read_broker
from busway.gateway.nodes.notifications.port import Notifications
from busway.gateway.nodes.notifications.postgres import PostgresNotifications
from busway.gateway.store.postgres import statements
from busway.gateway.store.postgres.cell import PostgresCellLink
from busway.gateway.store.postgres.facade import PostgresDatabase
from busway.gateway.store.postgres.transaction import channel

from tests.e2e.cells import Unreliable, UnreliableNats
from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer

PATIENCE = 60.0  # seconds
SECRET = b"s" * 32
T = TypeVar("T")


class Node:
    """A node, and how often it was notified."""

    def __init__(self, notifications: Notifications, again: Callable[[], Any]) -> None:
        self.notifications, self.heard, self.quiet = notifications, 0, 0
        self._again = again
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                if await self.notifications.wait():
                    self.heard += 1
                else:
                    self.quiet += 1
            except Unavailable:
                await asyncio.sleep(0.05)
                with contextlib.suppress(Unavailable):
                    await self._again()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.notifications.close()


class OverPostgres:
    """Nodes that listen; `tell` does what each commit does."""

    relay = Unreliable

    def __init__(self, server: PostgresServer) -> None:
        self.port = server.port
        server.create("told")
        PostgresDatabase(server.url("told")).migrate()
        self._drop = lambda: server.drop("told")

    def _url(self, port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/told?sslmode=disable&gssencmode=disable"

    @contextlib.asynccontextmanager
    async def node(self, port: int, _epoch: str = "") -> AsyncIterator[Node]:
        link = PostgresCellLink(self._url(port))
        await link.open()
        node = Node(PostgresNotifications(link), link.open)
        try:
            yield node
        finally:
            await node.close()
            await link.close()

    async def tell(self, _node: Node, number: int) -> None:
        async with await psycopg.AsyncConnection.connect(self._url(self.port), autocommit=True) as connection:
            cursor = await connection.execute("SELECT epoch, secret FROM busway.cell")
            [(epoch, secret)] = await cursor.fetchall()
            await connection.cursor().execute(statements.NOTIFY, (channel(epoch, secret), str(number)))

    def close(self) -> None:
        self._drop()


class OverNats:
    relay = UnreliableNats

    def __init__(self, server: NatsServer) -> None:
        self.port = server.port

    @contextlib.asynccontextmanager
    async def node(self, port: int, epoch: str = "e1") -> AsyncIterator[Node]:
        node = await joined(f"nats://127.0.0.1:{port}", epoch)
        await until(lambda: node.notifications.status().connected)
        try:
            yield node
        finally:
            await node.close()

    async def tell(self, node: Node, number: int) -> None:
        node.notifications.notify(b"%d" % number)

    def close(self) -> None:
        pass


async def joined(url: str, epoch: str = "e1", secret: bytes = SECRET) -> Node:
    """Return a node over NATS, which may not be connected yet."""
    notifications = NatsNotifications(read_broker(url), "test")
    notifications.open(epoch, secret)
    return Node(notifications, lambda: None)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it in the loop that a gateway has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def until(probe: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not probe():
            await asyncio.sleep(0.01)

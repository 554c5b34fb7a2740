"""Keeps connections to receivers open between requests.

httpcore's pool looks at all its connections for every request, several times. This one finds those of a host.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore

from busway.domain.weburl import WebURL
from busway.gateway.executors.http.network import CannotConnect, Network

CONNECT = 10.0  # seconds for the lookup, the connection and TLS
KEEP = 30.0  # seconds that an idle connection stays open
_SWEEP = 5.0  # seconds between two looks at idle connections

Connection = httpcore.AsyncHTTP11Connection | httpcore.AsyncHTTP2Connection


class _Host:
    """The connections to one origin.

    Attributes:
        idle: connections without a request, those used last at the end.
        shared: a connection that takes several requests at once.
        users: how many requests are under way.
        first: held while nobody knows yet what the host speaks: HTTP/2 needs one connection for all.
    """

    def __init__(self) -> None:
        self.idle: list[httpcore.AsyncHTTP11Connection] = []
        self.shared: httpcore.AsyncHTTP2Connection | None = None
        self.users = 0
        self.first = asyncio.Lock()
        self.known = False


class Connections:
    """Connections by origin.

    Args:
        network: opens them.
        most_idle: so many idle connections may stay open.
    """

    def __init__(self, network: Network, most_idle: int) -> None:
        self._network, self._most_idle = network, most_idle
        self._hosts: dict[str, _Host] = {}
        self._uses: Counter[Connection] = Counter()
        self._idle = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def connection(self, url: WebURL) -> AsyncIterator[Connection]:
        """Lend a connection for one request.

        A shared connection gets no further requests once the block has raised: httpcore does not tell the
        host that a stream has ended, so what it still sends takes room in the connection's window for ever.

        Raises:
            TargetNotAllowed: an address of the host is not allowed.
            CannotConnect: there is none.
        """
        host = self._hosts.get(url.origin)
        if host is None:
            host = self._hosts[url.origin] = _Host()
        host.users += 1
        try:
            connection = self._reuse(host) or await self._open(host, url)
            self._uses[connection] += 1
            try:
                yield connection
            except BaseException:
                if host.shared is connection:
                    host.shared = None
                raise
            finally:
                self._give_back(host, connection)
        finally:
            host.users -= 1
            if not (host.users or host.idle or host.shared):
                self._hosts.pop(url.origin, None)

    def _reuse(self, host: _Host) -> Connection | None:
        if host.shared is not None:
            if host.shared.is_available() and not host.shared.has_expired():
                return host.shared
            if host.shared.is_closed() or host.shared.has_expired():
                self._close(host.shared)
                host.shared = None
        while host.idle:
            connection = host.idle.pop()
            self._idle -= 1
            if connection.is_available() and not connection.has_expired():
                return connection
            self._close(connection)
        return None

    async def _open(self, host: _Host, url: WebURL) -> Connection:
        if host.known or url.scheme == "http":
            return await self._connect(host, url)
        async with host.first:
            return self._reuse(host) or await self._connect(host, url)

    async def _connect(self, host: _Host, url: WebURL) -> Connection:
        try:
            async with asyncio.timeout(CONNECT):
                stream = await self._network.connect(url)
        except TimeoutError:
            raise CannotConnect(
                f"cannot connect to {url.host} port {url.port}: no answer in {CONNECT:g} s"
            ) from None
        finally:
            host.known = True  # also if it failed: the next ones do not wait for one another
        origin = httpcore.Origin(url.scheme.encode(), url.host.encode(), url.port)
        if not stream.speaks_http2:
            return httpcore.AsyncHTTP11Connection(origin, stream, KEEP)
        host.known = False
        host.shared = httpcore.AsyncHTTP2Connection(origin, stream, KEEP)
        return host.shared

    def _give_back(self, host: _Host, connection: Connection) -> None:
        self._uses[connection] -= 1
        unused = not self._uses[connection]
        if unused:
            del self._uses[connection]
        if isinstance(connection, httpcore.AsyncHTTP2Connection):
            if connection.is_closed() and host.shared is connection:
                host.shared = None
            if unused and host.shared is not connection:
                self._close(connection)
        elif connection.is_idle() and self._idle < self._most_idle:
            host.idle.append(connection)
            self._idle += 1
        elif not connection.is_closed():
            self._close(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        """Close idle connections that nobody used for long, or that the host has closed."""
        self._sweeping = None
        for origin, host in list(self._hosts.items()):
            expired = [connection for connection in host.idle if connection.has_expired()]
            self._idle -= len(expired)
            host.idle = [connection for connection in host.idle if connection not in expired]
            for connection in expired:
                self._close(connection)
            if host.shared is not None and (host.shared.is_closed() or host.shared.has_expired()):
                self._close(host.shared)
                host.shared = None
            if not (host.users or host.idle or host.shared):
                del self._hosts[origin]
        if self._hosts:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def _close(self, connection: httpcore.AsyncConnectionInterface) -> None:
        task = asyncio.get_running_loop().create_task(connection.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for host in self._hosts.values():
            for connection in [*host.idle, *([host.shared] if host.shared else [])]:
                self._close(connection)
        self._hosts.clear()
        if self._closing:
            await asyncio.wait(self._closing)
        await asyncio.sleep(0)  # transports close their sockets in the next turn

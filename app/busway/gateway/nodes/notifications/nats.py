"""Notifications over NATS core.

One task keeps a connection to one of the servers. It checks every few seconds that the server answers, and
connects again after any failure. It never gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from busway.gateway.nodes.notifications.nats_url import Broker, Server
from busway.gateway.nodes.notifications.port import KEPT, LOOK, BrokerStatus
from busway.gateway.nodes.notifications.sealing import Seal

log = logging.getLogger("busway.nodes")
logging.getLogger("nats").setLevel(logging.CRITICAL)  # it also logs errors that it raises

AWAY = 0.2  # seconds between two looks at the cell while the broker is away
CHECK = 5.0  # seconds between checks whether the server answers
PATIENCE = 5.0  # seconds without an answer
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between attempts to connect
_FAILURES = (errors.Error, OSError, TimeoutError, ValueError)


class _Client(Client):
    """Does what nats-py has no option for.

    A message takes no task and no turn of the loop: neither on its way out, nor on its way in.

    Args:
        server: the server. TLS is required of it if its URL says so.
        nkey: the public key of this client.
        take: gets each message.
    """

    def __init__(self, server: Server, nkey: str | None, take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._must_use_tls, self._take = server.tls, take
        self._public_nkey = nkey

    async def _process_msg(self, _sid: int, _subject: bytes, _reply: bytes, data: bytes, _: bytes) -> None:
        self._take(data)

    def write_at_once(self) -> None:
        """Let `publish_now` write to the socket itself, not at the end of the loop's turn."""
        if (writer := self._writer()) is not None:
            writer.transport.set_write_buffer_limits(high=0)

    def publish_now(self, subject: str, message: bytes) -> bool:
        """Send a message. Return False if it must wait, because others do, or is too large for the server."""
        writer = self._writer()
        if writer is None or self._pending or not self.is_connected or len(message) > self._max_payload:
            return False
        if writer.is_closing() or writer.transport.get_write_buffer_size():
            return False
        writer.write(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(message), message))
        return True

    def _writer(self) -> asyncio.StreamWriter | None:
        transport = self._transport
        return transport._io_writer if isinstance(transport, TcpTransport) else None  # noqa: SLF001 - it has no other way

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Refuse a server without TLS before anything secret is sent."""
        if initial_connection and self._must_use_tls:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise errors.Error("the server has no TLS, and tls:// demands it")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def confirmed(self) -> None:
        """Wait until the server has taken what was sent before, or refused it.

        A first ping may overtake what nats-py has not written yet. When it is answered, all that is written.
        """
        for _ in range(2):
            await self.rtt(int(PATIENCE))

    async def end(self) -> None:
        """Close the connection, also if the server does not answer."""
        if (writer := self._writer()) is not None:
            writer.transport.abort()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PATIENCE):
                await self.close()


class NatsNotifications:
    """Implements `Notifications`.

    Args:
        broker: the servers.
        name: of this node, for people who look at the server's connections.
    """

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker, self._name = broker, name
        self._subject = ""
        self._seal = Seal("", b"")
        self._task: asyncio.Task[None] | None = None
        self._client: _Client | None = None  # while it is connected
        self._unsent: deque[bytes] = deque(maxlen=KEPT)
        self._taken: deque[bytes] = deque(maxlen=KEPT)  # messages that nobody has asked for yet
        self._wake = asyncio.Event()  # something is to be sent, or the connection has a problem
        self._heard = asyncio.Event()
        self._error: Exception | None = None  # that nats-py reported of the connection
        self._closing = self._reported = False
        self._problem = "it has not been reached yet"
        self._sent = self._received = 0
        self._ignored: Counter[str] = Counter()

    def open(self, epoch: str, secret: bytes) -> None:
        """Begin to send and receive. It connects in the background."""
        self._subject, self._seal = f"busway.{epoch}", Seal(epoch, secret)
        self._task = asyncio.create_task(self._run())

    def notify(self, message: bytes) -> None:
        """Notify the other nodes."""
        self._taken.append(message)
        if self._client is None:
            self._unsent.clear()  # others look by themselves
        elif not self._unsent and self._client.publish_now(self._subject, self._seal.close(message)):
            self._sent += 1
            return
        self._unsent.append(message)
        self._wake.set()

    @property
    def _connected(self) -> bool:
        return self._client is not None

    async def wait(self) -> bool:
        """Return when another node has, or may have, notified, or when it is time to look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK if self._connected else AWAY):
                await self._heard.wait()
        heard = self._heard.is_set()
        self._heard.clear()
        return heard

    def received(self) -> list[bytes]:
        """Return the messages since the last call. This node's do not end a `wait`."""
        received = [*self._taken]
        self._taken.clear()
        return received

    async def close(self) -> None:
        """Send what is not sent yet, if there is a connection, and close it."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            if self._connected:
                await asyncio.wait([self._task], timeout=PATIENCE)
            self._task.cancel()
            await asyncio.wait([self._task])

    def status(self) -> BrokerStatus:
        """Return the state of the connection."""
        return BrokerStatus(
            url=self._broker.url,
            connected=self._connected,
            problem=None if self._connected else self._problem,
            sent=self._sent,
            received=self._received,
            ignored=dict(+self._ignored),
        )

    # -- the connection

    async def _run(self) -> None:
        delay = 0.0
        while not self._closing:
            began = time.monotonic()
            try:
                client = await self._connect()
                try:
                    self._found(client)
                    await self._serve(client)
                except _FAILURES as problem:
                    self._problem = _cause(problem)  # before the status says that it is not connected
                    raise
                finally:
                    self._client = None
                    await client.end()
            except _FAILURES as problem:
                self._lost(_cause(problem))
            except Exception as problem:  # nats-py has bugs
                log.exception("the connection to the broker failed; trying again")
                self._lost(str(problem))
            if time.monotonic() - began > LONGEST_DELAY:
                delay = 0.0
            delay = min(delay * 2 or FIRST_DELAY, LONGEST_DELAY)
            if not self._closing:
                await asyncio.sleep(delay)

    async def _connect(self) -> _Client:
        """Connect to one of the servers.

        Raises:
            Exception: one of `_FAILURES`: none of them can be used.
        """
        servers = self._broker.servers
        causes: dict[Server, str] = {}
        for server in random.sample(servers, len(servers)):
            try:
                return await self._connect_to(server)
            except _FAILURES as problem:
                causes[server] = _cause(problem)
        if len(servers) == 1:
            raise errors.Error(causes[servers[0]])
        raise errors.Error("; ".join(f"{server.url}: {causes[server]}" for server in servers))

    async def _connect_to(self, server: Server) -> _Client:
        identity = self._broker.identity()
        password = server.password
        self._error = None
        client = _Client(server, identity.public if identity else None, self._receive)
        try:
            async with asyncio.timeout(PATIENCE):
                await client.connect(
                    server.url,
                    name=f"busway {self._name}",
                    tls=self._broker.context(),
                    user=server.user if password is not None else None,
                    password=password,
                    token=server.user if password is None else None,
                    signature_cb=identity.sign if identity else None,
                    user_jwt_cb=identity.credentials if identity and identity.jwt else None,
                    error_cb=self._on_error,
                    no_echo=True,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                )
                client.write_at_once()
                await client.subscribe(self._subject)
                # Others may have waited for this node. And a server that refuses to publish says so now.
                await client.publish(self._subject, self._seal.close(b""))
                await client.confirmed()
            self._check(client)
        except BaseException as problem:
            await client.end()
            if isinstance(problem, errors.NoServersError) and self._error is not None:
                raise self._error from None
            raise
        return client

    async def _serve(self, client: _Client) -> None:
        """Send messages, and check that the server answers, until it does not or `close` was called."""
        checked = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, checked + CHECK - time.monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            self._check(client)
            async with asyncio.timeout(PATIENCE):
                while self._unsent:
                    await client.publish(self._subject, self._seal.close(self._unsent.popleft()))
                    self._sent += 1
                if self._closing or time.monotonic() - checked >= CHECK:
                    await client.confirmed()
                    checked = time.monotonic()
            if self._closing:
                return

    def _check(self, client: Client) -> None:
        """Raise the error of a connection that has one."""
        if self._error is not None:
            raise self._error
        if not client.is_connected:
            raise client.last_error or errors.ConnectionClosedError

    async def _on_error(self, problem: Exception) -> None:
        self._error = problem
        self._wake.set()

    def _receive(self, message: bytes) -> None:
        try:
            content = self._seal.open(message)
        except ValueError as reason:
            self._ignored[str(reason)] += 1
        else:
            self._received += 1
            self._ignored["overflow"] += len(self._taken) == KEPT
            self._taken.append(content)
            self._heard.set()

    def _found(self, client: _Client) -> None:
        self._client = client
        self._heard.set()  # notifications were lost meanwhile
        log.info("notifications go over the broker %s", self._broker.url)
        self._reported = False

    def _lost(self, why: str) -> None:
        self._problem = why
        self._heard.set()
        if not self._reported and not self._closing:
            self._reported = True
            log.warning(
                "cannot use the broker %s: %s. This node looks for news %g times a second until it can",
                self._broker.url,
                why,
                1 / AWAY,
            )


def _cause(problem: BaseException) -> str:
    """Return in one line what is wrong."""
    match problem:
        case ssl.SSLCertVerificationError():
            text = f"its certificate is not accepted: {problem.verify_message}"
        case ssl.SSLError():
            text = f"TLS failed: {problem.reason or problem}"
        case socket.gaierror():
            text = str(problem.strerror)
        case errors.UnexpectedEOF():
            text = "it closed the connection"
        case TimeoutError():
            text = f"no answer for {PATIENCE:.0f} s"
        case OSError(errno=int(number)):
            text = os.strerror(number)
        case _:
            text = str(problem).removeprefix("nats: ").strip("'") or type(problem).__name__
    return " ".join(text.split())

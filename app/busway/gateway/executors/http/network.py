"""Connections to receivers: to an address that was checked, with TLS for the name of the host."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

import httpcore

from busway.domain.addresses import AllowedTargets
from busway.domain.weburl import Address, WebURL
from busway.gateway.executors.http.resolver import NotFound, Resolver

READ = 4_096  # bytes that are parsed at once: steps are short, whatever a receiver sends
_HIGH, _LOW = 65_536, 16_384  # bytes that wait to be parsed
_ALPN = ["h2", "http/1.1"]


class CannotConnect(Exception):
    """There is no connection. The message says why."""


class Network:
    """Resolves the host of each new connection once, checks all its addresses, and connects to one of them.

    No proxy is used, whatever the environment says. Certificates are checked against those of the system, or
    what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.

    Args:
        targets: decides which addresses are allowed.
        resolver: looks names up.
    """

    def __init__(self, targets: AllowedTargets, resolver: Resolver) -> None:
        self._targets, self._resolver = targets, resolver
        self._tls: ssl.SSLContext | None = None

    async def connect(self, url: WebURL) -> Stream:
        """Connect to the host of a URL.

        Raises:
            TargetNotAllowed: an address of the host is not allowed.
            CannotConnect: no address accepts connections, or the certificate is not valid.
        """
        addresses = [url.literal] if url.literal is not None else await self._resolve(url)
        self._targets.check(url, addresses)
        stream = await _open(url, addresses)
        if url.scheme == "https":
            try:
                await stream.start_tls(await self._context(), url.host)
            except (OSError, EOFError) as problem:  # SSLError is an OSError
                stream.close()
                why = getattr(problem, "verify_message", None) or getattr(problem, "reason", None) or problem
                raise CannotConnect(
                    f"TLS with {url.host} failed: {why or 'it closed the connection'}"
                ) from None
            except BaseException:
                stream.close()
                raise
        return stream

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            made = await asyncio.to_thread(ssl.create_default_context)  # it reads all certificates
            made.set_alpn_protocols(_ALPN)
            self._tls = made
        return self._tls

    async def _resolve(self, url: WebURL) -> list[Address]:
        try:
            return await self._resolver.resolve(url.host, url.port)
        except NotFound as problem:
            raise CannotConnect(str(problem)) from None


async def _open(url: WebURL, addresses: list[Address]) -> Stream:
    loop = asyncio.get_running_loop()
    problem: OSError | None = None
    for address in addresses:
        try:
            _, stream = await loop.create_connection(Stream, str(address), url.port)
        except OSError as found:
            problem = found
        else:
            return stream
    why = problem.strerror or problem if problem else "it has no address"
    raise CannotConnect(f"cannot connect to {url.host} port {url.port}: {why}")


class Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection, as httpcore uses it. Timeouts are not here: an attempt has one as a whole."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._eof = False
        self._problem: BaseException | None = None
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._held = self._full = False

    # -- the protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Buffer received bytes. Pause reading while the buffer is large."""
        self._buffer += data
        if len(self._buffer) > _HIGH and not self._held:
            self._held = True
            self._transport.pause_reading()
        _wake(self._readable)

    def eof_received(self) -> bool:
        """Let reads return the end."""
        self._eof = True
        _wake(self._readable)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let reads and writes return."""
        self._eof, self._problem = True, exc
        _wake(self._readable)
        _wake(self._writable)

    def pause_writing(self) -> None:
        """Let writes wait."""
        self._full = True

    def resume_writing(self) -> None:
        """Let writes go on."""
        self._full = False
        _wake(self._writable)

    # -- for httpcore

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - httpcore's
        """Return received bytes, b"" at the end of the stream.

        Raises:
            ReadError: the connection broke.
        """
        if self._buffer:
            await asyncio.sleep(0)  # a sender that never stops holds nobody else
        while not self._buffer:
            if self._problem is not None:
                raise httpcore.ReadError(str(self._problem))
            if self._eof:
                return b""
            self._readable = asyncio.get_running_loop().create_future()
            await self._readable
        size = min(max_bytes, READ)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        if self._held and len(self._buffer) < _LOW and not self._eof:
            self._held = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - httpcore's
        """Send bytes.

        Raises:
            WriteError: the connection broke.
        """
        if self._problem is not None or self._transport.is_closing():
            raise httpcore.WriteError(str(self._problem or "the connection is closed"))
        if buffer:
            self._transport.write(buffer)
        while self._full:
            if self._transport.is_closing():
                raise httpcore.WriteError(str(self._problem or "the connection is closed"))
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable

    async def aclose(self) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection at once: what was not sent is dropped."""
        self._transport.abort()

    async def start_tls(  # type: ignore[override] # it changes this stream
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> None:
        """Begin TLS.

        Raises:
            OSError: the handshake failed.
        """
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(
            self._transport, self, ssl_context, server_hostname=server_hostname, ssl_handshake_timeout=timeout
        )
        if transport is None:
            raise EOFError
        self._transport = transport

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for: whether an idle connection was closed."""
        if info == "is_readable":
            return bool(self._buffer) or self._eof
        return None

    @property
    def speaks_http2(self) -> bool:
        """Whether both agreed on HTTP/2 in the handshake."""
        tls = self._transport.get_extra_info("ssl_object")
        return tls is not None and tls.selected_alpn_protocol() == "h2"


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)

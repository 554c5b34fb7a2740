"""The other end of a connection, and who sent the requests that come over it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec

from busway.gateway.door.heads import Request
from busway.gateway.door.port import LOCAL, Client, Headers, Proxies

TLS_UNSENT = 65_536  # bytes of answers that wait in a TLS connection before writers pause


class Peer:
    """The other end of a connection.

    Args:
        transport: of the connection.
        app: the application. It may have `proxies`.

    Attributes:
        address: as in `Client`.
        is_proxy: whether it is trusted to say who its clients are.
        tls: whether the connection is encrypted. Then neither side can end its half alone.
    """

    __slots__ = ("_proxies", "address", "is_proxy", "port", "tls")

    def __init__(self, transport: asyncio.Transport, app: Any) -> None:
        name = transport.get_extra_info("peername")
        self.address, self.port = "", 0
        if isinstance(name, tuple) and len(name) >= 2:
            address, self.port = str(name[0]), int(name[1])
            self.address = address.removeprefix("::ffff:") if "." in address else address
        elif _is_unix(transport):
            self.address = LOCAL
        proxies: Proxies | None = getattr(app, "proxies", None)
        self._proxies = proxies if proxies is not None and proxies.trusts(self.address) else None
        self.is_proxy = self._proxies is not None
        self.tls = transport.get_extra_info("sslcontext") is not None
        if self.tls:
            transport.set_write_buffer_limits(TLS_UNSENT)  # as without TLS; the default is 512 KiB

    def client(self, headers: Headers) -> Client:
        """Return who sent a request with these headers."""
        return Client(self.address) if self._proxies is None else self._proxies.client(self.address, headers)

    def read(self, request: Request) -> Request:
        """Return a request as its client sent it: if a proxy says so, with another `Host` and scheme."""
        if self._proxies is None:
            return request
        client = self._proxies.client(self.address, request.headers)
        headers = request.headers
        if client.host is not None:
            headers = [(name, client.host if name == b"host" else value) for name, value in headers]
        return msgspec.structs.replace(request, headers=headers, client=client)

    def named(self, request: Request) -> tuple[str, int]:
        """Return address and port of the client of a request. The port is 0 if it is behind a proxy."""
        client = request.client
        if client is None or client.address == self.address:
            return self.address, self.port
        return client.address, 0

    def scheme(self, request: Request) -> str:
        """Return the scheme that the client of a request used."""
        named = None if request.client is None else request.client.scheme
        return named or ("https" if self.tls else "http")


def _is_unix(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX

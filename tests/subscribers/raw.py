"""A WebSocket by hand: frames as bytes, so that a test may send what no library would."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PATIENCE = 120.0
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER, linux/asm-generic/socket.h


class Frame(NamedTuple):
    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The code of a close frame, 1005 if it has none (RFC 6455, section 7.1.5)."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Write a frame (RFC 6455, section 5.2); `length` is claimed in place of the payload's own."""
    size = len(payload) if length is None else length
    mark = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([mark | size])
    elif size < 1 << 16:
        head += bytes([mark | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mark | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


class RawPeer:
    """A connected WebSocket that does nothing by itself: it answers no ping and no close."""

    def __init__(
        self, sock: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.sock, self._reader, self._writer = sock, reader, writer
        self.answer = ""

    async def send(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))
        await self._writer.drain()

    async def say(self, text: str) -> None:
        await self.send(frame(TEXT, text.encode()))

    async def hear(self) -> Frame | None:
        """Return the next frame, None if the connection ended."""
        async with asyncio.timeout(PATIENCE):
            try:
                first, second = await self._reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    (size,) = struct.unpack("!H", await self._reader.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
                return Frame(first & 0x0F, await self._reader.readexactly(size))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def hear_close(self) -> int:
        """Return the code that the server closes with, 1006 if it says none."""
        while (heard := await self.hear()) is not None:
            if heard.opcode == CLOSE:
                return heard.code
        return 1006

    def vanish(self) -> None:
        """Drop all that comes before the kernel sees it: to the server the host is gone, without a word."""
        program = ctypes.create_string_buffer(
            struct.pack("HBBI", 0x06, 0, 0, 0)
        )  # return 0 bytes of each packet
        filter_ = struct.pack("HL", 1, ctypes.addressof(program))
        self.sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filter_)

    def pause(self) -> None:
        """Read nothing more, as a client that is busy."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def end(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Dial(Protocol):
    """Connect and shake hands; `extra` header lines end with CRLF."""

    async def __call__(
        self, port: int, query: str = "", *, receive_buffer: int = 0, extra: str = ""
    ) -> RawPeer: ...


@contextlib.asynccontextmanager
async def dialling() -> AsyncIterator[Dial]:
    """Give the means to connect; what was connected is gone at the end."""
    peers: list[RawPeer] = []

    async def dial(port: int, query: str = "", *, receive_buffer: int = 0, extra: str = "") -> RawPeer:
        peers.append(await _connect(port, query, receive_buffer, extra))
        return peers[-1]

    try:
        yield dial
    finally:
        for peer in peers:
            await peer.end()


async def _connect(port: int, query: str, receive_buffer: int, extra: str) -> RawPeer:
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    options: dict[str, Any] = {"limit": receive_buffer or 1 << 16}
    reader, writer = await asyncio.open_connection(sock=sock, **options)
    peer = RawPeer(sock, reader, writer)
    key = base64.b64encode(os.urandom(16)).decode()
    await peer.send(
        f"GET /v1/subscribe{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n{extra}"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    async with asyncio.timeout(PATIENCE):
        peer.answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    return peer

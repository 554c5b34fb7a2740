"""Frames over a socketpair. Workers, zygote and committer use them.

A frame is a header (length of the body, kind, number; network order) and a body. Each protocol defines its
kinds and numbers. The gateway's end runs on the event loop; a child's end blocks.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence

HEADER = struct.Struct("!IBQ")
READ_SIZE = 64 * 1024  # a larger buffer is mapped and zeroed by the kernel for each read

LARGE = 1024 * 1024  # bytes that are written one after another, not joined
SCARCE = frozenset({errno.ENOBUFS, errno.ENOMEM})  # the same call may succeed soon, and the socket is fine
PAUSE = 0.05  # seconds until a call that failed so is repeated
_TRIES = 10  # calls that read what is left of an ended process

Frame = tuple[int, int, bytes]
"""(kind, number, body)"""


def pack(kind: int, number: int, body: bytes = b"") -> bytes:
    """Build one frame."""
    return HEADER.pack(len(body), kind, number) + body


def unlimited(_kind: int) -> int:
    """Return the size of the largest frame that there can be: the limit where the other end is trusted."""
    return (1 << 32) - 1


class Buffer:
    """Splits received bytes into frames.

    Args:
        limit: returns how many bytes the body of a frame of this kind may have now. It is asked when only a
            part of a frame has arrived.

    Attributes:
        problem: why the received bytes are not accepted, None if they are. The end of frames.
    """

    def __init__(self, limit: Callable[[int], int] = unlimited) -> None:
        self._limit = limit
        self.problem: str | None = None
        self._rest: list[bytes] = []
        self._size = 0
        self._wanted = HEADER.size

    def feed(self, chunk: bytes) -> list[Frame]:
        """Add received bytes and return the frames that are complete."""
        size, head = len(chunk), HEADER.size
        if self._rest:
            self._rest.append(chunk)
            self._size += size
            if self._size < self._wanted:
                return []
            chunk = b"".join(self._rest)
            size = len(chunk)
            self._rest.clear()
        elif size >= head:
            length, kind, number = HEADER.unpack_from(chunk)
            if size == head + length:  # one frame, the usual case
                return [(kind, number, chunk[head:])]
        frames: list[Frame] = []
        at, wanted = 0, head
        while size - at >= head:
            length, kind, number = HEADER.unpack_from(chunk, at)
            wanted = head + length
            if size - at < wanted:
                most = self._limit(kind)
                if length > most:
                    self.problem = f"a frame of kind {kind} has {length} bytes, allowed are {most}"
                    return frames
                break
            frames.append((kind, number, chunk[at + head : at + wanted]))
            at += wanted
            wanted = head
        if at < size:
            self._rest.append(chunk[at:])
            self._size, self._wanted = size - at, wanted
        return frames


def _ignore(_what: object) -> None:
    pass


class Channel:
    """The gateway's end: non-blocking, owned by the running event loop.

    Frames that are sent in one turn of the loop go out in one write.

    Args:
        sock: a connected stream socket. The channel owns it from now on.
        on_frames: called with the complete frames of each read, never with an empty list.
        on_end: called once when the other end closed or the socket failed, but not after `close`. Its
            argument is None, or why the channel refused what the other end sent.
        limit: as for `Buffer`.

    Raises:
        OSError: the event loop cannot watch another socket. It stays open.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_frames: Callable[[list[Frame]], None],
        on_end: Callable[[str | None], None],
        limit: Callable[[int], int] = unlimited,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_frames, self._on_end = on_frames, on_end
        self._buffer = Buffer(limit)
        self._out: list[bytes | memoryview] = []
        self._rest = memoryview(b"")
        self._flushing = self._writing = False
        self._open = True
        self._sends_not: str | None = None
        self._receives_not: str | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be sent or received now: the kernel has no memory for it. None if it can."""
        return self._sends_not or self._receives_not

    def send(self, kind: int, number: int, body: bytes = b"") -> None:
        """Queue a frame. A closed channel drops it."""
        if not self._open:
            return
        self._out.append(pack(kind, number, body))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def send_now(self, kind: int, number: int, body: bytes) -> None:
        """Write a frame now, after queued frames, not at the end of this turn of the loop."""
        if not self._open:
            return
        self._out.append(pack(kind, number, body))
        if not self._rest:
            chunk = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._write(chunk)

    def send_parts(self, kind: int, number: int, parts: Sequence[bytes | memoryview]) -> None:
        """Queue a large frame whose body is in parts. They are not copied."""
        if not self._open:
            return
        self._out += [HEADER.pack(sum(map(len, parts)), kind, number), *parts]
        self._flush()

    def drain(self) -> None:
        """Read what the other end sent before it died, without waiting."""
        for _ in range(_TRIES):
            while self._open and self._read_some():
                pass
            if self._receives_not is None:
                return

    def close(self) -> None:
        """Close the socket, and release the callbacks: none is called afterwards."""
        if not self._open:
            return
        self._open = False
        self._on_frames = self._on_end = _ignore
        self._buffer = Buffer()
        self._loop.remove_reader(self._sock)
        if self._writing:
            self._loop.remove_writer(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        self._read_some()

    def _read_some(self) -> bool:
        try:
            chunk = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as problem:
            if problem.errno in SCARCE:
                self._pause(problem)
                return False
            chunk = b""
        if not chunk:
            self._end(None)
            return False
        frames = self._buffer.feed(chunk)
        if frames:
            self._on_frames(frames)
        if self._buffer.problem is not None:
            self._end(self._buffer.problem)
            return False
        return True

    def _pause(self, problem: OSError) -> None:
        """Read again a little later: there are no resources to read or to watch the socket."""
        if self._receives_not is None:
            self._loop.remove_reader(self._sock)
            self._loop.call_later(PAUSE, self._resume)
        self._receives_not = os.strerror(problem.errno or 0)

    def _resume(self) -> None:
        if not self._open:
            return
        self._receives_not = None
        try:
            self._loop.add_reader(self._sock, self._readable)
        except OSError as problem:
            self._pause(problem)
        else:
            self._readable()

    def _end(self, problem: str | None) -> None:
        if self._open:
            on_end = self._on_end
            self.close()
            on_end(problem)

    def _flush(self) -> None:
        self._flushing = False
        while self._open and self._out and not self._rest:
            out, self._out = self._out, []
            if len(out) > 1 and sum(map(len, out)) > LARGE:
                self._out = out[1:]
                self._write(out[0])
            else:
                self._write(b"".join(out))

    def _write(self, chunk: bytes | memoryview) -> None:
        try:
            sent = self._sock.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError as problem:
            if problem.errno not in SCARCE:
                return  # the reading side reports the end, after it has read the remaining frames
            sent, self._sends_not = 0, os.strerror(problem.errno)
        if sent < len(chunk):
            self._rest = memoryview(chunk)[sent:]
            self._wait()
        elif self._rest:
            self._rest = memoryview(b"")
            self._stop_waiting()
            self._flush()

    def _wait(self) -> None:
        """Go on with the rest when the socket has room or, if there are no resources, a little later."""
        if self._sends_not is None and not self._writing:
            try:
                self._loop.add_writer(self._sock, self._writable)
                self._writing = True
            except OSError as problem:
                self._sends_not = os.strerror(problem.errno or 0)
        if self._sends_not is not None:
            self._stop_waiting()
            self._loop.call_later(PAUSE, self._writable)

    def _stop_waiting(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)

    def _writable(self) -> None:
        if self._open:
            self._sends_not = None
            self._write(self._rest)


# Saved here, because handler code may replace the attributes of `socket` and `time`.
_receive, _send, _sleep = socket.socket.recv, socket.socket.send, time.sleep


def send_all(sock: socket.socket, chunk: bytes) -> None:
    """Send everything to a blocking socket. Waits while the kernel has no memory for it.

    Raises:
        OSError: the other end has closed.
    """
    while chunk:
        try:
            chunk = chunk[_send(sock, chunk) :]  # usually all of it: a blocking socket sends the rest, too
        except OSError as problem:
            if problem.errno not in SCARCE:
                raise
            _sleep(PAUSE)


class BlockingChannel:
    """A child's end: reads and writes block.

    Args:
        sock: a connected stream socket.
        patience: seconds after which `receive` gives up, None for never.
    """

    def __init__(self, sock: socket.socket, patience: float | None = None) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._buffer = Buffer()
        self._patient = patience is None
        if patience is not None:  # the kernel waits, so a read is still one system call
            interval = struct.pack("@ll", int(patience), int(patience % 1 * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)

    def receive(self) -> list[Frame]:
        """Wait for frames. Return an empty list when the other end has closed.

        Raises:
            TimeoutError: nothing came in time.
        """
        frames: list[Frame] = []
        while not frames:
            try:
                chunk = _receive(self._sock, READ_SIZE)  # without a call of ours, which each event would pay
            except OSError as problem:
                if problem.errno in SCARCE:
                    _sleep(PAUSE)
                    continue
                if isinstance(problem, BlockingIOError) and not self._patient:
                    raise TimeoutError from None
                return []
            if not chunk:
                return []
            frames = self._buffer.feed(chunk)
        return frames

    def send(self, chunk: bytes) -> None:
        """Write packed frames.

        Raises:
            OSError: the other end has closed.
        """
        try:
            rest = chunk[_send(self._sock, chunk) :]  # usually nothing: a blocking socket sends all
        except OSError as problem:
            if problem.errno not in SCARCE:
                raise
            rest = chunk
        if rest:
            send_all(self._sock, rest)

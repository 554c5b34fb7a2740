"""The committer process, seen from the gateway: start, channel and end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from busway.gateway import signals
from busway.gateway.channel import LARGE, Channel, Frame
from busway.gateway.errors import Unavailable
from busway.gateway.store.group import frames
from busway.gateway.store.group.frames import FileId

log = logging.getLogger("busway.store")

START_TIMEOUT = 60.0  # seconds; opening may have to recover a long write-ahead log
LARGEST_REPLY = 256 * 1024 * 1024  # bytes; the reply to a batch of retries has the events of their runs
STOP_TIMEOUT = 30.0  # seconds; the last checkpoint may write much
_END_TIMEOUT = 1.0  # seconds to exit after it has closed its socket
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
_LOOK = 0.005  # seconds between checks whether it has ended
_ROOT = Path(__file__).resolve().parents[4]


class Launched(NamedTuple):
    """A committer process that waits for the URL of its database. It ends when the socket closes."""

    process: subprocess.Popen[bytes]
    sock: socket.socket


class Committer:
    """A committer process and the channel to it. `open_committer` creates it.

    Attributes:
        hello: resolves when the process can write.
        ended: set when the process ends or has ended.
        why: why it could not open the database, if it said so.
    """

    def __init__(self, launched: Launched, on_frame: Callable[[Frame], None]) -> None:
        self.process = launched.process
        self.ended = asyncio.Event()
        self.hello: asyncio.Future[frames.Hello] = asyncio.get_running_loop().create_future()
        self.why = ""
        self._on_frame = on_frame
        self._channel = Channel(launched.sock, self._take, self._end, lambda _kind: LARGEST_REPLY)

    @property
    def obstacle(self) -> str | None:
        """Why it cannot be reached now, None if it can."""
        return self._channel.obstacle

    def open(self, wanted: frames.Open) -> None:
        """Send which database to open."""
        self._channel.send(frames.OPEN, 0, frames.encode(wanted))

    def send(self, number: int, batch: frames.RawBatch, size: int) -> None:
        """Send a batch. `size`: bytes of its operations, or more."""
        if size > LARGE:
            self._channel.send_parts(frames.BATCH, number, frames.batch_parts(batch))
        else:
            self._channel.send_now(frames.BATCH, number, frames.encode(batch))

    async def close(self) -> None:
        """Close the channel and wait until the process wrote its last checkpoint and ended."""
        self._channel.close()
        if not await self._until_ended(STOP_TIMEOUT):
            await self.kill()

    async def failed(self) -> bool:
        """Wait until it ended, or kill it. Return whether it failed, and nobody killed it."""
        self._channel.close()
        try:
            await self._until_ended(_END_TIMEOUT)
        finally:  # also when the store is closed meanwhile: nobody else knows of this process any more
            if self.process.returncode is None:
                await self.kill()
        status = self.process.returncode
        return status > 0 or -status in _CRASHES

    async def kill(self) -> None:
        """Kill the process and wait until it ended, also if this is cancelled meanwhile."""
        self._channel.close()
        self.process.kill()
        ended = asyncio.ensure_future(self._until_ended(math.inf))
        try:
            await asyncio.shield(ended)
        finally:
            await ended

    async def _until_ended(self, timeout: float) -> bool:
        """Wait for the end of the process. It takes no thread and no descriptor, which may be out."""
        end = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_LOOK)
        return True

    def _take(self, received: list[Frame]) -> None:
        try:
            for frame in received:
                if self.hello.done():
                    self._on_frame(frame)
                elif frame[0] == frames.HELLO:
                    self.hello.set_result(frames.decode_hello(frame[2]))
                elif frame[0] == frames.TROUBLE:
                    self.why = frames.decode_trouble(frame[2]).why
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            self._channel.close()
            self._end(f"an invalid frame ({problem})")

    def _end(self, problem: str | None) -> None:
        if problem is not None:
            log.error("the committer broke the protocol: %s", problem)
        self.ended.set()


def launch() -> Launched:
    """Start a committer process that has no database yet.

    It gets a session of its own, so that a Ctrl-C in the terminal does not reach it.

    Raises:
        OSError: there are no descriptors, no memory or no processes for it.
    """
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with theirs, signals.blocked():
            process = subprocess.Popen(  # noqa: S603 - our own program
                (sys.executable, "-P", "-m", "busway.gateway.store.committer", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())},
            )
        undo.pop_all()
    return Launched(process, ours)


async def open_committer(
    url: str,
    on_frame: Callable[[Frame], None],
    launched: Launched | None = None,
    files: list[FileId] | None = None,
    node: int = 0,
    name: str = "",
    *,
    notifies: bool = True,
) -> Committer:
    """Open a database in a committer process and wait until it can write.

    Args:
        url: the database. It may contain a password.
        on_frame: called with every other frame.
        launched: the process to use. None starts one.
        files: the files of the database that an earlier committer had open. It refuses others.
        node: the id of this node, 0 if the database has only one.
        name: of this node.
        notifies: whether its commits notify the other nodes.

    Raises:
        Unavailable: it cannot write, ended, or did not reply in time. `detail` says why.
        OSError: it could not be started.
    """
    launched = launched or launch()
    try:
        committer = Committer(launched, on_frame)
    except OSError:
        launched.sock.close()
        launched.process.kill()
        launched.process.wait()
        raise
    committer.open(frames.Open(os.fsencode(url), files, node, name, notifies))
    try:
        await _wait_for_hello(committer)
    except BaseException:  # also if HELLO arrives at the same time: the caller does not get the process
        await committer.kill()
        raise
    if not committer.hello.done():
        await committer.kill()
        raise Unavailable(committer.why or "the committer could not open the database")
    return committer


async def _wait_for_hello(committer: Committer) -> None:
    """Wait until it sent HELLO, ended, or START_TIMEOUT passed."""
    ended = asyncio.ensure_future(committer.ended.wait())
    try:
        await asyncio.wait(
            (committer.hello, ended), timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        ended.cancel()


def _search_path() -> list[str]:
    """Return the PYTHONPATH with which the child finds this package from any folder."""
    return [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]

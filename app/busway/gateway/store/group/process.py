"""One committer process as the gateway sees it: started, greeted, and gone."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from busway.gateway.channel import Channel, Frame
from busway.gateway.errors import Unavailable
from busway.gateway.store.group import frames

START_TIMEOUT = 60.0  # seconds: opening may have to take back a long write-ahead log
STOP_TIMEOUT = 30.0  # seconds: the last checkpoint may have much to write
_ROOT = Path(__file__).resolve().parents[4]


class Launched(NamedTuple):
    """A committer's process that waits to be told which database to open; it ends when the socket closes."""

    process: subprocess.Popen[bytes]
    sock: socket.socket


class Committer:
    """A committer process and the channel to it; made by `open_committer`.

    `hello` is what it said when it could write; `ended` is set when it is gone or going.
    """

    def __init__(self, launched: Launched, on_frame: Callable[[Frame], None]) -> None:
        self.process = launched.process
        self.ended = asyncio.Event()
        self.hello: asyncio.Future[frames.Hello] = asyncio.get_running_loop().create_future()
        self._on_frame = on_frame
        self._channel = Channel(launched.sock, self._take, self.ended.set)

    def open(self, path: Path) -> None:
        """Have it open a database."""
        self._channel.send(frames.OPEN, 0, os.fsencode(path))

    def send(self, number: int, batch: frames.RawBatch) -> None:
        """Hand over a batch."""
        self._channel.send(frames.BATCH, number, frames.encode(batch))
        self._channel.flush()

    async def close(self) -> None:
        """Have it write its last checkpoint and end."""
        self._channel.close()
        try:
            await asyncio.to_thread(self.process.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            await self.kill()

    async def kill(self) -> None:
        """Make sure that it is gone."""
        self._channel.close()
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    def _take(self, received: list[Frame]) -> None:
        for frame in received:
            if frame[0] == frames.HELLO and not self.hello.done():
                self.hello.set_result(frames.decode_hello(frame[2]))
            else:
                self._on_frame(frame)


def launch() -> Launched:
    """Start a committer's process, which opens no database yet.

    It has a session of its own, so that a Ctrl-C meant for the gateway's group leaves it alone.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own program
            (sys.executable, "-P", "-m", "busway.gateway.store.group.committer", str(theirs.fileno())),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())},
        )
    return Launched(process, ours)


async def open_committer(
    path: Path, on_frame: Callable[[Frame], None], launched: Launched | None = None
) -> Committer:
    """Open a database in a committer, one that was launched before if there is one, until it can write.

    Raises:
        Unavailable: it ended, or said nothing in time; what it wrote to stderr says why.
    """
    committer = Committer(launched or launch(), on_frame)
    committer.open(path)
    try:
        await _wait_for_hello(committer)
    finally:
        if not committer.hello.done():
            await committer.kill()
    if not committer.hello.done():
        raise Unavailable(f"the committer did not start on {str(path)!r}: see its last words on stderr")
    return committer


async def _wait_for_hello(committer: Committer) -> None:
    """Wait until it said hello, or cannot any more."""
    ended = asyncio.ensure_future(committer.ended.wait())
    try:
        await asyncio.wait(
            (committer.hello, ended), timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        ended.cancel()


def _search_path() -> list[str]:
    """Where the child finds this package, wherever it is started from."""
    return [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]

"""The connection between a gateway and its committer, cut where a test says."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable

from busway.gateway.channel import Buffer, Frame, pack
from busway.gateway.store.group import frames
from busway.gateway.store.group.process import Launched


class Wire:
    """Forwards frames between a gateway and a committer process, until the batch at which it is cut.

    Then the committer is killed, and the gateway sees its end. `cut` is one of `CUTS`.

    Attributes:
        launched: for `Database.commits`.
    """

    def __init__(self, launched: Launched, cut: str) -> None:
        self.process = launched.process
        self._committer, self._cut, self._armed = launched.sock, CUTS[cut], threading.Event()
        ours, self._gateway = socket.socketpair()
        self.launched = Launched(launched.process, ours)
        pumps = ((self._gateway, self._committer), (self._committer, self._gateway))
        self._threads = [threading.Thread(target=self._pump, args=each, daemon=True) for each in pumps]
        for thread in self._threads:
            thread.start()

    def arm(self) -> None:
        """Cut it at the next batch."""
        self._armed.set()

    def close(self) -> None:
        """Wait for the threads, after the gateway has closed its end or the committer has ended."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        for sock in (self._committer, self._gateway):
            sock.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        buffer = Buffer()
        with contextlib.suppress(OSError):
            while received := source.recv(1 << 20):
                for frame in buffer.feed(received):
                    forwarded = self._cut(frame) if self._armed.is_set() else None
                    sink.sendall(pack(*frame) if forwarded is None else forwarded)
                    if forwarded is not None:
                        os.kill(self.process.pid, signal.SIGKILL)
                        break
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _part(kind: int, share: float) -> Callable[[Frame], bytes | None]:
    """Return what is left of a frame of this kind. None for the others, which pass."""

    def cut(frame: Frame) -> bytes | None:
        if frame[0] != kind:
            return None
        whole = pack(*frame)
        return whole[: int(len(whole) * share)]

    return cut


CUTS = {
    "before it got the batch": _part(frames.BATCH, 0),
    "when it had half of the batch": _part(frames.BATCH, 0.5),
    "while it wrote": _part(frames.BATCH, 1),
    "before its reply": _part(frames.DONE, 0),
    "after half of its reply": _part(frames.DONE, 0.5),
}
"""When the committer is killed."""
WRITTEN = {"before its reply", "after half of its reply"}
"""The cuts after which the batch is stored. `while it wrote` may be one of them."""
LOST = {"before it got the batch", "when it had half of the batch"}
"""The cuts after which it is not."""

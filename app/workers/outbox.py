"""The worker's way out: answers leave in batches, values on the way at once."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback

from app.channel import BlockingChannel, pack
from app.workers import wire
from app.workers.wire import Answer, FromWorker, Piece

_FULL = 32 * 1024
_PATIENCE = 0.005  # seconds that an answer may wait behind an attempt that turns out long


class Outbox:
    """Frames to the gateway, from any thread of the worker. Its end is the worker's end."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        self._frames: list[bytes] = []
        self._size = 0
        self._lock = threading.Lock()
        self._armed = self._wanted = False
        self._gate = threading.Lock()
        self._gate.acquire()
        self._clock: threading.Thread | None = None
        self._foreign = False

    def answer(self, token: int, answer: Answer) -> None:
        """Keep an answer until `flush`, or send all if they are many."""
        if self._foreign:
            os._exit(0)  # the attempt forked, and this is the copy: the worker itself will answer
        self._add(pack(FromWorker.ANSWER, token, wire.encode(answer)))

    def skipped(self, token: int) -> None:
        """Keep the word that a cancelled attempt was not begun."""
        self._add(pack(FromWorker.SKIPPED, token))

    def piece(self, token: int, piece: Piece) -> None:
        """Send a value on its way out at once, behind what is kept."""
        if self._foreign:
            return
        self._add(pack(FromWorker.PARTIAL, token, wire.encode(piece)))
        self.flush()

    def disown(self) -> None:
        """Know that this process is a fork that handler code made: it has no say."""
        self._foreign = True

    def ready(self, mark: str) -> None:
        """Tell that the worker can take attempts; `mark` names its code if it imported that by itself."""
        self._add(pack(FromWorker.READY, os.getpid(), mark.encode()))
        self.flush()

    def pong(self) -> None:
        """Tell that this worker still hears."""
        self._add(pack(FromWorker.PONG, 0))
        self.flush()

    def flush(self) -> None:
        """Send what is kept."""
        with self._lock:
            if not self._frames:
                return
            chunk = b"".join(self._frames)
            self._frames.clear()
            self._size = 0
            try:
                self._channel.send(chunk)
            except OSError:
                os._exit(0)  # the gateway is gone: nobody wants the rest
            except BaseException:  # handler code broke what this needs: a worker that is mute is of no use
                with contextlib.suppress(BaseException):
                    traceback.print_exc(file=sys.__stderr__)
                os._exit(1)

    def flush_soon(self) -> None:
        """Have what is kept sent within some milliseconds, though the caller goes on working."""
        if not self._frames:
            return
        self._wanted = True
        if self._armed:
            return
        with self._lock:
            if self._armed:
                return
            self._armed = True
        if self._clock is None:
            self._clock = threading.Thread(target=self._tick, name="busway-flush", daemon=True)
            self._clock.start()
        self._gate.release()

    def _tick(self) -> None:
        while self._gate.acquire():
            # It stays awake while it is wanted: to wake it costs more than an answer does.
            while self._wanted:
                self._wanted = False
                time.sleep(_PATIENCE)
                self.flush()
            self._armed = False
            self.flush()

    def _add(self, frame: bytes) -> None:
        with self._lock:
            self._frames.append(frame)
            self._size += len(frame)
            full = self._size >= _FULL
        if full:
            self.flush()

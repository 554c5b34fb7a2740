"""The worker's way out: answers leave in batches, values on the way at once."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from typing import Protocol

from busway.domain.run import Outcome
from busway.gateway.channel import BlockingChannel, pack
from busway.gateway.executors.port import Ended
from busway.gateway.executors.python.child.failure import describe
from busway.gateway.executors.python.child.ticker import Ticker
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.protocol import FromWorker, Piece

_MANY, _FULL = 64, 32 * 1024  # reports, and bytes of what handler code put into them, that leave at once


class Outbox:
    """Frames to the gateway, from any thread of the worker. Its end is the worker's end."""

    def __init__(self, channel: BlockingChannel, ticker: Ticker) -> None:
        self._channel = channel
        self._ticker = ticker
        self._kept: list[Ended] = []
        self._size = 0
        self._lock = threading.Lock()
        self._foreign = False
        ticker.tell(self.flush)

    def ended(self, ended: Ended, size: int) -> None:
        """Keep a report, `size` bytes of it handler code's own, until `flush`; send all if they are much."""
        if self._foreign:
            os._exit(0)  # the attempt forked, and this is the copy: the worker itself will answer
        self._kept.append(ended)
        self._size += size
        if self._size >= _FULL or len(self._kept) >= _MANY:
            self.flush()

    def skipped(self, token: int) -> None:
        """Tell that a cancelled attempt was not begun."""
        self._send(pack(FromWorker.SKIPPED, token))

    def piece(self, token: int, piece: Piece) -> None:
        """Send a value on its way out at once, behind what is kept."""
        if not self._foreign:
            self._send(pack(FromWorker.PARTIAL, token, wire.encode(piece)))

    def disown(self) -> None:
        """Know that this process is a fork that handler code made: it has no say."""
        self._foreign = True

    def ready(self, mark: str) -> None:
        """Tell that the worker can take attempts; `mark` names its code if it imported that by itself."""
        self._send(pack(FromWorker.READY, os.getpid(), mark.encode()))

    def pong(self) -> None:
        """Tell that this worker still hears."""
        self._send(pack(FromWorker.PONG, 0))

    def flush(self) -> None:
        """Send what is kept."""
        if self._kept:
            self._send(b"")

    def _send(self, frame: bytes) -> None:
        """Send what is kept, and that frame behind it."""
        with self._lock:
            kept = self._kept[:]
            try:
                if kept:
                    frame = pack(FromWorker.ENDED, 0, _encoded(kept)) + frame
                    del self._kept[: len(kept)]  # other threads may have put more behind them
                    self._size = 0
                if frame:
                    self._channel.send(frame)
            except OSError:
                os._exit(0)  # the gateway is gone: nobody wants the rest
            except BaseException:  # handler code broke what this needs: a worker that is mute is of no use
                with contextlib.suppress(BaseException):
                    traceback.print_exc(file=sys.__stderr__)
                os._exit(1)

    def flush_soon(self) -> None:
        """Have what is kept sent within some milliseconds, though the caller goes on working."""
        if self._kept:
            self._ticker.want()


def _encoded(reports: list[Ended]) -> bytes:
    try:
        return wire.encode(reports)
    except (TypeError, ValueError):  # handler code put something into one of them: no harm to the others
        return wire.encode([_sound(report) for report in reports])


def _sound(report: Ended) -> Ended:
    try:
        wire.encode(report)
    except (TypeError, ValueError) as problem:
        began, ended, error = report.started_at, report.finished_at, describe(problem)
        return Ended(report.token, Outcome.FAILED, began, ended, report.worker, error=error)
    return report


_NAP = 0.01  # seconds


class Late(Protocol):
    """An attempt with progress that is still to be sent."""

    def send_late(self) -> bool:
        """Send it; False if there is still no room for it."""


class Latest:
    """One thread a worker, only while something is late: the attempts themselves may be busy or blocked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late: set[Late] = set()

    def add(self, late: Late) -> None:
        """Look after an attempt until its progress is sent."""
        with self._lock:
            idle = not self._late
            self._late.add(late)
        if idle:
            threading.Thread(target=self._run, name="busway-latest", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_NAP)
            with self._lock:
                self._late = {late for late in self._late if not late.send_late()}
                if not self._late:
                    return

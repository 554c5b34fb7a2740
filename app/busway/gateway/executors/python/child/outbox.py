"""The worker's outgoing frames: reports leave in batches, partials at once."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from time import sleep  # handler code may replace that of the module
from typing import Protocol

from busway.domain.run import Outcome
from busway.gateway.channel import BlockingChannel, pack
from busway.gateway.executors.port import Ended
from busway.gateway.executors.python.child.failure import describe
from busway.gateway.executors.python.child.ticker import Ticker
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.programs import end_group
from busway.gateway.executors.python.wire.protocol import FromWorker, Piece

_exit = os._exit  # handler code may replace that of the module
_MANY, _FULL = 64, 32 * 1024  # a batch: reports, and bytes from handler code in them


class Outbox:
    """Sends frames to the gateway from any thread. If sending fails, the worker exits."""

    def __init__(self, channel: BlockingChannel, ticker: Ticker) -> None:
        self._channel = channel
        self._ticker = ticker
        self._kept: list[Ended] = []
        self._size = 0
        self._lock = threading.Lock()
        self._foreign = False
        ticker.add(self.flush)

    def ended(self, ended: Ended, size: int) -> None:
        """Keep a report until `flush`, or send a full batch. `size`: its bytes from handler code."""
        if self._foreign:
            _exit(0)  # the attempt forked, and this is the copy: the worker itself reports the attempt
        self._kept.append(ended)
        self._size += size
        if self._size >= _FULL or len(self._kept) >= _MANY:
            self.flush()

    def skipped(self, token: int) -> None:
        """Report that a cancelled or recalled attempt was not started."""
        self._send(pack(FromWorker.SKIPPED, token))

    def piece(self, token: int, piece: Piece) -> None:
        """Send a partial at once, after the kept reports."""
        if not self._foreign:
            self._send(pack(FromWorker.PARTIAL, token, wire.encode(piece)))

    def disown(self) -> None:
        """Stop sending: this process is a fork that handler code made."""
        self._foreign = True

    def ready(self, code_digest: str) -> None:
        """Report that the worker can run attempts. `code_digest` identifies code that it imported itself."""
        self._send(pack(FromWorker.READY, os.getpid(), code_digest.encode()))

    def pong(self) -> None:
        """Answer a ping."""
        self._send(pack(FromWorker.PONG, 0))

    def flush(self) -> None:
        """Send the kept reports."""
        if self._kept:
            self._send(b"")

    def _send(self, frame: bytes) -> None:
        """Send the kept reports, then `frame`."""
        with self._lock:
            kept = self._kept[:]
            try:
                if kept:
                    frame = pack(FromWorker.ENDED, 0, _encoded(kept)) + frame
                    del self._kept[: len(kept)]  # other threads may have added more
                    self._size = 0
                if frame:
                    self._channel.send(frame)
            except OSError:
                end_group()
            except BaseException:  # handler code broke something this needs: the worker cannot report
                with contextlib.suppress(BaseException):
                    traceback.print_exc(file=sys.__stderr__)
                _exit(1)

    def flush_soon(self) -> None:
        """Send the kept reports within some milliseconds, while the caller continues."""
        if self._kept:
            self._ticker.keep_awake()


def _encoded(reports: list[Ended]) -> bytes:
    try:
        return wire.encode(reports)
    except Exception:
        return wire.encode([_encodable(report) for report in reports])


def _encodable(report: Ended) -> Ended:
    try:
        wire.encode(report)
    except Exception as problem:
        began, ended, error = report.started_at, report.finished_at, describe(problem)
        return Ended(report.token, Outcome.FAILED, began, ended, report.worker, error=error)
    return report


_NAP = 0.01  # seconds


class Late(Protocol):
    """An attempt with progress that is not sent yet."""

    def send_late(self) -> bool:
        """Send it. Return False if there is no room yet."""


class Latest:
    """Sends late progress, because the attempts may be blocked. Its thread runs only while there is some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late: set[Late] = set()

    def add(self, late: Late) -> None:
        """Retry until the attempt's progress is sent."""
        with self._lock:
            idle = not self._late
            self._late.add(late)
        if idle:
            threading.Thread(target=self._run, name="busway-latest", daemon=True).start()

    def _run(self) -> None:
        while True:
            sleep(_NAP)
            with self._lock:
                self._late = {late for late in self._late if not late.send_late()}
                if not self._late:
                    return

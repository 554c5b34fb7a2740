"""A timer thread of a worker."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable
from time import sleep  # handler code may replace that of the module

TICK = 0.005  # seconds


class Ticker:
    """Calls its callbacks every `TICK` seconds while somebody has requested it since the last tick.

    It stays awake while it is requested, because waking a thread costs more than a quick attempt.
    """

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._started = self._awake = self._requested = False

    def add(self, tick: Callable[[], None]) -> None:
        """Call `tick` at each tick, before the callbacks added earlier."""
        self._callbacks.insert(0, tick)

    def keep_awake(self) -> None:
        """Request another tick. It comes after at most two ticks."""
        self._requested = True
        if not self._awake:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._awake:
                return
            self._awake = True
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="busway-ticker", daemon=True).start()
            self._gate.release()

    def _run(self) -> None:
        while self._gate.acquire():
            while self._requested:
                self._requested = False
                sleep(TICK)
                self._tick()
            self._awake = False
            if self._requested:  # by a caller that saw it still awake
                self._wake()

    def _tick(self) -> None:
        try:
            for tick in self._callbacks:
                tick()
        except BaseException:  # without ticks the worker would keep reports and slow attempts
            with contextlib.suppress(BaseException):
                traceback.print_exc(file=sys.__stderr__)
            os._exit(1)

"""Signals that stop `serve`, from its first line on.

Python's own handlers stay in place instead of the loop's: there is no moment without one, and the loop calls
them as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_KEPT = {
    signal.SIGHUP,  # nohup
    *(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them and raises exceptions instead
    *(signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),  # job control of the shell
}


class Stop:
    """What happens at SIGTERM, SIGINT and SIGHUP.

    The first one ends the process with status 0 while nothing has begun, later it calls what `then` set. A
    second SIGTERM or SIGINT ends the process with status 1. SIGHUP is never the second one: shells and
    service managers send it with another.
    """

    def __init__(self) -> None:
        self._received = False
        self._then: Callable[[], object] = lambda: os._exit(0)

    def hold(self) -> None:
        """Install the handlers."""
        for number in _STOPPING:
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def then(self, callback: Callable[[], object]) -> None:
        """Have the first signal call this, in the main thread, between two instructions."""
        self._then = callback

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self._received:
            self._received = True
            self._then()
        elif number != signal.SIGHUP:
            os._exit(1)  # children exit when their sockets close


stop = Stop()


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Start a child that gets these signals only when it unblocks them, after it has installed handlers.

    Service managers and container runtimes send them to all processes, also to those that just start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOPPING, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def inherit_nothing() -> None:
    """Undo what the parent blocked or ignored, for this process and its children."""
    for number in signal.valid_signals() - _KEPT:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

"""Log what a child process writes to its descriptors 1 and 2."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Mapping

from busway.gateway.executors.python.host.attempt import SentAttempt

logger = logging.getLogger("busway.workers.output")

_READ_SIZE = 64 * 1024
_LINES_A_SECOND = 100
_LINE = 4096  # bytes of a line that are kept
_LAST = 50  # recent lines that are kept


class ChildOutput:
    """The reading end of a child's output pipe. It logs at most 100 lines a second.

    Attributes:
        attempts: those that the child has.

    Args:
        descriptor: the reading end of the pipe; this object closes it, also if it cannot be made.
        name: the child's name in the log.

    Raises:
        OSError: the event loop cannot watch another descriptor.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self.name = name
        self.attempts: Mapping[int, SentAttempt] = {}
        self._rest = b""
        self._allowance = _LINES_A_SECOND
        self._dropped = 0
        self._second = 0.0
        self._last: deque[tuple[int, bytes]] = deque(maxlen=_LAST)
        self._loop = asyncio.get_running_loop()
        try:
            self._loop.add_reader(descriptor, self._read)
        except OSError:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Read what is left and close the pipe."""
        if self._descriptor < 0:
            return
        self._read()
        if self._descriptor >= 0:
            self._end()

    def since(self, moment: int) -> str:
        """Return the last lines that arrived after `moment`, in monotonic nanoseconds."""
        if self._descriptor >= 0:
            self._read()
        lines = [line for at, line in self._last if at >= moment]
        return b"\n".join([*lines, self._rest]).decode(errors="backslashreplace")

    def _read(self) -> None:
        try:
            chunk = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._end()
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _READ_SIZE:
            lines.append(self._rest)
            self._rest = b""
        now = time.monotonic_ns()
        self._last.extend((now, line[:_LINE]) for line in lines[-_LAST:])
        self._log(lines)

    def _log(self, lines: list[bytes]) -> None:
        if self._loop.time() - self._second >= 1:
            self._second = self._loop.time()
            self._allowance = _LINES_A_SECOND
            if self._dropped:
                logger.info("%s wrote %d more lines, which were dropped", self.name, self._dropped)
                self._dropped = 0
        for line in lines[: self._allowance]:
            logger.info("%s: %s", self._who(), line[:_LINE].decode(errors="backslashreplace"))
        self._dropped += max(0, len(lines) - self._allowance)
        self._allowance = max(0, self._allowance - len(lines))

    def _who(self) -> str:
        """Return the child's name, and the attempt that it runs if that is the only one."""
        started = [attempt.assignment for attempt in self.attempts.values() if attempt.started()]
        return f"{self.name} ({started[0].handler} run {started[0].run})" if len(started) == 1 else self.name

    def _end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        if self._rest:
            with contextlib.suppress(ValueError):  # at exit the log itself may be closed already
                self._log([self._rest])

"""Standard streams that never stop the program: a closed or broken one counts as /dev/null.

`serve` and the committer write with a thread, because a reader that does not read must not block them.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from busway.gateway.errors import BuswayError

QUEUE = 256 << 10  # bytes that wait for the reader; more are dropped
FLUSH = 1.0  # seconds to write what is queued when the program ends


def open_descriptors() -> None:
    """Open /dev/null for each closed one of the descriptors 0 to 2, so that no socket gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)


class _Stream(io.RawIOBase):
    """Standard output or standard error. It never closes its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True


class Direct(_Stream):
    """Writes at once, for commands in a shell."""

    def write(self, data: Any) -> int:
        """Write all bytes. Errors of standard error are ignored.

        Raises:
            BuswayError: standard output cannot be written.
            SystemExit: standard output has no reader any more. The status is 0: nobody wants the rest.
        """
        chunk = rest = bytes(data)
        try:
            while rest:
                rest = _write_some(self._descriptor, rest)
        except BrokenPipeError:
            if self._descriptor == 1:
                raise SystemExit(0) from None
        except OSError as problem:
            if self._descriptor == 1:
                raise BuswayError(f"cannot write to standard output: {problem.strerror}") from None
        return len(chunk)


class Queued(_Stream):
    """Queues what is written. A thread writes it, so that nobody waits for the reader.

    Attributes:
        dropped: how many lines were not written: the queue was full, or the descriptor could not be written.
        report: called in the thread with the number of newly dropped lines, once a later one is written.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.dropped = 0
        self.report: Callable[[int], object] | None = None
        self._reported = 0
        self._chunks: deque[bytes] = deque()
        self._waiting = 0  # bytes in the queue, and those that the thread writes
        self._writing_since: float | None = None
        self._torn = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, data: Any) -> int:
        """Queue bytes, or drop them if too many wait."""
        chunk = bytes(data)
        with self._changed:
            if self._waiting + len(chunk) > QUEUE or not self._runs():
                self.dropped += chunk.count(b"\n")
            else:
                self._waiting += len(chunk)
                self._chunks.append(chunk)
                self._changed.notify_all()
        return len(chunk)

    def drain(self) -> None:
        """Wait until everything is written, but not for a descriptor that takes nothing for a second."""
        with self._changed:
            end = time.monotonic() + FLUSH
            while self._waiting:
                until = end if self._writing_since is None else min(end, self._writing_since + FLUSH)
                if until <= time.monotonic():
                    return
                self._changed.wait(until - time.monotonic())

    def _runs(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"write-{self._descriptor}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no room for a thread
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks)
                chunk = b"".join(self._chunks)
                self._chunks.clear()
            lost = self._write(chunk)
            with self._changed:
                self._waiting -= len(chunk)
                self._writing_since = None
                self.dropped += lost
                unreported = 0 if lost else self.dropped - self._reported
                self._reported += unreported
                self._changed.notify_all()
            if unreported and self.report:
                self.report(unreported)

    def _write(self, chunk: bytes) -> int:
        """Write bytes and return how many lines of them were lost."""
        rest = b"\n" + chunk if self._torn else chunk
        try:
            while rest:
                self._writing_since = time.monotonic()
                rest = _write_some(self._descriptor, rest)
        except OSError:
            self._torn = 0 < len(rest) < len(chunk)
            return rest.count(b"\n")
        self._torn = False
        return 0


def _write_some(descriptor: int, chunk: bytes) -> bytes:
    """Write bytes with one system call. Return the rest."""
    try:
        return chunk[os.write(descriptor, chunk) :]
    except BlockingIOError:  # another program that has this terminal or pipe made it non-blocking
        select.select((), (descriptor,), ())
        return chunk


def install(kind: type[Direct] | type[Queued]) -> None:
    """Replace `sys.stdout` and `sys.stderr`. What the encoding lacks is written as escapes.

    What is queued at the end of the program is written then.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = kind(descriptor)
        before = getattr(sys, name)
        encoding = before.encoding if before is not None else "utf-8"
        # A raw stream serves, as with `python -u`.
        text = io.TextIOWrapper(stream, encoding, "backslashreplace", "\n", write_through=True)  # type: ignore[type-var]
        setattr(sys, name, text)
        if isinstance(stream, Queued):
            atexit.register(stream.drain)


def log() -> Queued | None:
    """Return the queue of standard error, None if it is written directly."""
    stream = getattr(sys.stderr, "buffer", None)
    return stream if isinstance(stream, Queued) else None

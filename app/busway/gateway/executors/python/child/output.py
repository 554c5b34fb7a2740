"""Capture what attempts print and log, separated by context. Other output belongs to the process."""

from __future__ import annotations

import _thread
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NoReturn

from busway.domain.classes import class_name
from busway.gateway.executors.python.child import masking
from busway.gateway.executors.python.wire.slots import Page

LIMIT = 64 * 1024
_LINE = 4096  # characters of an unfinished line that wait, while secrets are masked
_NOTE = "\n… output beyond 64 KiB was left out\n"
_write = os.write
thread_count = _thread._count  # noqa: SLF001 - much faster than threading.active_count()


_printing = threading.RLock()  # not Lock: a finalizer may print, too


class Log:
    """The log of one attempt, at most 64 KiB. Its last lines are also in the page in case the worker dies."""

    __slots__ = ("_held", "_lines", "_page", "_seat", "_size", "over")

    def __init__(self, page: Page, seat: int) -> None:
        self._page, self._seat = page, seat
        self._lines: list[str] | None = None
        self._size = 0
        self._held = ""
        self.over = False

    def write(self, text: str) -> None:
        """Add text. Text over the limit is dropped. After the attempt, text goes to the process."""
        if self.over or _forked.value:
            write_raw(2, text)
            return
        with _printing:  # threads of one attempt may print at the same time
            self._add(self._whole_lines(text) if masking.is_masking() else text)

    def _whole_lines(self, text: str) -> str:
        """Return the text with secrets masked, but no unfinished line: it may have half a secret."""
        whole = masking.masked(self._held + text)
        end = whole.rfind("\n") + 1
        if len(whole) - end > _LINE:
            end = len(whole)
        self._held = whole[end:]
        return whole[:end]

    def _add(self, text: str) -> None:
        if text:
            self._page.print(self._seat, text.encode("utf-8", "backslashreplace"))
            if self._size > LIMIT:
                return
            if self._lines is None:
                self._lines = []
            self._lines.append(text)
            self._size += len(text)

    def close(self) -> str | None:
        """Return the text, with a note if some was dropped, None if there is none. The attempt is over."""
        if self._held:
            with _printing:
                held, self._held = self._held, ""
                self._add(held)
        self.over = True
        if self._lines is None:
            return None
        whole = "".join(self._lines).encode("utf-8", "backslashreplace")
        if len(whole) <= LIMIT:
            return whole.decode() or None
        return whole[: LIMIT - len(_NOTE.encode())].decode(errors="ignore") + _NOTE


current: ContextVar[Log | None] = ContextVar("busway-log", default=None)


class OnlyAttempt:
    """The log of a worker's only running attempt, for threads that it starts: they have no context."""

    log: Log | None = None


class _Forked:
    value = False  # in a fork that handler code made: it has only copies of the logs


_forked = _Forked()


def write_raw(descriptor: int, text: str) -> None:
    """Write text to a descriptor of the process."""
    raw = memoryview(masking.masked(text).encode("utf-8", "backslashreplace"))
    with contextlib.suppress(OSError):  # handler code closed it, or the gateway has ended
        while raw:
            raw = raw[_write(descriptor, raw) :]


class _Outside:
    what = ""
    begun = False  # a line is written without its end


def outside(what: str) -> None:
    """Write `what` before each line that is written outside of attempts from now on."""
    _Outside.what, _Outside.begun = what, False


def _write_outside(descriptor: int, text: str) -> None:
    what = _Outside.what
    if what and text:
        begun, _Outside.begun = _Outside.begun, not text.endswith("\n")
        lines = text.removesuffix("\n").replace("\n", f"\n{what}")
        text = ("" if begun else what) + lines + ("" if _Outside.begun else "\n")
        if begun and text == f"{what}\n":
            text = "\n"
    write_raw(descriptor, text)


def _log_of_thread() -> Log | None:
    """Return the log for a thread that has no context, None if it belongs to no running attempt."""
    only = OnlyAttempt.log
    if only is None:
        return None
    left_by: Log = vars(threading.current_thread()).get(_LEFT_BY, only)
    return left_by


_LEFT_BY = "_busway_left_by"


class LeftThreads:
    """Recognizes threads that outlive the attempt that started them, in a worker that runs one at a time.

    They have no context. So their output is attributed to the running attempt, but for these threads, whose
    attempt is over. The threads of executors are no such threads: they work for later attempts, too.
    """

    def __init__(self) -> None:
        self.count = -1

    def check(self, log: Log) -> None:
        """Mark the threads that the attempt with this log has left. Needed if `thread_count` has changed."""
        self.count = thread_count()
        futures = sys.modules.get("concurrent.futures.thread")
        workers = getattr(futures, "_threads_queues", {})
        for thread in threading.enumerate():
            if thread not in workers:
                vars(thread).setdefault(_LEFT_BY, log)


class Capture(io.TextIOWrapper):
    """Replaces `sys.stdout` or `sys.stderr` and adds text to the log of the attempt that writes it.

    It looks like the stream that it replaces, but it holds nothing back and cannot be closed: other attempts
    of this worker write here too.
    """

    mode = "w"

    def __init__(self, descriptor: int, name: str) -> None:
        binary = _Binary(descriptor, name, self._write)
        super().__init__(binary, "utf-8", "backslashreplace", line_buffering=True)
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Add text to the log of this context's attempt, or write it to the descriptor of the process."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {class_name(type(text))}")
        text = str.__str__(text)  # a subclass may have methods of its own
        self._write(text)
        return len(text)

    def _write(self, text: str) -> None:
        log = current.get() or _log_of_thread()
        if log is None or log.over or _forked.value:
            _write_outside(self._descriptor, text)
        else:
            log.write(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override] # typeshed wants bytes too
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: all is written."""

    def detach(self) -> NoReturn:
        """Raise, because other attempts of this worker write here, too."""
        raise io.UnsupportedOperation("the streams of a worker cannot be detached: use their `buffer`")

    def close(self) -> None:
        """Do nothing."""

    def __del__(self) -> None:
        """Do nothing: the descriptor outlives this object."""


class _Binary(io.BufferedIOBase):
    """`sys.stdout.buffer`, and its `raw`: decodes bytes to text of the attempt."""

    mode = "wb"

    def __init__(self, descriptor: int, name: str, write: Callable[[str], None]) -> None:
        self.name, self._descriptor, self._write = name, descriptor, write

    @property
    def raw(self) -> _Binary:
        """The same stream, which holds nothing back."""
        return self

    def write(self, data: Any) -> int:
        """Write bytes as text."""
        raw = bytes(memoryview(data))
        self._write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the process."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return False."""
        return False

    def flush(self) -> None:
        """Do nothing: all is written."""

    def detach(self) -> NoReturn:
        """Raise, because nothing is below it."""
        raise io.UnsupportedOperation("the streams of a worker cannot be detached")

    def close(self) -> None:
        """Do nothing."""

    def __del__(self) -> None:
        """Do nothing: the descriptor outlives this object."""


class Installed:
    """The streams that `install` has put in place."""

    stdout: Any = None
    stderr: Any = None


def install() -> None:
    """Replace `sys.stdout` and `sys.stderr`. Another call puts the same streams in place again.

    Call it before handler code is imported: loggers that it sets up then write to these streams, too.
    """
    if Installed.stdout is None:
        Installed.stdout, Installed.stderr = Capture(1, "<stdout>"), Capture(2, "<stderr>")
    sys.stdout = sys.__stdout__ = Installed.stdout  # type: ignore[misc] # final for type checkers only
    sys.stderr = sys.__stderr__ = Installed.stderr  # type: ignore[misc] # as above


def disown() -> None:
    """Write to the descriptors only: this process is a fork that handler code made."""
    _forked.value = True


def flush_wrappers() -> None:
    """Flush streams by which handler code has replaced ours, so that their text reaches the attempt's log."""
    for name, ours in (("stdout", Installed.stdout), ("stderr", Installed.stderr)):
        with contextlib.suppress(BaseException):
            stream = getattr(sys, name)
            if stream is not ours:
                stream.flush()

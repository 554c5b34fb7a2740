"""Capture what attempts print and log, separated by context. Other output belongs to the worker."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from busway.domain.classes import class_name
from busway.gateway.executors.python.wire.slots import Page

LIMIT = 64 * 1024
_NOTE = "\n… output beyond 64 KiB was left out\n"


class Log:
    """The log of one attempt, at most 64 KiB. Its last lines are also in the page in case the worker dies."""

    __slots__ = ("_lines", "_page", "_seat", "_size")

    def __init__(self, page: Page, seat: int) -> None:
        self._page, self._seat = page, seat
        self._lines: list[str] | None = None
        self._size = 0

    def write(self, text: str) -> None:
        """Add text. Text over the limit is dropped."""
        self._page.print(self._seat, text.encode("utf-8", "backslashreplace"))
        if self._size > LIMIT:
            return
        if self._lines is None:
            self._lines = []
        self._lines.append(text)
        self._size += len(text)

    def text(self) -> str | None:
        """Return the text, with a note if some was dropped, None if there is none."""
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


class Capture(io.TextIOBase):
    """Replaces `sys.stdout` or `sys.stderr` and adds text to the log of the attempt that writes it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._binary = _Binary(self)

    @property
    def encoding(self) -> str:  # type: ignore[override] # typeshed has a plain attribute
        """Always UTF-8."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override] # as above
        """Characters that cannot be encoded are written as escapes."""
        return "backslashreplace"

    @property
    def buffer(self) -> _Binary:
        """The same stream for bytes."""
        return self._binary

    def write(self, text: str) -> int:
        """Add text to the log of this context's attempt, or write it to the worker's descriptor."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {class_name(type(text))}")
        text = str.__str__(text)  # a subclass may have methods of its own
        log = current.get() or OnlyAttempt.log
        if log is not None:
            log.write(text)
        else:
            self._raw(text)
        return len(text)

    def _raw(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the gateway has ended
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override] # typeshed wants bytes too
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the worker's own descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Do nothing: other attempts of this worker write here too."""

    def __del__(self) -> None:
        """Do not close the descriptor, which outlives this object."""


class _Binary(io.RawIOBase):
    """`sys.stdout.buffer`: decodes bytes to text of the attempt."""

    def __init__(self, text: Capture) -> None:
        self._text = text

    def write(self, data: Any) -> int:
        """Write bytes as text."""
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Do nothing."""


def install() -> None:
    """Replace `sys.stdout` and `sys.stderr` permanently."""
    sys.stdout = sys.__stdout__ = Capture(1)  # type: ignore[misc,assignment] # they are final for type checkers only
    sys.stderr = sys.__stderr__ = Capture(2)  # type: ignore[misc,assignment] # as above

"""What attempts print and log, kept apart by context; the rest belongs to the worker."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from busway.gateway.executors.python.wire.slots import Page

LIMIT = 64 * 1024
_NOTE = "\n… output beyond 64 KiB was left out\n"


class Log:
    """The log of one attempt, of at most 64 KiB; its last lines stand in the page, should the worker die."""

    __slots__ = ("_lines", "_page", "_seat", "_size")

    def __init__(self, page: Page, seat: int) -> None:
        self._page, self._seat = page, seat
        self._lines: list[str] | None = None
        self._size = 0

    def write(self, text: str) -> None:
        """Keep text; what is over the limit is dropped."""
        self._page.print(self._seat, text.encode("utf-8", "backslashreplace"))
        if self._size > LIMIT:
            return
        if self._lines is None:
            self._lines = []
        self._lines.append(text)
        self._size += len(text)

    def text(self) -> str | None:
        """Return what was kept, with a note if that is not all; None if there is nothing."""
        if self._lines is None:
            return None
        whole = "".join(self._lines).encode("utf-8", "backslashreplace")
        if len(whole) <= LIMIT:
            return whole.decode() or None
        return whole[: LIMIT - len(_NOTE.encode())].decode(errors="ignore") + _NOTE


current: ContextVar[Log | None] = ContextVar("busway-log", default=None)


class Sole:
    """The log of a worker's only attempt: threads that it starts have no context of their own."""

    log: Log | None = None


class Capture(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr`: routes text to the attempt that writes it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._binary = _Binary(self)

    @property
    def encoding(self) -> str:  # type: ignore[override] # typeshed has a plain attribute
        """UTF-8, always."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override] # as above
        """What cannot be encoded is written as escapes."""
        return "backslashreplace"

    @property
    def buffer(self) -> _Binary:
        """The same for bytes."""
        return self._binary

    def write(self, text: str) -> int:
        """Keep text with the attempt of this context, else hand it to the worker's descriptor."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        log = current.get() or Sole.log
        if log is not None:
            log.write(text)
        else:
            self._raw(text)
        return len(text)

    def _raw(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override] # typeshed wants bytes too
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def fileno(self) -> int:
        """The worker's own descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """It is no terminal."""
        return False

    def close(self) -> None:
        """Stay open: other attempts of this worker write here too."""

    def __del__(self) -> None:
        """Do not close what outlives this object."""


class _Binary(io.RawIOBase):
    """`sys.stdout.buffer`: bytes become text of the attempt."""

    def __init__(self, text: Capture) -> None:
        self._text = text

    def write(self, data: Any) -> int:
        """Keep bytes as text."""
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def close(self) -> None:
        """Stay open."""


def install() -> None:
    """Replace `sys.stdout` and `sys.stderr` for good."""
    sys.stdout = sys.__stdout__ = Capture(1)  # type: ignore[misc,assignment] # they are final for type checkers only
    sys.stderr = sys.__stderr__ = Capture(2)  # type: ignore[misc,assignment] # as above

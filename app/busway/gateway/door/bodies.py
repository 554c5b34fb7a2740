"""Framing of request bodies, by length or in chunks (RFC 9112, sections 6 and 7)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from busway.gateway.door.heads import LONGEST_HEAD, MOST_FIELDS
from busway.gateway.errors import BadRequest, HeadTooLarge

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\x09\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\x09\x20-\x7e\x80-\xff]*")

LINES = 1_024  # that are read in one turn of the loop
LEAST = 16  # bytes for each of them: the connection of a client with smaller chunks rests after each turn

Take = Callable[[bytes], None]


class Body(Protocol):
    """A body that is being received. `done`: it is complete. `paused`: go on in a later turn of the loop."""

    done: bool
    paused: bool

    def feed(self, data: bytes, take: Take) -> bytes:
        """Give the body's part of `data` to `take`; return what is behind it, or not understood yet.

        Raises:
            BadRequest, HeadTooLarge: it cannot be read on.
        """


class Sized:
    """A body of so many bytes, at least one."""

    __slots__ = ("_left", "done")
    paused = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = False

    def feed(self, data: bytes, take: Take) -> bytes:
        """Take the body's part of `data`."""
        part = data[: self._left]
        self._left -= len(part)
        self.done = not self._left
        take(part)
        return data[len(part) :]


class Chunked:
    """A chunked body. Extensions and trailers are ignored; together they have the limits of a head."""

    __slots__ = ("_aside", "_fields", "_left", "_state", "done", "paused")

    _SIZE, _DATA, _END, _TRAILERS = range(4)

    def __init__(self) -> None:
        self.done = self.paused = False
        self._state = self._SIZE
        self._left = 0
        self._aside = self._fields = 0  # bytes of extensions and trailers; trailers

    def feed(self, data: bytes, take: Take) -> bytes:
        """Take the chunks in `data`. Return the incomplete line at its end: the next call must begin with it.

        It pauses after many lines: 64 KiB may be 10,000 chunks of one byte.
        """
        at, end, lines = 0, len(data), 0
        self.paused = False
        while at < end and not self.done:
            if lines == LINES:
                self.paused = True
                break
            if self._state == self._DATA:
                part = data[at : at + self._left]
                take(part)
                self._left -= len(part)
                at += len(part)
                if not self._left:
                    self._state = self._END
                continue
            stop = data.find(b"\n", at)
            if stop < 0:
                if end - at + self._aside > LONGEST_HEAD:
                    raise _too_large()
                if self._state == self._END and data[at:] != b"\r":
                    raise BadRequest("a chunk is longer than its size says")
                break
            self._line(data[at : stop + 1])
            at = stop + 1
            lines += 1
        return data[at:]

    def _line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise BadRequest("a line of the chunked body does not end with CR LF")
        line = line[:-2]
        if self._state == self._END:
            if line:
                raise BadRequest("a chunk is longer than its size says")
            self._state = self._SIZE
        elif self._state == self._SIZE:
            self._begin(line)
        elif not line:
            self.done = True
        else:
            self._set_aside(len(line))
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise _too_large()
            if not _TRAILER.fullmatch(line):
                raise BadRequest("a trailer of the chunked body is no header field")

    def _begin(self, line: bytes) -> None:
        size = _SIZE.fullmatch(line)
        if size is None:
            raise BadRequest("a chunk has no size in hexadecimal digits")
        self._set_aside(len(line) - len(size[1]))
        self._left = int(size[1], 16)
        self._state = self._DATA if self._left else self._TRAILERS

    def _set_aside(self, size: int) -> None:
        self._aside += size
        if self._aside > LONGEST_HEAD:
            raise _too_large()


def framing(length: int | None) -> Body | None:
    """Return the body of a request with this Content-Length. `length`: None if it is chunked."""
    if length is None:
        return Chunked()
    return Sized(length) if length else None


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"chunk extensions and trailers have at most {LONGEST_HEAD} bytes and {MOST_FIELDS} fields in all"
    )

"""The page: memory shared by the gateway and one worker. It shows which attempt runs since when.

Each outstanding attempt has a seat of sixteen 64-bit words. Each word has one writer and is stored in one
piece. A seat contains the token of its attempt, so values of an earlier attempt are never taken for a later
one. After the words, each seat has a ring buffer with the last output of its attempt, which outlives the
worker. After those, in the same descriptor, faulthandler writes its stacks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import tempfile

_WORDS = 16
_STARTED, _SINCE, _FINISHED, _THREAD, _CANCELLED, _FRAMES, _BYTES, _PRINTED, _RECALLED, _HELD = range(10)
_RING = 16_384  # bytes, which take no memory until something is printed
_LEFT_OUT = "… earlier output was lost with the worker\n"
_STACKS = 256 * 1024  # bytes for stacks, which take no memory until they are written
_STARTING = b"<freed thread state>"
_MISSING = {errno.ENOSYS, errno.EPERM, errno.EACCES}


def create(seats: int) -> int:
    """Return a descriptor of new memory for a page. Its size is fixed, its offset is that of the stacks.

    Raises:
        OSError: there are no descriptors or no memory.
    """
    descriptor = _memory()
    try:
        os.ftruncate(descriptor, _size(seats) + _STACKS)
        with contextlib.suppress(OSError):  # a file cannot be sealed
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        os.lseek(descriptor, _size(seats), os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _memory() -> int:
    """Return a descriptor of anonymous memory, or of a file without a name where that is missing."""
    try:
        return os.memfd_create("busway-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as problem:
        if problem.errno not in _MISSING:
            raise
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


def _size(seats: int) -> int:
    """Return the offset of the stacks."""
    return _rings(seats) + seats * _RING


def _rings(seats: int) -> int:
    return -(-seats * _WORDS * 8 // mmap.PAGESIZE) * mmap.PAGESIZE


class Page:
    """The page as seen by one process.

    Args:
        descriptor: from `create`; this object closes it, also if it cannot be made.
        seats: as in `create`.

    Raises:
        OSError: there is no memory.
    """

    def __init__(self, descriptor: int, seats: int) -> None:
        self.descriptor = descriptor
        self.closed = False
        try:
            self._map = mmap.mmap(descriptor, _size(seats))
        except OSError:
            os.close(descriptor)
            raise
        self._words = memoryview(self._map).cast("Q")
        self._rings = _rings(seats)
        self._stacks = _size(seats)
        self._credited: set[int] = set()

    def begin(self, seat: int, token: int, since: int, thread: int) -> bool:
        """Worker: the attempt starts, at `since` (monotonic nanoseconds), in that thread.

        Returns False if it must not start, because it was cancelled or recalled.
        """
        words, at = self._words, seat * _WORDS
        if words[at + _CANCELLED] == token or words[at + _RECALLED] == token:
            return False
        words[at + _SINCE] = since
        words[at + _THREAD] = thread
        words[at + _HELD] = 0
        words[at + _PRINTED] = 0
        words[at + _STARTED] = token
        return True

    def record_memory(self, seat: int, held: int) -> None:
        """Worker: it held `held` bytes of memory just before the call of the attempt's target."""
        self._words[seat * _WORDS + _HELD] = held

    def finish(self, seat: int, token: int) -> None:
        """Worker: the attempt's target has returned. Its report is not sent yet."""
        self._words[seat * _WORDS + _FINISHED] = token

    def print(self, seat: int, raw: bytes) -> None:
        """Worker: add output of the attempt."""
        at, ring = seat * _WORDS + _PRINTED, self._rings + seat * _RING
        printed = self._words[at] + len(raw)
        raw = raw[-_RING:]
        start = (printed - len(raw)) % _RING
        first = min(len(raw), _RING - start)
        self._map[ring + start : ring + start + first] = raw[:first]
        self._map[ring : ring + len(raw) - first] = raw[first:]
        self._words[at] = printed  # last: the gateway reads up to here

    def printed(self, seat: int) -> str | None:
        """Gateway: return the last output of the attempt, None if there is none."""
        size, ring = self._words[seat * _WORDS + _PRINTED], self._rings + seat * _RING
        kept = self._map[ring : ring + _RING]
        if size <= _RING:
            return kept[:size].decode(errors="replace") or None
        end = size % _RING
        whole = kept[end:] + kept[:end]
        return _LEFT_OUT + whole.partition(b"\n")[2].decode(errors="replace")

    def size_printed(self, seat: int) -> int:
        """Gateway: return how many bytes of output the attempt has written."""
        return self._words[seat * _WORDS + _PRINTED]

    def printed_between(self, seat: int, start: int, end: int) -> bytes:
        """Gateway: return output by its place. If it is more than the ring holds, return its end."""
        ring = self._rings + seat * _RING
        first, size = max(start, end - _RING) % _RING, min(end - start, _RING)
        kept = self._map[ring : ring + _RING]
        return kept[first : first + size] + kept[: max(0, first + size - _RING)]

    def cancelled(self, seat: int, token: int) -> bool:
        """Worker: return whether the attempt was cancelled."""
        return self._words[seat * _WORDS + _CANCELLED] == token

    def credited(self, seat: int) -> tuple[int, int]:
        """Worker: return how many partials of the attempt were stored, and their bytes."""
        at = seat * _WORDS
        return self._words[at + _FRAMES], self._words[at + _BYTES]

    def assign(self, seat: int) -> None:
        """Gateway: prepare the seat for its next attempt."""
        if seat in self._credited:
            self._credited.discard(seat)
            at = seat * _WORDS
            self._words[at + _FRAMES] = self._words[at + _BYTES] = 0

    def cancel(self, seat: int, token: int) -> None:
        """Gateway: cancel the attempt."""
        self._words[seat * _WORDS + _CANCELLED] = token

    def recall(self, seat: int, token: int) -> None:
        """Gateway: the attempt must not start any more. If it has started, it may continue."""
        self._words[seat * _WORDS + _RECALLED] = token

    def credit(self, seat: int, frames: int, size: int) -> None:
        """Gateway: so many partials of the attempt were stored, with so many bytes."""
        self._credited.add(seat)
        at = seat * _WORDS
        self._words[at + _FRAMES], self._words[at + _BYTES] = frames, size

    def started(self, seat: int, token: int) -> bool:
        """Gateway: return whether the attempt has started."""
        return self._words[seat * _WORDS + _STARTED] == token

    def finished(self, seat: int, token: int) -> bool:
        """Gateway: return whether the attempt's target has returned."""
        return self._words[seat * _WORDS + _FINISHED] == token

    def since(self, seat: int) -> int:
        """Gateway: return when the attempt started, in monotonic nanoseconds."""
        return self._words[seat * _WORDS + _SINCE]

    def thread(self, seat: int) -> int:
        """Gateway: return the ident of the thread that runs the attempt."""
        return self._words[seat * _WORDS + _THREAD]

    def recorded_memory(self, seat: int) -> int:
        """Gateway: return the memory just before the call of the attempt's target, 0 before the call."""
        return self._words[seat * _WORDS + _HELD]

    def dumped(self) -> str:
        """Gateway: return the stacks that faulthandler wrote."""
        return os.pread(self.descriptor, self.dump_size(), self._stacks).decode(errors="replace")

    def dump_size(self) -> int:
        """Gateway: return the size of the stacks in bytes."""
        written = os.lseek(self.descriptor, 0, os.SEEK_CUR) - self._stacks
        return min(max(0, written), _STACKS)

    def broken_off(self, since: int) -> bool:
        """Gateway: return whether faulthandler gave up: Python 3.15 stops at a thread that is just starting.

        Args:
            since: the size of the stacks before these were written.
        """
        return _STARTING in os.pread(self.descriptor, self.dump_size() - since, self._stacks + since)

    def make_room(self) -> None:
        """Gateway: if many stacks were written, let the next ones replace them."""
        if self.dump_size() > _STACKS // 2:
            os.lseek(self.descriptor, self._stacks, os.SEEK_SET)

    def close(self) -> None:
        """Release memory and descriptor."""
        self.closed = True
        self._words.release()
        self._map.close()
        os.close(self.descriptor)

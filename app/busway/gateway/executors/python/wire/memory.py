"""How much memory a process holds, and whether a worker's grows from attempt to attempt."""

from __future__ import annotations

import os

MIB = 1024 * 1024
_ENOUGH = 8192  # bytes of /proc/PID/status
_COUNTED = (b"RssAnon:", b"RssShmem:")
_WORTH_A_LOOK = 0.001  # seconds that an attempt took: after a shorter one a look would cost too much
_QUICK_ONES = 256  # shorter ones between two looks
_BUSY_EVERY = 1_000_000_000  # nanoseconds between two looks at a worker that is never idle
_WINDOW = 10  # looks at a worker that is never idle, of which the lowest counts


def resident(pid: int | None) -> int | None:
    """Return the bytes of memory that a process holds, None if it is gone.

    Pages of files are not counted: the kernel takes them back when it needs the room, and a fork
    only gets them back into its tables as it touches them.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.read(descriptor, _ENOUGH)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if _COUNTED[0] not in status:
        return None  # dead, but not buried
    return sum(int(status.partition(name)[2].split(maxsplit=1)[0]) for name in _COUNTED) * 1024


class Growth:
    """What a worker holds more than at its start.

    What is there after a handler's first attempt, such as the model that it loads once, belongs to
    the start: a worker in its place would soon hold the same. So does what was taken and given back.

    Args:
        bound: bytes from which on it is too much.

    Attributes:
        known: the handlers that made an attempt here.
    """

    __slots__ = ("_bound", "_news", "_recent", "_start", "known")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.known: set[str] = set()
        self._news = True
        self._start = 0
        self._recent: list[int] = []

    def first(self, handler: str) -> None:
        """Take note of a handler's first attempt here: a look is due."""
        self.known.add(handler)
        self._news = True

    def idle(self, held: int) -> bool:
        """Look at a worker between attempts; True if it has grown too much."""
        self._recent.clear()
        if self._news:
            self._start, self._news = max(held, self._start), False
        return max(0, held - self._start) >= self._bound

    def busy(self, held: int) -> bool:
        """Look at a worker that always has attempts; True if it has been too large for long."""
        self._recent.append(held)
        return len(self._recent) >= _WINDOW and self.idle(min(self._recent))


class Scales:
    """Looks at a worker's memory when that may tell something, and seldom enough to cost nothing.

    Args:
        bound: as for `Growth`.
    """

    __slots__ = ("_answers", "_growth", "_idle_at", "_next_busy", "_seen")

    def __init__(self, bound: int) -> None:
        self._growth = Growth(bound)
        self._answers = self._seen = 0
        self._idle_at = 0
        self._next_busy = 0

    def answered(self, handler: str, walls: list[float]) -> None:
        """Take note of attempts of a handler and the seconds that they took."""
        self._answers += len(walls)
        growth = self._growth
        if max(walls) >= _WORTH_A_LOOK:
            self._idle_at = self._answers
        if handler not in growth.known:
            growth.first(handler)
            self._idle_at = self._answers

    def idle(self, pid: int | None) -> bool:
        """Look, if it is worth it, at a worker that has no attempt; True if it has grown too much."""
        if self._answers < self._idle_at:
            return False
        held = self._look(pid)
        return held is not None and self._growth.idle(held)

    def busy(self, pid: int | None, now: int) -> bool:
        """Look at a worker that has attempts, seldom; `now` in monotonic nanoseconds."""
        if now < self._next_busy or self._answers == self._seen:
            return False
        self._next_busy = now + _BUSY_EVERY
        held = self._look(pid)
        return held is not None and self._growth.busy(held)

    def _look(self, pid: int | None) -> int | None:
        self._seen = self._answers
        self._idle_at = self._answers + _QUICK_ONES
        return resident(pid)

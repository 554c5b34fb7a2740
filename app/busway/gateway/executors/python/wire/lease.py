"""The lease: memory shared by the gateway and its zygotes, which says until when this node may run attempts.

If several nodes use the database, a node that is frozen or cut off from it is taken for gone after a time.
Then another node may start the next attempt of a handler whose attempts must not overlap. The zygotes kill
these attempts before, also while the gateway is frozen.

Word 0 has the end of the lease, word 1 the number of words that follow and may be in use. Each of these has
the process id of a worker, or 0. The gateway writes all words, each in one piece.
"""

from __future__ import annotations

import mmap
import os
import time

_WORDS = 65_536  # more than there can be workers; unused ones take no memory
_END, _USED, _FIRST = 0, 1, 2


def create() -> int:
    """Return a descriptor of new memory for a lease that does not end.

    Raises:
        OSError: there are no descriptors or no memory.
    """
    descriptor = os.memfd_create("busway-lease", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, _WORDS * 8)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def now() -> int:
    """Return the time in nanoseconds since the machine started. It goes on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Lease:
    """The lease as seen by one process.

    Args:
        descriptor: from `create`, or a zygote's from `reader`. This object closes it.
        writes: whether this is the gateway.

    Attributes:
        limited: gateway: whether the lease has an end.
    """

    def __init__(self, descriptor: int, *, writes: bool) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(
            descriptor, _WORDS * 8, access=mmap.ACCESS_WRITE if writes else mmap.ACCESS_READ
        )
        self._words = memoryview(self._map).cast("Q")
        self._free: list[int] = []
        self._held: dict[int, tuple[int, int]] = {}  # by process id: its word, how many attempts it has
        self._lapsed_until = 0
        self.limited = False

    def reader(self) -> int:
        """Gateway: return a new descriptor for a zygote, which cannot write.

        Raises:
            OSError: there are no descriptors.
        """
        return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)

    def extend(self, end: int) -> bool:
        """Gateway: move the end to a time as from `now`. Return whether the lease had ended before."""
        lapsed = self.ended()
        if lapsed:
            self._lapsed_until = time.monotonic_ns()
        self._words[_END] = end
        self.limited = True
        return lapsed

    def ended(self) -> bool:
        """Return whether the lease has ended."""
        end = self._words[_END]
        return end != 0 and now() >= end

    def lapsed_since(self, moment: int) -> bool:
        """Gateway: return whether the lease was ended at any time since one in monotonic nanoseconds."""
        return self.ended() or self._lapsed_until > moment

    def hold(self, pid: int) -> None:
        """Gateway: a worker gets an attempt that must not run after the end."""
        word, attempts = self._held.get(pid, (0, 0))
        if not attempts:
            word = self._free.pop() if self._free else self._grow()
            self._words[word] = pid
        self._held[pid] = word, attempts + 1

    def release(self, pid: int) -> None:
        """Gateway: such an attempt of a worker has ended."""
        word, attempts = self._held.pop(pid)
        if attempts > 1:
            self._held[pid] = word, attempts - 1
            return
        self._words[word] = 0
        self._free.append(word)

    def _grow(self) -> int:
        used = self._words[_USED]
        self._words[_USED] = used + 1
        return _FIRST + used

    def left(self) -> float | None:
        """Return the seconds until the end, None if the lease does not end. Not below 0."""
        end = self._words[_END]
        return max(0, end - now()) / 1e9 if end else None

    def holders(self) -> list[int]:
        """Zygote: return the workers that have attempts which must not run after the end."""
        return [pid for pid in self._words[_FIRST : _FIRST + self._words[_USED]] if pid]

    def close(self) -> None:
        """Release memory and descriptor."""
        self._words.release()
        self._map.close()
        os.close(self._descriptor)

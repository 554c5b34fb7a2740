"""The waiting runs of one handler that are held in memory: the first of them, never all.

A lane holds at most `CAPACITY` runs; what is behind them stays in the store and is read when the
lane runs low, so that a million waiting runs cost no more memory than a thousand.
"""

from __future__ import annotations

from bisect import insort

from app.domain.run import Run

CAPACITY = 2_000
LOW = CAPACITY // 4


class Lane:
    """Waiting runs of one handler, highest priority first, then oldest.

    `more`: the store may have runs that are due and not here. `reading`: a read of them is under
    way. `queued`: the lane takes its turns.
    """

    def __init__(self, handler: int) -> None:
        self.handler = handler
        self.more = True
        self.reading = False
        self.queued = False
        self._waiting: list[tuple[int, int, Run]] = []  # the next one last

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def wants(self) -> bool:
        """Whether it is time to read on from the store."""
        return self.more and not self.reading and len(self._waiting) <= LOW

    def add(self, run: Run) -> Run | None:
        """Take a run in; return the one that no longer fits, which stays in the store alone."""
        insort(self._waiting, (run.priority, -run.id, run))
        if len(self._waiting) <= CAPACITY:
            return None
        self.more = True
        return self._waiting.pop(0)[2]

    def peek(self) -> Run | None:
        """Return the next run."""
        return self._waiting[-1][2] if self._waiting else None

    def pop(self) -> Run:
        """Take the next run out."""
        return self._waiting.pop()[2]

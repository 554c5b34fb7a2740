"""How much memory the events of waiting runs may take. What does not fit stays in the store."""

from __future__ import annotations

from app.domain.run import Run

TOTAL = 64 << 20  # bytes for all lanes together
SHARE = 8 << 20  # bytes for one lane at most
LEAST = 256 << 10  # bytes for one lane at least, so that none is starved by others that are full
OVERHEAD = 1_000  # bytes that a run and its event take beside the event's data


def weight(run: Run) -> int:
    """Return about how many bytes a run takes."""
    data = run.event.data
    return OVERHEAD + len(data) if data else OVERHEAD


class Budget:
    """The bytes that all lanes together have taken."""

    def __init__(self) -> None:
        self.used = 0
        self.total = TOTAL

    def allowed(self, own: int) -> int:
        """Return how many bytes a lane may take that has taken `own` already."""
        return max(LEAST, min(SHARE, self.total - self.used + own))

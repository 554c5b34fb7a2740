"""How long attempts took and how long runs waited for them, since the gateway started."""

from __future__ import annotations

from collections import defaultdict

from app.domain.attempt import Attempt
from app.domain.histogram import Histogram
from app.domain.times import SECOND
from app.workers.base import Ended


class Durations:
    """Seconds: `attempts` by handler, pool and outcome; `waits` by handler, from due to started."""

    def __init__(self) -> None:
        self.attempts: defaultdict[tuple[str, str, str], Histogram] = defaultdict(Histogram)
        self.waits: defaultdict[str, Histogram] = defaultdict(Histogram)

    def note(self, attempt: Attempt, ended: Ended) -> None:
        """Take an attempt that ended in its worker."""
        self.attempts[attempt.handler, attempt.pool, ended.outcome].add(ended.wall_time)
        waited = ended.started_at - attempt.run.since
        self.waits[attempt.handler].add(waited / SECOND if waited > 0 else 0.0)

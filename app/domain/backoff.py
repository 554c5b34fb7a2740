"""How long a run waits between attempts: exponential, capped, with jitter."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds between attempts: `initial * factor**(failures - 1)`, at most `max`, give or take `jitter`.

    `jitter` is the share of the delay by which it may differ, 0 to 1, so that runs that failed
    together do not come back together.
    """

    initial: float = 1
    factor: float = 2
    max: float = 3600
    jitter: float = 0.1

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after the given number of failures (from 1); `chance` is random in [0, 1)."""
        try:
            plain = min(self.initial * self.factor ** (failures - 1), self.max)
        except OverflowError:
            plain = self.max
        return max(0.0, plain * (1 + self.jitter * (2 * chance - 1)))

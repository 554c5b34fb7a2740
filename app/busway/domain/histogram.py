"""Histograms for `/metrics`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


class Histogram:
    """Counts values by bucket, and their sum.

    Args:
        bounds: upper bounds in increasing order. Values above the last bound are counted, too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def extend(self, values: Iterable[float]) -> None:
        """Count many values."""
        rising, before = sorted(values), 0
        for at, bound in enumerate(self.bounds):
            until = bisect_right(rising, bound, before)
            self.counts[at] += until - before
            before = until
        self.counts[-1] += len(rising) - before
        self.total += sum(rising)

    def cumulative(self) -> list[tuple[str, float]]:
        """Return each upper bound as text, with the number of values up to it. The last is `+Inf`."""
        buckets, sum_ = [], 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            sum_ += count
            buckets.append(("+Inf" if bound is None else repr(float(bound)), float(sum_)))
        return buckets

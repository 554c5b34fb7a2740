"""Results of the events with one correlation id."""

from __future__ import annotations

import msgspec

from busway.domain.result import Result

MOST_EVENTS = 1_000
SCANNED = 20_000  # results that one read looks at


class Correlated(msgspec.Struct):
    """Results of the events with a correlation id, newest first.

    Between `reached` (exclusive) and `until` there are no others, and none above `until`.
    """

    results: list[Result]
    reached: int
    until: int

"""Take back attempts that wait in a worker behind ones that turned out to be long.

Quick attempts queue in a worker because their handler's were quick so far. When every thread of
the worker is busy for longer, what waits behind has not begun and may go elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection

from app.workers.base import Returned
from app.workers.flight import Flight, Moment
from app.workers.slots import Page

_LONG = 50_000_000  # nanoseconds


def is_clogged(flights: Collection[Flight], page: Page, threads: int, now: Moment) -> bool:
    """Tell whether every thread of a worker runs an attempt that takes long."""
    if len(flights) < threads:
        return False
    long = sum(not f.awaits and f.started(page) and now.mono - f.since(page) > _LONG for f in flights)
    return long >= threads


def recall(flights: Collection[Flight], page: Page) -> list[Returned]:
    """Take back what a clogged worker has not begun; to be called at each look at its page.

    At the first look the worker is told not to begin it, and only at the next one, when it can no
    longer have overlooked that, is it given to others.
    """
    told: list[Returned] = []
    for flight in flights:
        if flight.awaits or flight.settled or flight.started(page):
            continue
        if flight.doubted:
            flight.settled = flight.recalled = True
            told.append(Returned(token=flight.assignment.token))
        else:
            flight.doubted = True
            page.recall(flight.seat, flight.assignment.token)
    return told

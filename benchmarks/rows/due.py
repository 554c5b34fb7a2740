"""The memory of a million events with `deliverat` that wait, and how late runs start beside them.

The memory is that of all processes of the gateway after a restart, above that of a gateway without events.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from benchmarks import running
from benchmarks.load import Counter, post
from benchmarks.row import OURS, Comparison, Once, Row, Side
from benchmarks.rows.sockets import QUIET, private_kib

EVENTS, BATCH = 1_000_000, 10_000
SOON = 1_000  # events that are due during the measurement
AHEAD = timedelta(seconds=5)
YEARS = timedelta(days=3_650)


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    with running.folder() as place:

        def once(effort: float) -> dict[str, float]:
            _idle_mib(place / "empty")  # what creates a database takes more memory
            empty = _idle_mib(place / "empty")
            with running.busway(place=_made(place / "full")) as gateway:
                for _ in range(round(EVENTS * effort) // BATCH):
                    _publish(gateway.url, BATCH, YEARS)
            return {"added_mib": _idle_mib(place / "full") - empty, "late_s": _late_s(place / "full")}

        yield once


def _made(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    return place


def _idle_mib(place: Path) -> float:
    """Return the private memory of all processes of a gateway that has started and does nothing."""
    with running.busway(place=_made(place)) as gateway:
        time.sleep(QUIET)
        main = psutil.Process(gateway.process.pid)
        return sum(private_kib(each.pid) for each in (main, *main.children(recursive=True))) / 1024


def _late_s(place: Path) -> float:
    """Return the seconds from the moment when events are due to the last result of them."""
    with running.busway(place=place) as gateway, contextlib.closing(Counter(gateway.url)) as counter:
        due = time.monotonic() + AHEAD.total_seconds()
        _publish(gateway.url, SOON, AHEAD)
        counter.settle(SOON)
        return counter.last - due


def _publish(url: str, count: int, ahead: timedelta) -> None:
    at = (datetime.now(UTC) + ahead).isoformat().replace("+00:00", "Z")
    event = {"type": "bench.noop", "data": {"item": "book", "quantity": 2}, "deliverat": at}
    post(url + "/v1/events", json.dumps([event] * count))


ROW = Row(
    name="due",
    title=f"{EVENTS:,} events with `deliverat` that wait",
    sides=(
        Side(
            OURS,
            f"after a restart, above a gateway without events; late_s: the last of {SOON:,} results that are "
            "due beside them",
            busway,
            alone=True,
        ),
    ),
    comparisons=(
        Comparison("added_mib", (), must=1.0, aim=0.5, at_most=True, theirs=64.0),
        Comparison("late_s", (), must=1.0, aim=0.5, at_most=True, theirs=1.0),
    ),
    rounds=1,
)

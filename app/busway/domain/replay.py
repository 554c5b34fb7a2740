"""Replays: stored events run again by the current revision of a handler."""

from __future__ import annotations

from enum import StrEnum


class ReplayState(StrEnum):
    """State of a replay. The store keeps the position in this list, so new states come last."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


def signed(replay: int, *, shadow: bool) -> int:
    """Return the number of a replay as runs and results have it: negative if it is a shadow replay."""
    return -replay if shadow else replay

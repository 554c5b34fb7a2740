"""Publishing an event and waiting for all that comes of it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from busway.client.errors import BuswayClientError
from busway.contract.events import Receipt, Tree
from busway.contract.results import Item


class Completed(msgspec.Struct, frozen=True):
    """An event with all the results that came of it, in log order; the last one completes it."""

    event: Receipt
    results: list[Item]

    @property
    def completes(self) -> dict[str, int]:
        """How many runs ended in which state; empty if there were none."""
        return (self.results[-1].completes or {}) if self.results else {}


class NotCompleted(BuswayClientError, TimeoutError):
    """The time was up first. The event is stored and its runs go on, unless `event` is None.

    Attributes:
        event: its receipt, None if there was no time for one: whether it was stored is unknown.
        results: those that had come.
    """

    def __init__(self, event: Receipt | None, results: list[Item], seconds: float) -> None:
        what = f"event {event.seq} is stored but was not completed" if event else "there was no receipt"
        super().__init__(f"{what} within {seconds:g} s: look at it later, or give `timeout=` more seconds")
        self.event = event
        self.results = results


def seqs(tree: Tree) -> Iterator[int]:
    """Yield the numbers of an event and of all that its handlers published."""
    yield tree.event.seq
    for child in tree.events:
        yield from seqs(child)

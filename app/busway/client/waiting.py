"""The results of `Client.wait`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from busway.client.errors import BuswayClientError
from busway.contract.events import Receipt, Tree
from busway.contract.results import Item


class Completed(msgspec.Struct, frozen=True):
    """An event with all results of its tree, in log order. The last one completes it."""

    event: Receipt
    results: list[Item]

    @property
    def completes(self) -> dict[str, int]:
        """The number of runs by final state. Empty if there were no runs."""
        return (self.results[-1].completes or {}) if self.results else {}


class NotCompleted(BuswayClientError, TimeoutError):
    """The timeout expired before the event was completed. Its runs continue.

    Attributes:
        event: its receipt. None if there was no answer: it is unknown whether the event is stored.
        results: the results received so far.
    """

    def __init__(self, event: Receipt | None, results: list[Item], seconds: float) -> None:
        what = f"event {event.seq} is stored but was not completed" if event else "no receipt arrived"
        super().__init__(f"{what} within {seconds:g} s: check the event later, or increase `timeout`")
        self.event = event
        self.results = results


def seqs(tree: Tree) -> Iterator[int]:
    """Yield the numbers of all events of a tree."""
    yield tree.event.seq
    for child in tree.events:
        yield from seqs(child)

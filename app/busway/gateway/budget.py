"""Memory that requests may take together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from busway.gateway.errors import Unavailable


class Budget:
    """A number of bytes that several users share.

    Args:
        limit: bytes.
        what: what takes them, and the setting, for the error message.

    Attributes:
        used: bytes that are taken.
        refused: how often there were not enough.
    """

    def __init__(self, limit: int, what: str) -> None:
        self.limit, self._what = limit, what
        self.used = self.refused = 0

    def take(self, size: int) -> None:
        """Take bytes, also beyond the limit if none are taken.

        Raises:
            Unavailable: there are not enough.
        """
        if self.used and self.used + size > self.limit:
            self.refused += 1
            raise self.error()
        self.used += size

    def count(self, size: int) -> None:
        """Count bytes that are taken already, also beyond the limit."""
        self.used += size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.used -= size

    def error(self) -> Unavailable:
        """Return the error for a request that gets no bytes."""
        return Unavailable(f"{self._what} take too much memory now: try again in a second")

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Take bytes for the time of a block.

        Raises:
            Unavailable: there are not enough.
        """
        self.take(size)
        try:
            yield
        finally:
            self.give(size)


class Budgets:
    """The memory for answers that clients have not read, and for bodies that have not arrived completely.

    Args:
        answers, bodies: limits in bytes.
    """

    def __init__(self, answers: int, bodies: int) -> None:
        self.answers = Budget(answers, "answers that clients have not read (--max-answers-bytes)")
        self.bodies = Budget(bodies, "bodies under way (--max-bodies-bytes)")

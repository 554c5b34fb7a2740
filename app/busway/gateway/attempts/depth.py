"""Events that cause one another without end: a chain of them stops at a depth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from busway.domain.event_fields import MAX_DEPTH
from busway.domain.run import Error, Outcome
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.executors.port import Ended

LOOKED_AT = 200  # events of a chain
SHOWN = 8  # types of a chain that does not repeat itself
LONGEST = 16  # types of what repeats itself

Chain = Callable[[int, int], Awaitable[list[str]]]
"""Returns the types of an event and of those that it descends from, at most so many, oldest first."""


async def _unknown(_seq: int, _limit: int) -> list[str]:
    return []


class Depth:
    """How deep events may lie below their root event, which has depth 0.

    Args:
        limit: the deepest event.
        chain: reads the types of a chain from the store.
    """

    def __init__(self, limit: int = MAX_DEPTH, chain: Chain = _unknown) -> None:
        self.limit, self._chain = limit, chain

    def exceeded(self, attempt: Attempt) -> bool:
        """Return whether what an attempt published would be too deep. Shadow runs publish nothing."""
        return attempt.run.event.depth >= self.limit and attempt.run.replay >= 0

    async def refusal(self, attempt: Attempt, ended: Ended) -> Ended:
        """Return the report of an attempt whose published events are too deep: none of them is stored."""
        event = attempt.run.event
        try:
            types = await self._chain(event.seq, LOOKED_AT)
        except Exception:  # the attempt fails in any case
            types = [event.type]
        new = ended.published[0].type
        error = Error(
            "TooDeep",
            f"ctx.publish: {new!r} would be {event.depth + 1} events below its root event, and the limit is "
            f"{self.limit} (--max-depth). Handlers cause one another: {describe([*types, new])}",
        )
        return msgspec.structs.replace(
            ended, outcome=Outcome.FAILED, fatal=True, error=error, data=None, published=[]
        )


def describe(types: list[str]) -> str:
    """Return the end of a chain of types: what repeats itself once, or else the last ones."""
    for period in range(1, LONGEST + 1):
        if len(types) >= 2 * period and types[-period:] == types[-2 * period : -period]:
            return " → ".join(types[-period - 1 :])
    shown = types[-SHOWN:]
    return ("… → " if len(types) > SHOWN else "") + " → ".join(shown)

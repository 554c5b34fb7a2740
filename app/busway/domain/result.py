"""Results: the entries of the result log."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from busway.domain import cursor
from busway.domain.event import Event


class Kind(StrEnum):
    """Kind of a result: a partial value, the final value, or how the attempt ended.

    The store keeps the position in this list, so new kinds come last.
    """

    PARTIAL = "partial"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    LOST = "lost"


KINDS = frozenset({*Kind, "completed"})


class ResultEvent(msgspec.Struct, frozen=True, gc=False):
    """The attributes of its event that a result contains."""

    seq: Annotated[int, Meta(description="The event's number in this gateway.")]
    id: str
    type: str
    source: str
    subject: str | None
    correlationid: str


class Result(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One numbered entry of the result log.

    `data` is JSON text, or bytes if `binary`. `time` is microseconds since 1970.
    `replay` as in `Run`.
    """

    number: int
    kind: Kind
    event: ResultEvent
    handler: str
    revision: int
    run: int
    attempt: int
    index: int | None = None
    data: bytes | None = None
    binary: bool = False
    error: tuple[str, str] | None = None
    completes: bytes | None = None
    replay: int = 0
    time: int = 0

    @property
    def position(self) -> cursor.Position:
        """The position of this result in the log."""
        return cursor.Position(self.number, cursor.digest(self.number, self.run, self.attempt, self.time))

    def cursor(self, epoch: str) -> str:
        """Return the cursor of this result in the log `epoch`."""
        digest = cursor.digest(self.number, self.run, self.attempt, self.time)
        return cursor.text(epoch, self.number, digest)


def result_event(event: Event) -> ResultEvent:
    """Return the attributes of `event` that its results contain."""
    return ResultEvent(event.seq, event.id, event.type, event.source, event.subject, event.correlationid)

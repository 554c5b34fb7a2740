"""Results: the entries of the result log, and the items that subscribers receive."""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Any

import msgspec

from busway.domain import cursor, times
from busway.domain.event import Event


class Kind(StrEnum):
    """Kind of a result: a partial value, the final value, or how the attempt ended."""

    PARTIAL = "partial"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


KINDS = frozenset({*Kind, "completed"})


class ResultEvent(msgspec.Struct, frozen=True, gc=False):
    """The attributes of its event that a result contains."""

    seq: int
    id: str
    type: str
    source: str
    subject: str | None
    correlationid: str


class Result(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One numbered entry of the result log.

    `data` is JSON text, or bytes if `binary`. `time` is microseconds since 1970.
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
    replay: bool = False
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


def item(result: Result, epoch: str) -> dict[str, Any]:
    """Return the item of a result in the log `epoch` as JSON members. Unused fields are None."""
    error = result.error
    body: dict[str, Any] = {
        "cursor": result.cursor(epoch),
        "kind": result.kind,
        "event": result.event,
        "handler": result.handler,
        "revision": result.revision,
        "run": result.run,
        "attempt": result.attempt,
        "index": result.index,
        "data": msgspec.Raw(result.data) if result.data is not None and not result.binary else None,
        "error": {"type": error[0], "message": error[1]} if error else None,
        "completes": msgspec.Raw(result.completes) if result.completes else None,
        "replay": result.replay,
        "time": times.to_text(result.time),
    }
    if result.binary and result.data is not None:
        del body["data"]
        body["data_base64"] = base64.b64encode(result.data).decode()
    return body

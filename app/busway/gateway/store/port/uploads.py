"""The operation of NDJSON uploads."""

from __future__ import annotations

import msgspec

from busway.gateway.store.port.operations import Publish, StoredEvent


class Upload(Publish, kw_only=True):
    """Store the events of the next lines of an upload, with how far it has come. Reply: `Uploaded`.

    Nothing is stored if the producer does not stand at line `first`: another upload of it was faster, or
    lines before it are missing.

    Args:
        producer: its id.
        first: the number of the first of these lines, from 0.
        lines: how many lines are taken.
        rejected: how many of them are no events.
        now: the time.
        oldest: producers without a line since then are forgotten when a new one begins.
        most: so many producers are kept, those that came last.
    """

    producer: str
    first: int
    lines: int
    rejected: int
    now: int
    oldest: int
    most: int


class Uploaded(msgspec.Struct, array_like=True):
    """How many lines of a producer are taken in all. `stored`: as for `Publish`, None if nothing was."""

    lines: int
    stored: list[StoredEvent] | None

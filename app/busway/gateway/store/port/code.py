"""The source of handler code, by the digest of its file."""

from __future__ import annotations

import msgspec

from busway.domain.times import SECOND
from busway.gateway.store.port.operations import Operation

MAX_SOURCE = 256 * 1024  # bytes of a file that is stored
KEPT_REVISIONS = 50  # of each handler
SEEN_EVERY = 3600 * SECOND  # between records that a node still has its files
KEPT_SEEN = 2 * SEEN_EVERY  # files that a node had in that time are kept: they may be declared next


class CodeFile(msgspec.Struct):
    """A source file. `size`: in bytes. `text`: None if it is longer than `MAX_SOURCE` or is no text."""

    digest: str
    size: int
    text: str | None


class SaveCode(Operation, kw_only=True):
    """Store source files. Reply: None.

    Removes what only revisions before the newest `KEPT_REVISIONS` of each handler had, unless a node was seen
    with it within `KEPT_SEEN`, and what no revision has and no node has had for a month. `current`: digests
    of all files that the node has, now.
    """

    files: list[CodeFile]
    current: list[str]
    now: int

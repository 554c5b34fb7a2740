"""The message about a commit for the other nodes. With its content they need not read the commit."""

from __future__ import annotations

import msgspec

from busway.domain.run import Run
from busway.gateway.store.port.cell import CommitRow
from busway.gateway.store.port.operations import NewResult


class NewsResult(msgspec.Struct, array_like=True):
    """A new result. What the others know of its run is missing."""

    number: int
    run: int
    revision: int
    attempt: int
    result: NewResult
    completes: bytes | None = None


class NewsAssignment(msgspec.Struct, array_like=True):
    """An attempt that a node is to start: the one which `CommitChanges.assigned` names.

    `fence`: of the run before it.
    """

    run: int
    attempt: int
    token: int
    pool: str
    fence: int


class Content(msgspec.Struct, array_like=True):
    """The content of a commit. It may lack some of it: compare with the numbers of the commit.

    `final`: the runs that ended do not wait again.
    """

    runs: list[Run] = []
    results: list[NewsResult] = []
    assigned: list[NewsAssignment] = []
    final: bool = False


class News(msgspec.Struct, array_like=True):
    """A commit. `before`: newest event, run and result, and the result's digest, of the commit before."""

    row: CommitRow
    before: tuple[int, int, int, int]
    content: Content | None = None


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(News).decode


def encoded(news: News, most: int) -> bytes:
    """Encode a message in up to `most` bytes, without the content if necessary. Empty: it is too large."""
    whole = encode(news)
    if len(whole) > most and news.content is not None:
        whole = encode(News(news.row, news.before))
    return whole if len(whole) <= most else b""

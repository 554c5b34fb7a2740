"""The source of handler code: one row for each version of a file that a handler of the last revisions had."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from busway.domain.times import SECOND
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import handler_files, handler_revisions, handlers
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.code import KEPT_REVISIONS, KEPT_SEEN, CodeFile, SaveCode

UNUSED = 30 * 86_400 * SECOND  # after which a file without a revision is removed

_which = handler_files.c.digest == sa.bindparam("which")
_one = sa.select(handler_files.c.digest, handler_files.c.size, handler_files.c.text).where(_which)
_digests = sa.select(handler_files.c.digest, handler_files.c.seen_at)
_seen = sa.update(handler_files).where(_which).values(seen_at=sa.bindparam("now", type_=sa.BigInteger))
_kept = (
    sa.select(handler_revisions.c.file_digest)
    .join(handlers, handlers.c.id == handler_revisions.c.handler)
    .where(handler_revisions.c.revision > handlers.c.revision - KEPT_REVISIONS)
)
_prune = sa.delete(handler_files).where(
    handler_files.c.seen_at < sa.bindparam("recent", type_=sa.BigInteger),
    (handler_files.c.seen_at < sa.bindparam("before", type_=sa.BigInteger))
    | handler_files.c.digest.in_(sa.select(handler_revisions.c.file_digest)),
    handler_files.c.digest.not_in(_kept),
)


class _Row(msgspec.Struct, array_like=True):
    digest: str
    size: int
    text: str | None


def save(ledger: Ledger, operation: SaveCode) -> None:
    """Store files that are not known, and remove those that no revision needs any more."""
    transaction, now = ledger.transaction, operation.now
    for file in operation.files:
        if not transaction.fetch(_one, _Row, {"which": file.digest}):
            transaction.execute(sa.insert(handler_files), {**msgspec.structs.asdict(file), "seen_at": now})
    if operation.current:
        transaction.execute(_seen, [{"which": digest, "now": now} for digest in operation.current])
    transaction.execute(_prune, {"recent": now - KEPT_SEEN, "before": now - UNUSED})


def find(snapshot: Snapshot, digest: str) -> CodeFile | None:
    """Return a file by its digest."""
    found = snapshot.fetch(_one, _Row, {"which": digest})
    return CodeFile(found[0].digest, found[0].size, found[0].text) if found else None


def find_digests(snapshot: Snapshot) -> dict[str, int]:
    """Return the digests of all files, each with the time when a node last had it."""
    return dict(snapshot.fetch(_digests, tuple[str, int]))

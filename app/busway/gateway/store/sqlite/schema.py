"""Tables that only SQLite has. The only row of `head` has the newest numbers of events, runs and results."""

from __future__ import annotations

import sqlalchemy as sa

from busway.gateway.store.core.schema import integer, key, text

APPLICATION_ID = 0x42757377  # "Busw": identifies a Busway database

own = sa.MetaData()

head = sa.Table(
    "head",
    own,
    key("id"),
    text("epoch"),
    integer("writer", default="0"),
    integer("event", default="0"),
    integer("run", default="0"),
    integer("result", default="0"),
    integer("digest", default="0"),
    integer("floor", default="0"),
    integer("floor_digest", default="0"),
    sa.CheckConstraint("id = 1"),
    sqlite_strict=True,
)

counts = sa.Table(
    "counts",
    own,
    key("handler"),
    key("state"),
    integer("n"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

last_errors = sa.Table("last_errors", own, key("handler"), text("error"), sqlite_strict=True)

"""Tables that only PostgreSQL has, in the schema `busway`.

No row is changed by every commit, because a transaction that somebody keeps open would make such a row slower
with each version. The newest row of `commits` has the newest numbers. The numbers of runs are in the newest
row of `counts`, and the changes since then in the commits after it.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

SCHEMA = "busway"
REVISION = "0001"
"""The newest migration."""

own = sa.MetaData()

cell = sa.Table(
    "cell",
    own,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("writer", sa.BigInteger, nullable=False),  # names the gateway that uses it
    sa.Column("floor", sa.BigInteger, nullable=False),
    sa.Column("floor_digest", sa.BigInteger, nullable=False),
)

commits = sa.Table(
    "commits",
    own,
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("event", sa.BigInteger, nullable=False),
    sa.Column("run", sa.BigInteger, nullable=False),
    sa.Column("result", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.BigInteger, nullable=False),
    sa.Column("counts", ARRAY(sa.BigInteger), nullable=False),  # handler, state, change; and so on
)

counts = sa.Table(
    "counts",
    own,
    sa.Column("number", sa.BigInteger, primary_key=True),  # of the commit
    sa.Column("counts", ARRAY(sa.BigInteger), nullable=False),  # handler, state, runs; and so on
)

last_errors = sa.Table(
    "last_errors",
    own,
    sa.Column("handler", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),  # of the commit
    sa.Column("error", sa.Text, nullable=False),
)

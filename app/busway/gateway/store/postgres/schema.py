"""Tables that only PostgreSQL has, in the schema `busway`.

No row is changed by every commit, because a transaction that somebody keeps open would make such a row slower
with each version. The newest row of `commits` has the newest numbers. The numbers of runs are in the newest
row of `counts`, and the changes since then in the commits after it.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "busway"
REVISION = "0014"
"""The newest migration."""
OLDEST = "0002"
"""Programs from this migration on can use the tables as they are now, while newer programs use them, too."""

own = sa.MetaData()

cell = sa.Table(
    "cell",
    own,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),  # known to the nodes only
    sa.Column("oldest", sa.Text, nullable=False),  # as `OLDEST`, of the program that migrated last
    sa.Column("floor", sa.BigInteger, nullable=False),
    sa.Column("floor_digest", sa.BigInteger, nullable=False),
)

commits = sa.Table(
    "commits",
    own,
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("node", sa.BigInteger, nullable=False),  # 0: a command
    sa.Column("event", sa.BigInteger, nullable=False),
    sa.Column("run", sa.BigInteger, nullable=False),
    sa.Column("result", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.BigInteger, nullable=False),
    sa.Column("rules", sa.BigInteger, nullable=False),  # version of the handlers and keys
    sa.Column("counts", ARRAY(sa.BigInteger), nullable=False),  # handler, state, change; and so on
    sa.Column("changes", sa.LargeBinary, nullable=False),  # `CommitChanges`, empty if none
)

nodes = sa.Table(
    "nodes",
    own,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),  # of Busway
    sa.Column("beat", sa.BigInteger, nullable=False),  # raised every two seconds
    sa.Column("boot", sa.Text, nullable=False),  # id of the start of its machine
    sa.Column("pid_namespace", sa.BigInteger, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("pid_started", sa.BigInteger, nullable=False),  # in ticks since the start of its machine
    sa.Column("processes", sa.BigInteger, nullable=False),  # attempts at a time in its process pool
    sa.Column("threads", sa.BigInteger, nullable=False),  # in its thread pool
    sa.Column("targets", ARRAY(sa.Text), nullable=False),  # that its code has
    sa.Column("rules", sa.BigInteger, nullable=False),  # the version of handlers and keys that it has
    sa.Column("opened_at", sa.BigInteger, nullable=False),
    sa.Column("closed_at", sa.BigInteger, nullable=True),  # null: the node may write
    sa.Column("role", sa.Text, nullable=False),  # `all`, `gateway` or `worker`
    sa.Column("running", JSONB, nullable=False),  # attempts by pool, at its last renewal
    sa.Column("lag", sa.BigInteger, nullable=False),  # commits that it had not applied, likewise
    sa.Column("code", sa.Text, nullable=False),  # names the version of its handler code
    sa.Column("deliveries", sa.BigInteger, nullable=False),  # events that it sends to URLs at a time
)
sa.Index("nodes_open", nodes.c.id, postgresql_where=sa.text("closed_at IS NULL"))

catalogs = sa.Table(
    "catalogs",
    own,
    sa.Column("number", sa.BigInteger, primary_key=True),  # in the order of their first appearance
    sa.Column("code", sa.Text, nullable=False, unique=True),
    sa.Column("catalog", sa.LargeBinary, nullable=False),  # what a version of handler code defines
)

lingering = sa.Table(
    "lingering",
    own,
    sa.Column("run", sa.BigInteger, primary_key=True),  # its attempt has ended, and may still run
    sa.Column("node", sa.BigInteger, nullable=False),  # that has the attempt
    sa.Column("partitionkey", sa.Text, nullable=True),  # of the run when the attempt ended
)

terms = sa.Table(
    "terms",
    own,
    sa.Column("term", sa.BigInteger, primary_key=True),
    sa.Column("node", sa.BigInteger, nullable=False),  # the leader
    sa.Column("began_at", sa.BigInteger, nullable=False),
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

"""Reads of one transaction on PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_origin

import sqlalchemy as sa

from busway.gateway.store.core.schema import HAS_KEY, UNSTARTED
from busway.gateway.store.core.transaction import Bounds, Row, Values

# Each step is one index lookup, even if keys have many runs. PostgreSQL makes as many steps as are read.
_keys = sa.text(f"""
    WITH RECURSIVE found(k) AS (
        SELECT min(partitionkey) FROM runs
        WHERE handler = :handler AND {HAS_KEY} AND partitionkey > CAST(:after AS text)
        UNION ALL
        SELECT (
            SELECT min(partitionkey) FROM runs WHERE handler = :handler AND {HAS_KEY} AND partitionkey > k
        ) FROM found WHERE k IS NOT NULL
    )
    SELECT k FROM found WHERE k IS NOT NULL LIMIT CAST(:limit AS bigint)
""")  # noqa: S608 - made of constants
_first_of_keys = sa.text(f"""
    SELECT wanted.at - 1, first.id, coalesce(length(events.data), 0)
    FROM unnest(CAST(:keys AS text[])) WITH ORDINALITY AS wanted(key, at)
    CROSS JOIN LATERAL (
        SELECT id, event, attempt FROM runs
        WHERE handler = :handler AND partitionkey = wanted.key AND {HAS_KEY}
        AND (attempt > 0 OR due IS NULL OR due <= :now) ORDER BY {UNSTARTED}, id
        LIMIT CAST(:limit AS bigint)
    ) AS first
    JOIN events ON events.seq = first.event
    ORDER BY wanted.at, (first.attempt = 0), first.id
""")  # noqa: S608 - made of constants
_bounds = sa.text("""
    SELECT epoch, event, run, result, digest, floor, floor_digest
    FROM cell, (SELECT event, run, result, digest FROM commits ORDER BY number DESC LIMIT 1) AS head
""")
_rules = sa.text("SELECT rules FROM commits ORDER BY number DESC LIMIT 1")
# A node with 0 reads them later: it starts.
_behind = sa.text("SELECT id FROM nodes WHERE closed_at IS NULL AND rules BETWEEN 1 AND :rules - 1")
_lingering = sa.text("SELECT run, node, partitionkey FROM lingering ORDER BY run")
_counts = sa.text("""
    WITH base AS MATERIALIZED (SELECT number, counts FROM counts ORDER BY number DESC LIMIT 1)
    SELECT counts FROM base
    UNION ALL
    SELECT counts FROM commits WHERE number > (SELECT number FROM base) AND counts <> '{}'
""")
_last_errors = sa.text("""
    SELECT id, error FROM handlers CROSS JOIN LATERAL (
        SELECT error FROM last_errors WHERE handler = handlers.id ORDER BY number DESC LIMIT 1
    ) AS newest
""")


class PostgresSnapshot:
    """Implements `Snapshot` on a connection in a transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    def fetch(
        self,
        query: sa.Select[*tuple[Any, ...]],
        row: type[Row],
        parameters: Mapping[str, Any] | None = None,
    ) -> list[Row]:
        """Run a query and return its rows."""
        rows = self.rows(query, parameters or {})
        if get_origin(row) is tuple:
            return rows
        return [row(*map(_text, values)) for values in rows]

    def stream(self, query: sa.Select[*tuple[Any, ...]]) -> Iterator[Values]:
        """Run a query and yield its rows one by one."""
        streamed = self.connection.execution_options(stream_results=True, yield_per=1_000)
        return (tuple(row) for row in streamed.execute(query))

    def bounds(self) -> Bounds:
        """Return the bounds of the logs."""
        return Bounds(*self.rows(_bounds, {})[0])

    def lingering(self) -> list[tuple[int, int, str | None]]:
        """Return the runs whose attempt has ended and may still run: with its node and partition key."""
        return self.rows(_lingering, {})

    def rules(self) -> int:
        """Return the version of the handlers and keys."""
        return int(self.rows(_rules, {})[0][0])

    def nodes_behind(self, rules: int) -> list[int]:
        """Return the open nodes that have an older version of the handlers and keys."""
        return [id_ for (id_,) in self.rows(_behind, {"rules": rules})]

    def partition_keys(self, handler: int, after: str, limit: int) -> list[str]:
        """Return the first partition keys above `after` for which a handler has waiting runs, in order."""
        return [key for (key,) in self.rows(_keys, {"handler": handler, "after": after, "limit": limit})]

    def first_of_keys(
        self, handler: int, keys: Sequence[str], now: int, limit: int
    ) -> list[tuple[int, int, int]]:
        """Return up to `limit` waiting runs of each key: its index, the run, the size of its event's data."""
        which = {"handler": handler, "keys": list(keys), "now": now, "limit": limit}
        return self.rows(_first_of_keys, which)

    def counts(self) -> list[tuple[int, int, int]]:
        """Return the number of runs of each handler in each state, those that are not 0."""
        total: Counter[tuple[int, int]] = Counter()
        for (flat,) in self.rows(_counts, {}):
            for handler, state, n in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
                total[handler, state] += n
        return [(*key, n) for key, n in sorted(total.items()) if n]

    def last_errors(self) -> list[tuple[int, str]]:
        """Return the newest error of each handler."""
        return self.rows(_last_errors, {})

    def rows(self, query: sa.Executable, parameters: Mapping[str, Any]) -> list[Any]:
        """Run a query of any kind and return its rows. Every read but `stream` comes here."""
        return [tuple(row) for row in self.connection.execute(query, parameters)]


def _text(value: Any) -> Any:
    return value.decode(errors="surrogateescape") if type(value) is bytes else value

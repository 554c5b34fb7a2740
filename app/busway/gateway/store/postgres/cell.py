"""The connection of a node to its cell: its row, the commit log, and notifications."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from busway.gateway.errors import Unavailable
from busway.gateway.store.port.cell import CellState, CommitChanges, CommitRow, NodeRow, Offer
from busway.gateway.store.postgres import connections, statements
from busway.gateway.store.postgres.transaction import channel

_COMMIT = "number, node, event, run, result, digest, rules, changes"
_NODE = (
    "id, name, version, beat, boot, pid_namespace, pid, pid_started, processes, threads, targets, opened_at, "
    "role, running, lag, code, deliveries"
)
_NEWEST = f"SELECT {_COMMIT} FROM commits ORDER BY number DESC LIMIT 1"  # noqa: S608 - made of constants
_AFTER = f"SELECT {_COMMIT} FROM commits WHERE number > %s ORDER BY number LIMIT %s"  # noqa: S608 - as above
SELECT_NODES = f"""
    SELECT {_NODE}, coalesce((SELECT number FROM catalogs WHERE code = nodes.code), 0)
    FROM nodes WHERE closed_at IS NULL ORDER BY id
"""  # noqa: S608 - as above
_JOIN = """
    WITH joined AS (
        INSERT INTO nodes (
            name, version, beat, boot, pid_namespace, pid, pid_started, processes, threads, targets,
            opened_at, role
        )
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id, name
    )
    INSERT INTO node_names SELECT id, name FROM joined RETURNING id
"""
_RENEW = """
    UPDATE nodes SET beat = beat + 1, lag = greatest(0, (SELECT max(number) FROM commits) - %s), running = %s
    WHERE id = %s AND closed_at IS NULL
"""
_ADD_CATALOG = "INSERT INTO catalogs (code, catalog) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_PRUNE_CATALOGS = """
    DELETE FROM catalogs WHERE number < (SELECT max(number) FROM catalogs) - %s
    AND code NOT IN (SELECT code FROM nodes WHERE closed_at IS NULL)
"""
_CATALOGS = 1_000  # versions of handler code that are kept, so that one that comes back is no new one
_OFFER = (
    "UPDATE nodes SET processes = %s, threads = %s, deliveries = %s, targets = %s, code = %s WHERE id = %s"
)
_CONFIRM = "UPDATE nodes SET rules = %s WHERE id = %s"
_LEAVE = """
    UPDATE nodes SET closed_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    WHERE id = %s AND closed_at IS NULL
"""
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name IN (%s, %s) AND usename = user AND datname = current_database()
"""
_decode_changes = msgspec.msgpack.Decoder(CommitChanges).decode


class PostgresCellLink:
    """Implements `CellLink`.

    Args:
        url: the database, migrated.
        listens: whether nodes notify each other over the database.
    """

    def __init__(self, url: str, *, listens: bool = True) -> None:
        self._url, self._listens = url, listens
        self.epoch = self._channel = ""
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._name = "cell"

    async def open(self) -> None:
        """Connect, and hear of commits from now on, if the link listens."""
        await self.close()
        with _failing():
            self._connection = await connections.connect_async(self._url, self._name)
            [(self.epoch, secret)] = await self._rows("SELECT epoch, secret FROM cell")
            self._channel = channel(self.epoch, secret)
            if self._listens:
                await self._rows(f"LISTEN {self._channel}")

    async def close(self) -> None:
        """Close the connection, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def join(self, row: NodeRow) -> int:
        """Insert the row of a node. Return its id."""
        values = msgspec.structs.astuple(row)[1:-5]
        with _failing():
            [(id_,)] = await self._rows(_JOIN, *values)
            self._name = f"cell/{id_}"
            await self._rows("SELECT set_config('application_name', %s, false)", f"busway/{self._name}")
        return int(id_)

    async def secret(self) -> bytes:
        """Return the secret of the cell, which only its nodes know."""
        with _failing():
            [(secret,)] = await self._rows(statements.SELECT_SECRET)
        return bytes(secret)

    async def time(self) -> int:
        """Return the time of the database in microseconds since 1970."""
        with _failing():
            [(now,)] = await self._rows("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        return int(now)

    async def renew(self, node: int, applied: int, running: dict[str, int]) -> bool:
        """Raise the beat of a node. Return False if its row is closed."""
        with _failing():
            return await self._count(_RENEW, applied, Jsonb(running), node) == 1

    async def offer(self, node: int, offer: Offer) -> None:
        """Say what a node can run from now on, and let the others know, if the link listens."""
        with _failing():
            known = await self._rows("SELECT FROM catalogs WHERE code = %s", offer.code)
            if offer.code and not known:
                await self._count(_ADD_CATALOG, offer.code, offer.catalog)
                await self._count(_PRUNE_CATALOGS, _CATALOGS)
            offered = offer.processes, offer.threads, offer.deliveries, offer.targets, offer.code
            await self._count(_OFFER, *offered, node)
            await self._tell()

    async def catalog(self, number: int) -> bytes:
        """Return what a version of handler code defines, as it was offered."""
        with _failing():
            rows = await self._rows("SELECT catalog FROM catalogs WHERE number = %s", number)
        if not rows:
            raise Unavailable("the catalog of the handler code is not in the database any more")
        return bytes(rows[0][0])

    async def catalogs_after(self, number: int) -> dict[int, bytes]:
        """Return what the versions of handler code define that appeared after one, by number."""
        with _failing():
            rows = await self._rows("SELECT number, catalog FROM catalogs WHERE number > %s", number)
        return {number: bytes(catalog) for number, catalog in rows}

    async def confirm(self, node: int, rules: int) -> None:
        """Say which version of the handlers and keys a node has."""
        with _failing():
            await self._count(_CONFIRM, rules, node)

    async def leave(self, node: int) -> None:
        """Close the row of a node, and let the others know, if the link listens."""
        with _failing():
            await self._count(_LEAVE, node)
            await self._tell()

    async def state(self) -> CellState:
        """Return the open nodes and the leader."""
        with _failing():
            [(term, leader)] = await self._rows(statements.SELECT_TERM)
            nodes = node_rows(await self._rows(SELECT_NODES))
        return CellState(nodes, term, leader)

    async def newest(self) -> CommitRow:
        """Return the newest commit."""
        with _failing():
            [row] = await self._rows(_NEWEST)
        return _commit(row)

    async def commits_after(self, number: int, limit: int) -> list[CommitRow]:
        """Return commits with numbers above `number`, oldest first."""
        with _failing():
            return [_commit(row) for row in await self._rows(_AFTER, number, limit)]

    async def end_sessions(self, node: int) -> None:
        """End what a node that is gone has open."""
        with _failing():
            await self._rows(_END_SESSIONS, f"busway/committer/{node}", f"busway/cell/{node}")

    async def wait(self, seconds: float) -> list[str]:
        """Return what nodes have notified, when one has. Nothing after `seconds`."""
        with _failing():
            heard = self._open().notifies(timeout=seconds, stop_after=1)
            return [notification.payload async for notification in heard]

    async def _tell(self) -> None:
        """Let the other nodes look, if the link listens. They look once a second anyway."""
        if self._listens:
            with contextlib.suppress(psycopg.errors.ProgramLimitExceeded):  # the queue of NOTIFY is full
                await self._rows("SELECT pg_notify(%s, '')", self._channel)

    def _open(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None:
            raise Unavailable("there is no connection to the database")
        return self._connection

    async def _rows(self, statement: str, *parameters: Any) -> list[Any]:
        async with asyncio.timeout(connections.PATIENCE):
            cursor = await self._open().execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else []

    async def _count(self, statement: str, *parameters: Any) -> int:
        async with asyncio.timeout(connections.PATIENCE):
            return (await self._open().execute(statement, parameters)).rowcount


def node_rows(rows: list[tuple[Any, ...]]) -> list[NodeRow]:
    """Return the nodes that `SELECT_NODES` found."""
    names = NodeRow.__struct_fields__
    return [NodeRow(**dict(zip(names, row, strict=True))) for row in rows]


def _commit(row: tuple[Any, ...]) -> CommitRow:
    number, node, event, run, result, digest, rules, changes = row
    return CommitRow(
        number=number,
        node=node,
        event=event,
        run=run,
        result=result,
        digest=digest,
        rules=rules,
        changes=_decode_changes(changes) if changes else CommitChanges(),
    )


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Unavailable(f"PostgreSQL cannot be used: {connections.no_answer()}") from None
    except connections.ERRORS as problem:
        raise Unavailable(f"PostgreSQL cannot be used: {connections.cause(problem)}") from None

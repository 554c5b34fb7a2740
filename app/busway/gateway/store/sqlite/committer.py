"""The committer program: the only process that writes to the SQLite database while a gateway runs.

    python -m busway.gateway.store.sqlite.committer FD

FD is its end of a socketpair. The first frame names the database. When the other end closes, the committer
finishes its batch and ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import sqlite3
import sys
from pathlib import Path

import sqlalchemy as sa

from busway.gateway import garbage
from busway.gateway.channel import BlockingChannel, pack
from busway.gateway.store.group import frames
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite import statements
from busway.gateway.store.sqlite.checkpoints import Checkpoints
from busway.gateway.store.sqlite.writer import Refused, Replaced, Writer

CACHE = 128 << 10  # KiB; random ids access the unique index at random, so it must fit in memory
BUSY = 30_000  # milliseconds to wait for a `busway` command that writes at the same time


class Database:
    """The write connection."""

    def __init__(self, path: Path) -> None:
        self._path, self._name = path, secrets.randbits(62)
        pragmas = (f"cache_size=-{CACHE}", f"busy_timeout={BUSY}")
        self._engine = sqlite.engine(path, *pragmas, poolclass=sa.NullPool)
        self._connect()
        self.head = self._writer.claim()

    def write(self, batch: frames.Batch) -> frames.Done:
        """Write a batch.

        Raises:
            Replaced: another committer took over.
            sqlite3.Error, sqlalchemy.exc.DBAPIError: the outcome is unknown. Call `reopen`.
        """
        head, replies = self._writer.write(batch.operations, batch.since)
        refused = {index: reply.why for index, reply in enumerate(replies) if isinstance(reply, Refused)}
        for index in refused:
            replies[index] = None
        return frames.Done(head, replies, refused)

    def reopen(self) -> int:
        """Reconnect after an error and return the newest result number.

        It truncates the write-ahead log, because the disk may be full.

        Raises:
            sqlite3.Error, sqlalchemy.exc.DBAPIError: the database cannot be read either.
        """
        self._connection.close()
        self._connect()
        self.checkpoints.truncate()
        return int(self._connection.exec_driver_sql(statements.SELECT_HEAD).one().result)

    def close(self) -> None:
        """Checkpoint the write-ahead log into the database file and close it."""
        self.checkpoints.truncate()
        self._connection.close()

    def _connect(self) -> None:
        self._connection = self._engine.connect()
        self._writer = Writer(self._connection, self._name)
        self.checkpoints = Checkpoints(self._connection, self._path, BUSY)


def serve(sock: socket.socket, channel: BlockingChannel, database: Database) -> None:
    """Write batches until the gateway closes its end.

    Raises:
        OSError: the gateway ended before it received the reply.
        Replaced: another committer took over.
    """
    hello = frames.Hello(database.head.epoch, database.head.result)
    channel.send(pack(frames.HELLO, 0, frames.encode(hello)))
    while True:
        checkpoints = database.checkpoints
        if checkpoints.pause and not select.select([sock], [], [], checkpoints.pause)[0]:
            checkpoints.idle()
        received = channel.receive()
        if not received:
            return
        for _, number, body in received:
            channel.send(_answer(database, number, frames.decode_batch(body)))
            database.checkpoints.written()


def _answer(database: Database, number: int, batch: frames.Batch) -> bytes:
    try:
        return pack(frames.DONE, number, frames.encode(database.write(batch)))
    except (sa.exc.DBAPIError, sqlite3.Error) as problem:
        failed = frames.Failed(sqlite.cause(problem), database.reopen())
        return pack(frames.FAILED, number, frames.encode(failed))


def main() -> None:
    """Serve one gateway. The exit status is 1 if the database fails."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # the gateway drains first and then closes the socket
    sock = socket.socket(fileno=int(sys.argv[1]))
    channel = BlockingChannel(sock)
    asked = channel.receive()
    if not asked:
        return
    try:
        database = Database(Path(os.fsdecode(asked[0][2])))
        garbage.tune()
        with contextlib.suppress(OSError):
            serve(sock, channel, database)
        database.close()
    except (sa.exc.DBAPIError, sqlite3.Error) as problem:
        sys.exit(f"the committer stops, the database failed: {sqlite.cause(problem)}")
    except Replaced:
        sys.exit("the committer stops: another committer took over the database")


if __name__ == "__main__":
    main()

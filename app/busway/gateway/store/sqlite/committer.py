"""The committer program: the only process that writes to the SQLite database while a gateway runs.

    python -m busway.gateway.store.sqlite.committer FD

FD is its end of a socketpair. The first frame names the database. When the other end closes, the committer
finishes its batch and ends.

While a file of the database is not where it was, nothing is written. The committer keeps the files open, so
that it can go on when they are back, and so that what it has written is in the file, wherever that is now.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from typing import NoReturn

import msgspec
import sqlalchemy as sa

from busway.gateway import garbage, streams
from busway.gateway.channel import BlockingChannel, Frame, pack
from busway.gateway.store.core.transaction import Replaced
from busway.gateway.store.core.writer import Refused, Writer
from busway.gateway.store.group import frames
from busway.gateway.store.group.frames import FileId
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite import statements
from busway.gateway.store.sqlite.checkpoints import IDLE_AFTER, Checkpoints
from busway.gateway.store.sqlite.files import DatabaseFiles, FilesChanged
from busway.gateway.store.sqlite.transaction import SQLiteTransaction

CACHE = 128 << 10  # KiB; random ids access the unique index at random, so it must fit in memory
BUSY = 30_000  # milliseconds to wait for a `busway` command that writes at the same time


class Database:
    """The write connection.

    Args:
        path: the database file, which exists.
        known: its files as another committer had them open, None for the first one.

    Raises:
        FilesChanged: these are not the same files.
        sqlite3.Error, sqlalchemy.exc.DBAPIError: the database cannot be opened.
    """

    def __init__(self, path: Path, known: list[FileId] | None) -> None:
        self._path, self._name = path, secrets.randbits(62)
        self.files = DatabaseFiles(path, known)
        self.files.verify()
        pragmas = (f"cache_size=-{CACHE}", f"busy_timeout={BUSY}")
        self._engine = sqlite.engine(path, *pragmas, create=False, poolclass=sa.NullPool)
        self._connect()
        self.head = self._transaction.claim()
        self.files.opened()

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
            FilesChanged: a file was moved or replaced meanwhile.
            sqlite3.Error, sqlalchemy.exc.DBAPIError: the database cannot be read either.
        """
        self._connection.close()
        self._connect()
        self.checkpoints.truncate()
        head = self.newest()
        self.files.opened()
        return head

    def newest(self) -> int:
        """Return the number of the newest result.

        Raises:
            sqlite3.Error, sqlalchemy.exc.DBAPIError: the database failed.
        """
        return int(self._connection.exec_driver_sql(statements.SELECT_HEAD).one().result)

    def close(self) -> None:
        """Checkpoint the write-ahead log into the database file and close it."""
        self.checkpoints.truncate()
        if self.files.problem() is None:
            self._connection.close()
        else:  # SQLite would remove the log by its name, which may be that of another file now
            os._exit(0)

    def _connect(self) -> None:
        self._connection = self._engine.connect()
        self._transaction = SQLiteTransaction(self._connection, self._name)
        self._writer = Writer(self._transaction)
        self.checkpoints = Checkpoints(self._connection, self._path, BUSY)


class Session:
    """Writes the batches of one gateway.

    Args:
        channel: to the gateway.
        database: the open database.
    """

    def __init__(self, channel: BlockingChannel, database: Database) -> None:
        self._channel, self._database = channel, database
        self._in_trouble = self._broken = self._blocked = False

    def run(self) -> None:
        """Write batches until the gateway closes its end.

        Raises:
            OSError: the gateway ended before it received the reply.
            Replaced: another committer took over.
            FilesChanged, sqlite3.Error, sqlalchemy.exc.DBAPIError: the database cannot be used any more.
        """
        database = self._database
        hello = frames.Hello(database.head.epoch, database.head.result, database.files.known)
        self._send(frames.HELLO, 0, hello)
        while True:
            try:
                received = self._channel.receive()
            except TimeoutError:
                self._idle()
                continue
            if not received:
                return
            for _, number, body in received:
                if not self._in_trouble:
                    self._write(number, frames.decode_batch(body))

    def _write(self, number: int, batch: frames.Batch) -> None:
        database = self._database
        try:
            reply = pack(frames.DONE, number, frames.encode(database.write(batch)))
            why = database.files.recent_problem()
        except (sa.exc.DBAPIError, sqlite3.Error) as problem:
            why = database.files.problem()
            if why is None:
                failed = frames.Failed(sqlite.cause(problem), database.reopen(), database.files.known)
                reply = pack(frames.FAILED, number, frames.encode(failed))
            else:
                self._broken = True
        if why is None:
            self._channel.send(reply)
            database.checkpoints.written()
            self._report_readers()
        else:
            self._report(why)

    def _idle(self) -> None:
        database = self._database
        why = database.files.problem()
        if why is not None:
            if not self._in_trouble:
                self._report(why)
        elif self._in_trouble:
            self._go_on()
        elif database.checkpoints.due:
            database.checkpoints.idle()
            self._report_readers()

    def _report_readers(self) -> None:
        blocked = self._database.checkpoints.blocked
        if blocked is not self._blocked:
            self._blocked = blocked
            self._channel.send(pack(frames.BLOCKED, 0, frames.encode(blocked)))

    def _report(self, why: str) -> None:
        self._in_trouble = True
        self._send(frames.TROUBLE, 0, frames.Trouble(why))

    def _go_on(self) -> None:
        """Accept batches again. The gateway failed the last one, which may have been written."""
        database = self._database
        head = database.reopen() if self._broken else database.newest()
        self._in_trouble = self._broken = False
        self._send(frames.TROUBLE, 0, frames.Trouble("", head))

    def _send(self, kind: int, number: int, what: msgspec.Struct) -> None:
        self._channel.send(pack(kind, number, frames.encode(what)))


def main() -> None:
    """Serve one gateway. The exit status is 1 if the database fails."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # the gateway drains first and then closes the socket
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    streams.install(streams.Queued)
    channel = BlockingChannel(socket.socket(fileno=int(sys.argv[1])), IDLE_AFTER)
    asked: list[Frame] = []
    while not asked:
        with contextlib.suppress(TimeoutError):
            asked = channel.receive()
            if not asked:
                return
    wanted = frames.decode_open(asked[0][2])
    try:
        database = Database(Path(os.fsdecode(wanted.path)), wanted.files)
        garbage.tune()
        with contextlib.suppress(OSError):
            Session(channel, database).run()
        database.close()
    except (sa.exc.DBAPIError, sqlite3.Error) as problem:
        _give_up(channel, f"the database failed: {sqlite.cause(problem)}")
    except FilesChanged as problem:
        _give_up(channel, str(problem))
    except Replaced:
        _give_up(channel, "another committer took over the database")


def _give_up(channel: BlockingChannel, why: str) -> NoReturn:
    with contextlib.suppress(OSError):  # the gateway has ended
        channel.send(pack(frames.TROUBLE, 0, frames.encode(frames.Trouble(why))))
    os._exit(1)  # an exception may have left the connection open, which must not remove files now


if __name__ == "__main__":
    main()

"""The committer program: the only process that writes to the database while a gateway runs.

    python -m busway.gateway.store.committer FD

FD is its end of a socketpair. The first frame names the database. When the other end closes, the committer
finishes its batch and ends. While the database cannot be written, the committer says why and writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn, Protocol

import msgspec

from busway.gateway import garbage, streams
from busway.gateway.channel import BlockingChannel, Frame, pack
from busway.gateway.store.core.ledger import Outdated
from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.core.writer import Refused, Writer
from busway.gateway.store.group import frames
from busway.gateway.store.group.frames import FileId
from busway.gateway.store.port.database import is_postgres, sqlite_path
from busway.gateway.store.sqlite.write_connection import SQLiteWriteConnection

_NOTHING = (Refused, Outdated)  # replies to operations that changed nothing
IDLE_AFTER = 1.0  # seconds without a batch


class WriteConnection(Protocol):
    """The write connection of a database.

    Attributes:
        epoch: names the log.
        head: the number of the newest result when it was opened.
        errors: what the driver raises. After one from `writer`, the outcome is unknown: call `reopen`.
    """

    epoch: str
    head: int
    errors: tuple[type[Exception], ...]
    writer: Writer

    @property
    def commit(self) -> int:
        """The number of the newest commit, 0 if the database does not count them."""

    @property
    def news(self) -> bytes:
        """What the other nodes are to know of the newest commit, empty if they know or it is large."""

    @property
    def files(self) -> list[FileId]:
        """The open files of the database, for the next committer."""

    @property
    def blocked(self) -> bool:
        """Whether a reader keeps the write-ahead log from being emptied."""

    @property
    def due(self) -> bool:
        """Whether `idle` has something to do."""

    def problem(self, *, recent: bool = False) -> str | None:
        """Return why nothing can be written. `recent`: None without a check if the last one is recent."""

    def cause(self, problem: BaseException) -> str:
        """Return the driver's error message."""

    def written(self) -> None:
        """Do what is due after a batch."""

    def idle(self) -> None:
        """Do what is due in a pause."""

    def save(self) -> None:
        """Let the open files have all that was written: nobody may be able to find one of them again."""

    def reopen(self) -> int:
        """Reconnect after an error and return the number of the newest result.

        Raises:
            Unusable: the database is another one.
            Exception: one of `errors`: it cannot be reached.
        """

    def newest(self) -> int:
        """Return the number of the newest result."""

    def close(self) -> None:
        """Close the connection."""


class Session:
    """Writes the batches of one gateway.

    Args:
        channel: to the gateway.
        database: the open database.
    """

    def __init__(self, channel: BlockingChannel, database: WriteConnection) -> None:
        self._channel, self._database = channel, database
        self._broken = self._blocked = False
        self._trouble = ""  # why nothing is written, as the gateway knows it

    def run(self) -> None:
        """Write batches until the gateway closes its end.

        Raises:
            OSError: the gateway ended before it received the reply.
            Unusable: the database cannot be used any more.
            Exception: one of the driver's errors: it cannot be reached.
        """
        database = self._database
        hello = frames.Hello(database.epoch, database.head, database.files, database.commit)
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
                if not self._trouble:
                    self._write(number, frames.decode_batch(body))

    def _write(self, number: int, batch: frames.Batch) -> None:
        database = self._database
        try:
            done = _done(*database.writer.write(batch.operations, batch.since))
            if database.commit:  # others may write, too
                done.commit, done.waited = database.commit, database.writer.waited
                done.news = database.news
            reply = pack(frames.DONE, number, frames.encode(done))
            why = database.problem(recent=True)
        except database.errors as problem:
            why = database.problem()
            if why is None:
                failed = frames.Failed(database.cause(problem), database.reopen(), database.files)
                failed.commit = database.commit
                reply = pack(frames.FAILED, number, frames.encode(failed))
            else:
                self._broken = True
        if why is None:
            self._channel.send(reply)
            database.written()
            self._report_readers()
        else:
            self._report(why)

    def _idle(self) -> None:
        database = self._database
        why = database.problem()
        if why is not None:
            if why != self._trouble:
                self._report(why)
        elif self._trouble:
            self._go_on()
        elif database.due:
            database.idle()
            self._report_readers()

    def _report_readers(self) -> None:
        blocked = self._database.blocked
        if blocked is not self._blocked:
            self._blocked = blocked
            self._channel.send(pack(frames.BLOCKED, 0, frames.encode(blocked)))

    def _report(self, why: str) -> None:
        self._trouble = why
        self._send(frames.TROUBLE, 0, frames.Trouble(why))
        if not self._broken:
            self._database.save()

    def _go_on(self) -> None:
        """Accept batches again. The gateway failed the last one, which may have been written."""
        database = self._database
        head = database.reopen() if self._broken else database.newest()
        self._trouble, self._broken = "", False
        self._send(frames.TROUBLE, 0, frames.Trouble("", head, database.commit))

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
    errors = SQLiteWriteConnection.errors
    try:
        database = _open(wanted)
        errors = database.errors
        garbage.tune()
        with contextlib.suppress(OSError):
            Session(channel, database).run()
        database.close()
    except Unusable as problem:
        _give_up(channel, str(problem))
    except errors as problem:
        _give_up(channel, f"the database failed: {_cause(problem)}")


def _open(wanted: frames.Open) -> WriteConnection:
    url = os.fsdecode(wanted.url)
    if is_postgres(url):
        from busway.gateway.store.postgres.write_connection import PostgresWriteConnection  # noqa: PLC0415 - loaded if used

        return PostgresWriteConnection(url, wanted.node, notifies=wanted.notifies)
    return SQLiteWriteConnection(Path(sqlite_path(url)), wanted.files, wanted.name)


def _cause(problem: BaseException) -> str:
    return str(getattr(problem, "orig", None) or problem)


def _done(head: int, replies: list[Any]) -> frames.Done:
    done = frames.Done(head, replies)
    for index, reply in [(n, reply) for n, reply in enumerate(replies) if isinstance(reply, _NOTHING)]:
        replies[index] = None
        if isinstance(reply, Refused):
            done.refused[index] = reply.why
        else:
            done.outdated.append(index)
    return done


def _give_up(channel: BlockingChannel, why: str) -> NoReturn:
    with contextlib.suppress(OSError):  # the gateway has ended
        channel.send(pack(frames.TROUBLE, 0, frames.encode(frames.Trouble(why))))
    os._exit(1)  # an exception may have left the connection open, which must not remove files now


if __name__ == "__main__":
    main()

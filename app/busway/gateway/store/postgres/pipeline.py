"""Sends statements in one write, and reads their results: one round trip.

psycopg's own pipeline writes each statement by itself, which wakes the server's process as often: it took
three to six times as long. The writer's statements use libpq's pipeline. psycopg still converts the values.
"""

from __future__ import annotations

import itertools
import re
import select
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int8BinaryDumper

from busway.gateway.store.postgres.connections import Connection, no_answer

PREPARED = 200  # statements of a connection
_REPEATED = 3  # uses of a statement until it is prepared
_INTERVAL = 1.0  # seconds between looks at the clock while the server does not answer
_PLACEHOLDER = re.compile("%[bs]")
_Key = tuple[str, tuple[int, ...]]
"""A statement, and the types of its values."""


class _Command:
    """A statement whose values are converted."""

    __slots__ = ("formats", "key", "values")

    def __init__(self, key: _Key, values: Sequence[Any], formats: Sequence[pq.Format]) -> None:
        self.key, self.values, self.formats = key, values, formats


class Pipeline:
    """Runs statements on a connection, which no other statement uses meanwhile.

    Args:
        connection: it is closed if the server does not answer within its `patience`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._pg = connection, connection.pgconn
        cursor = connection.cursor()  # has adapters of its own
        cursor.adapters.register_dumper(int, Int8BinaryDumper)  # one type for all numbers: fewer statements
        self._transformer = Transformer(cursor)
        self._texts: dict[str, bytes] = {}  # of statements, as the server gets them
        self._uses: Counter[_Key] = Counter()
        self._numbers = itertools.count(1)
        self._names: dict[_Key, bytes] = {}  # of prepared statements

    def run(
        self, statements: Sequence[tuple[str, Sequence[Any]]], queries: int
    ) -> list[list[tuple[Any, ...]]]:
        """Run statements. Return the rows of the last `queries` of them.

        Args:
            statements: each with its values, one for each `%b` or `%s`.
            queries: how many of them, at the end, return rows that are wanted.

        Raises:
            psycopg.Error: a statement failed, and those after it had no effect; or the connection broke.
        """
        commands = [self._converted(*statement) for statement in statements]
        pg = self._pg
        pg.enter_pipeline_mode()
        preparing: list[tuple[int, _Key, bytes]] = []
        places: list[int] = []  # of their results, among those of preparing
        for command in commands:
            name = self._names.get(command.key)
            if name is None and (name := self._new_name(command.key)) is not None:
                preparing.append((len(places) + len(preparing), command.key, name))
                pg.send_prepare(name, self._texts[command.key[0]], command.key[1])
            places.append(len(places) + len(preparing))
            if name is None:
                pg.send_query_params(
                    self._texts[command.key[0]], command.values, command.key[1], command.formats
                )
            else:
                pg.send_query_prepared(name, command.values, command.formats)
        pg.pipeline_sync()
        results = self._results()
        pg.exit_pipeline_mode()
        for place, key, name in preparing:
            if results[place].status == pq.ExecStatus.COMMAND_OK:
                self._names[key] = name
        _raise_first(results)
        return [self._rows(results[place]) for place in places[len(places) - queries :]]

    def _converted(self, statement: str, values: Sequence[Any]) -> _Command:
        if statement not in self._texts:
            parts = _PLACEHOLDER.split(statement)
            numbered = [part if not n else f"${n}{part}" for n, part in enumerate(parts)]
            self._texts[statement] = "".join(numbered).encode()
        transformer = self._transformer
        converted = transformer.dump_sequence(values, [PyFormat.BINARY] * len(values)) if values else ()
        types, formats = (transformer.types or (), transformer.formats or ()) if values else ((), ())
        return _Command((statement, tuple(types)), converted, formats)

    def _new_name(self, key: _Key) -> bytes | None:
        """Return the name under which to prepare a statement, None if it is not worth it."""
        if len(self._names) >= PREPARED:
            return None
        self._uses[key] += 1
        return b"busway_%d" % next(self._numbers) if self._uses[key] >= _REPEATED else None

    def _results(self) -> list[pq.abc.PGresult]:
        """Send what is not sent yet, and return the results of all statements."""
        pg, results = self._pg, list[pq.abc.PGresult]()
        waiting = select.poll()
        waiting.register(pg.socket, select.POLLIN)
        try:
            while pg.flush():  # much: the server may have to be heard, too, until it takes more
                waiting.modify(pg.socket, select.POLLIN | select.POLLOUT)
                self._wait(waiting)
            waiting.modify(pg.socket, select.POLLIN)
            while True:
                while pg.is_busy():
                    self._wait(waiting)
                result = pg.get_result()
                if result is None:
                    self._check()  # else it is the end of the results of a statement
                elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                    return results
                else:
                    results.append(result)
        except psycopg.OperationalError:
            _raise_first(results)  # the server may have said why it ends the connection
            raise

    def _wait(self, waiting: select.poll) -> None:
        """Wait until something can be sent or read, and read it.

        Raises:
            psycopg.OperationalError: the connection broke, or the server does not answer.
        """
        began = time.monotonic()
        while not (ready := waiting.poll(_INTERVAL * 1000)):
            if time.monotonic() - began > self._connection.patience:
                self._connection.silent = True
                self._connection.close()
                raise psycopg.OperationalError(no_answer(self._connection.patience))
        if ready[0][1] & ~select.POLLOUT:
            self._pg.consume_input()

    def _check(self) -> None:
        """Raise the error of a connection that is broken."""
        if self._pg.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(self._pg.get_error_message())

    def _rows(self, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        self._transformer.set_pgresult(result)
        rows: list[tuple[Any, ...]] = self._transformer.load_rows(0, result.ntuples, tuple)
        return rows


def _raise_first(results: Sequence[pq.abc.PGresult]) -> None:
    """Raise the first error among the results."""
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result) from None

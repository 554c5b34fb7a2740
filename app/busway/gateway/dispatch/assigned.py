"""Starts the attempts that the leader assigned to this node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from busway.gateway.attempts.inflight import Attempt, InFlight
from busway.gateway.attempts.recorder import Progress
from busway.gateway.dispatch.registry import Registry
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.commits import Commits, Committed
from busway.gateway.store.port.operations import Operation, Return, Stopped
from busway.gateway.store.port.reader import Reader, RunningRun

_AGAIN = 0.5  # seconds until something is sent or read again


class Assigned:
    """The attempts that this node got.

    Args:
        commits, reader: the store.
        registry: the handlers.
        in_flight: starts them.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        registry: Registry,
        in_flight: InFlight,
        clock: Callable[[], int],
    ) -> None:
        self._commits, self._reader, self._registry = commits, reader, registry
        self._in_flight, self._clock = in_flight, clock
        self._waiting: dict[int, RunningRun] = {}  # by run; not started yet
        self._tokens: dict[int, int] = {}  # by run; of attempts in flight
        self._returning: set[asyncio.Task[None]] = set()
        # Runs that have ended here, until nothing of them runs and the leader knows it.
        self._unreported: set[int] = set()
        self._ended: set[int] | None = None  # of runs during a read: what it finds of them is out of date
        self._stopped = False

    async def find(self, ids: list[int], known: list[RunningRun]) -> list[RunningRun]:
        """Return those of these runs that run. Those that are not `known` are read.

        Raises:
            Unavailable: the store cannot be read.
        """
        unknown = set(ids).difference(found.run.id for found in known)
        if not unknown:
            return known
        self._ended = ended = set[int]()
        try:
            found = await self._reader.running([*unknown])
        finally:
            self._ended = None
        return [*known, *(each for each in found if each.run.id not in ended)]

    def accept(self, node: int, ids: list[int], running: list[RunningRun]) -> None:
        """Start the attempts of these runs that this node has. `running`: what `find` has just returned."""
        for found in running:
            attempt = self._in_flight.runs.get(found.run.id)
            if found.node == node and (attempt is None or attempt.token != found.token):
                self._waiting[found.run.id] = found
        self._unreported.update(set(ids).difference(found.run.id for found in running if found.node == node))
        self._start()
        self._report_stopped()

    def own(self) -> None:
        """Treat all attempts of this node like assigned ones: those that never start are given back."""
        self._tokens |= {attempt.run.id: token for token, attempt in self._in_flight.live.items()}

    def take(self, progress: Progress) -> None:
        """Give back assigned attempts that never started, and start those that waited for room.

        What is given back is taken out of `progress`: it waits in the store first.
        """
        if progress.returned and self._tokens:
            mine = [run for run in progress.returned if run.id in self._tokens]
            progress.returned = [run for run in progress.returned if run.id not in self._tokens]
            for run in mine:
                self._give_back(run.id, self._tokens.pop(run.id))
        if progress.room or progress.ended or progress.freed:
            self._start()
        if progress.freed:
            self._report_stopped()

    def committed(self, change: Committed) -> None:
        """Forget the attempts that ended. Call it before they are released."""
        here = self._in_flight
        if self._ended is not None:
            self._ended.update(change.ended)
        for id_ in change.ended:
            if id_ in here.runs:
                assigned = self._tokens.pop(id_, None) is not None
                runs = here.runs[id_].token in here.live or id_ in here.lingering
                if runs or (assigned and change.foreign):
                    self._unreported.add(id_)
            elif self._waiting.pop(id_, None) is not None:  # it was cancelled before it started
                self._unreported.add(id_)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._start)
        if self._unreported:
            asyncio.get_running_loop().call_soon(self._report_stopped)  # when the attempts were cancelled

    def stop(self) -> None:
        """Give back what has not started, and all that comes later."""
        self._stopped = True
        self._start()

    def _start(self) -> None:
        for id_, found in list(self._waiting.items()):
            if id_ in self._in_flight.runs:
                continue  # the commit that ended its earlier attempt has not been applied yet
            entry = self._registry.entry(found.run.handler)
            kind = None if entry is None else self._registry.own_kind(entry.spec.target)
            if entry is None or kind is None or self._stopped:
                del self._waiting[id_]
                self._give_back(id_, found.token)
                continue
            handler, number = entry.handler, found.attempt
            attempt = Attempt(
                found.token, found.run, number, handler.name, entry.here, entry.spec, found.pool
            )
            if self._in_flight.accept(attempt, kind):
                del self._waiting[id_]
                self._tokens[id_] = found.token

    def _report_stopped(self) -> None:
        """Let the leader know what has stopped here."""
        here = self._in_flight
        stopped = [id_ for id_ in self._unreported if id_ not in here.runs and id_ not in here.lingering]
        if stopped:
            self._unreported.difference_update(stopped)
            self._send(self._store(Stopped(runs=stopped)))

    async def _store(self, operation: Operation) -> Any:
        while True:
            try:
                return await self._commits.change(operation)
            except Unavailable:
                await asyncio.sleep(_AGAIN)

    def _send(self, sending: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(sending)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    def _give_back(self, run: int, token: int) -> None:
        self._send(self._return(run, token))

    async def _return(self, run: int, token: int) -> None:
        if not await self._store(Return(run=run, token=token, now=self._clock())):
            self._unreported.add(run)  # it was cancelled meanwhile
            self._report_stopped()

    async def returned(self) -> None:
        """Wait until everything that was given back is stored."""
        while self._returning:
            await asyncio.wait(self._returning)

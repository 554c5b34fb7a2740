"""Gives attempts to other nodes: the leader's part."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from busway.domain.callables import ASYNC
from busway.domain.run import Run
from busway.domain.weburl import HTTP, is_url, read_url
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.errors import Unavailable
from busway.gateway.executors.port import Assignment, has_room
from busway.gateway.store.port.cell import NodeRow
from busway.gateway.store.port.commits import Commits, Committed
from busway.gateway.store.port.operations import Assign
from busway.gateway.store.port.reader import Reader, RunningRun

_AGAIN = 0.5  # seconds until the store is asked again what became of an assignment
_Room = tuple[int, str, str]
"""A node; `process`, `async`, `thread` or `http`; and the host of a URL, else empty."""


class Peers(Protocol):
    """The nodes that can take attempts."""

    @property
    def term(self) -> int:
        """The newest term."""

    def peers(self) -> list[NodeRow]:
        """Return the other open nodes."""


class Assigner:
    """Implements `Elsewhere`: counts what each node has, and stores each assignment before it starts.

    Args:
        commits, reader: the store.
        in_flight: the attempts in flight, also those of other nodes.
        peers: the other nodes.
        rules: the version of the handlers that this node has.
        clock: microseconds since 1970.
        refused: called with a run that was not assigned and waits.
        freed: called with runs of which no attempt runs on another node any more, after they have ended.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        in_flight: InFlight,
        peers: Peers,
        rules: Callable[[], int],
        clock: Callable[[], int],
        refused: Callable[[Run], None],
        freed: Callable[[list[Run]], None],
    ) -> None:
        self._commits, self._reader, self._in_flight = commits, reader, in_flight
        self._peers, self._rules, self._clock = peers, rules, clock
        self._refused, self._freed = refused, freed
        self._assigned: dict[int, _Room] = {}
        self._used: Counter[tuple[int, str]] = Counter()
        self._lingering: dict[int, int] = {}  # by ended run: the node where its attempt may still run
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, assignment: Assignment, run: Run) -> bool:
        """Give an attempt to the node with the most room. Return False if none has room for it."""
        if run.alone and assignment.pool != HTTP:
            return False  # only this node knows that it needs a worker of its own
        room = self._room(assignment)
        if room is None:
            return False
        operation = Assign(
            run=run.id,
            token=assignment.token,
            attempt=assignment.attempt,
            revision=assignment.revision,
            pool=assignment.pool,
            node=room[0],
            term=self._peers.term,
            rules=self._rules(),
            now=self._clock(),
            fence=run.fence,
        )
        try:
            assigned = self._commits.change(operation)
        except Unavailable:
            return False
        self._note(run.id, room)
        assigned.add_done_callback(partial(self._answered, run))
        return True

    def adopt(self, running: list[RunningRun]) -> None:
        """Count attempts that other nodes have, because this node leads now."""
        for each in running:
            if each.node is not None:
                self._note(each.run.id, (each.node, each.pool, self._host_of(each)))

    async def adopt_lingering(self, lingering: list[RunningRun]) -> None:
        """Wait for attempts of other nodes that have ended and may still run. They are lingering already.

        If it fails, call it again, if only with those that were not passed before.

        Raises:
            Unavailable: the store cannot be read.
        """
        self._lingering |= {each.run.id: each.node or 0 for each in lingering}
        if adopted := [*self._lingering]:  # some may have stopped before they were recorded here
            still = {each.run.id for each in await self._reader.lingering()}
            self._stopped([run for run in adopted if run not in still])

    def _note(self, run: int, room: _Room) -> None:
        self._assigned[run] = room
        self._count(room, 1)

    def _count(self, room: _Room, change: int) -> None:
        node, pool, host = room
        self._used[node, pool] += change
        if host:
            self._used[node, host] += change

    def _host_of(self, running: RunningRun) -> str:
        attempt = self._in_flight.runs.get(running.run.id)
        if running.pool != HTTP or attempt is None or not is_url(attempt.spec.target):
            return ""
        return read_url(attempt.spec.target).origin

    def committed(self, change: Committed) -> None:
        """Count the attempts no more that ended. Remember those that may still run.

        A node knows what runs there: what it settles has stopped, unless it says otherwise. An attempt that
        somebody else cancelled may run until its node says that it has stopped.
        """
        if self._assigned:
            for id_ in change.ended:
                room = self._forget(id_)
                if room is not None and (room[0] != change.node or id_ in change.lingering):
                    self._lingering[id_] = room[0]
        if change.stopped:
            self._stopped(change.stopped)

    def lingers(self, run: int) -> bool:
        """Return whether the attempt of a run, which has ended, may still run on another node."""
        return run in self._lingering

    def looked(self) -> None:
        """Free what lingers on nodes that are gone. Call it when the open nodes were read."""
        if self._lingering:
            there = {node.id for node in self._peers.peers()}
            self._stopped([run for run, node in self._lingering.items() if node not in there])

    def _stopped(self, runs: Iterable[int]) -> None:
        mine = [run for run in runs if self._lingering.pop(run, None) is not None]
        self._freed([run for id_ in mine if (run := self._in_flight.stopped(id_)) is not None])

    def _forget(self, run: int) -> _Room | None:
        room = self._assigned.pop(run, None)
        if room is not None:
            self._count(room, -1)
        return room

    def _room(self, assignment: Assignment) -> _Room | None:
        if assignment.pool == HTTP:
            return self._room_for_host(read_url(assignment.target).origin)
        best, most = None, 0
        pool = "async" if assignment.pool == "process" and assignment.kind in ASYNC else assignment.pool
        for node in self._peers.peers():
            if assignment.target not in node.targets:
                continue
            limits = {"process": node.processes, "thread": node.threads}
            left = limits.get(pool, node.processes * node.threads) - self._used[node.id, pool]
            if left > most:
                best, most = (node.id, pool, ""), left
        return best

    def _room_for_host(self, host: str) -> _Room | None:
        best, most = None, 0
        for node in self._peers.peers():
            used = self._used[node.id, HTTP]
            left = node.deliveries - used
            if left > most and has_room(used, self._used[node.id, host], node.deliveries):
                best, most = (node.id, HTTP, host), left
        return best

    def _answered(self, run: Run, assigned: asyncio.Future[bool]) -> None:
        if assigned.cancelled() or (assigned.exception() is None and assigned.result()):
            return
        task = asyncio.get_running_loop().create_task(self._find_out(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find_out(self, run: Run) -> None:
        """Ask the store what became of an assignment that was refused, or whose outcome is unknown."""
        while True:
            if self._commits.healthy:
                with contextlib.suppress(Unavailable):
                    if await self._reader.running([run.id]):
                        return
                    waits = await self._reader.waiting_of([run.id], 1)
                    break
            await asyncio.sleep(_AGAIN)
        self._forget(run.id)
        self._in_flight.release(run.id)
        if waits.runs:
            self._refused(waits.runs[0])

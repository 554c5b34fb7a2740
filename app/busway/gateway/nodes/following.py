"""Applies the commits of a cell on one of its nodes.

A message about a commit has its content, if that is small. Otherwise, and if messages are missing, the commit
is read. So the node applies each commit once, in their order.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from busway.domain.event import Event
from busway.domain.result import Result, result_event
from busway.domain.run import Run
from busway.gateway.nodes.notifications.port import LOOK, Notifications
from busway.gateway.nodes.port import AssignedRuns
from busway.gateway.store.port.cell import CellLink, CommitRow
from busway.gateway.store.port.commits import Commits, Committed
from busway.gateway.store.port.news import Content, News, decode
from busway.gateway.store.port.reader import Reader, RunningRun

ROWS = 500  # commits in one read
RECENT = 500  # runs that are kept, because a message about their attempt or result may follow
RECENT_BYTES = 8 * 1024  # of the data of one's event
BEHIND = (
    "this node is too far behind the others to know what they run, and it leads. This gateway ends; start it "
    "again"
)
LACKS = (
    "the database lacks commits that this node has seen, as after a failover to a replica that was behind. "
    "This gateway ends; start it again"
)


class Parts(NamedTuple):
    """What a node has that a `CommitFollower` uses.

    Attributes:
        commits: gets what other nodes commit.
        reader: reads from the store.
        assigned: starts the attempts of runs that were assigned to this node.
        version: returns that of the handlers that this node has.
        handler_name: returns the name of a handler, by number.
        leads: returns whether this node leads.
        end: ends this node, for the reason given.
        renew: reads the keys, which another node may have changed.
    """

    commits: Commits
    reader: Reader
    assigned: AssignedRuns
    version: Callable[[], int]
    handler_name: Callable[[int], str | None]
    leads: Callable[[], bool]
    end: Callable[[str], None]
    renew: Callable[[], Awaitable[None]]


class CommitFollower:
    """Applies commits, in their order.

    Args:
        node: the id of this node.
        applied: the newest commit when the node joined.
        link: to the cell.
        notifications: of the commits.
        parts: of the node.

    Attributes:
        applied: the newest commit that was applied.
    """

    def __init__(
        self, node: int, applied: CommitRow, link: CellLink, notifications: Notifications, parts: Parts
    ) -> None:
        self._node, self.applied, self._parts = node, applied, parts
        self._link, self._notifications = link, notifications
        self._news: dict[int, News] = {}  # by number
        self._recent: dict[int, Run] = {}  # as they were created
        self._read_at = float("-inf")

    async def check_last(self) -> None:
        """End this node if the database lacks the last commit that it applied."""
        newest = await self._link.newest()
        row = self.applied
        if newest.number < row.number:
            self._parts.end(LACKS)
        kept = await self._link.commits_after(row.number - 1, 1)
        if kept and kept[0].number == row.number and kept[0] != row:
            self._parts.end(LACKS)

    async def catch_up(self, *, heard: bool) -> bool:
        """Apply new commits. Return whether there were some, and the last one concerned events or runs.

        Others may have another leader. `heard`: the node was notified.
        """
        complete, at_work = self._take() and heard, False
        while news := self._news.pop(self.applied.number + 1, None):
            row = self.applied
            if news.before != (row.event, row.run, row.result, row.digest):
                complete = False
                break
            at_work = await self._apply(news.row, news.content)
        complete &= not self._news
        self._news.clear()
        now = time.monotonic()
        if complete and now - self._read_at < LOOK:
            return at_work
        self._read_at = now
        while True:
            rows = await self._link.commits_after(self.applied.number - 1, ROWS)
            if not rows or (rows[0].number == self.applied.number and rows[0] != self.applied):
                self._parts.end(LACKS)
                return at_work
            for row in rows:
                if row.number > self.applied.number:
                    at_work = await self._apply(row, None)
            if len(rows) < ROWS:
                return at_work

    def _take(self) -> bool:
        """Take the messages. Return False if they do not say everything."""
        received = self._notifications.received()
        complete = bool(received)
        for message in received:
            try:
                news = decode(message)
            except msgspec.MsgspecError:  # only that there is something to read; or of another release
                complete = False
            else:
                if news.row.number > self.applied.number:
                    self._news[news.row.number] = news
        return complete

    async def _apply(self, row: CommitRow, content: Content | None) -> bool:
        """Apply a commit. Return whether it concerns events or runs."""
        before, changes = self.applied, row.changes
        missed = row.number != before.number + 1  # the rows between are not kept any more
        if missed and self._parts.leads():
            self._parts.end(BEHIND)
        foreign = row.node != self._node
        if not foreign:
            # First: handlers that are read now would replace what a later commit of this node changes.
            await self._parts.commits.reached(row.number)
        newer = row.rules > self._parts.version()
        handlers = await self._parts.reader.handlers() if newer else []
        if newer or changes.keys:
            await self._parts.renew()
        if content is not None:
            self._remember(content.runs)
        current = self._current(row, content)
        mine = [run for run, node in changes.assigned if node == self._node]
        running = await self._parts.assigned.find(mine, self._started(mine, current)) if mine else []
        if mine and current is not self._current(row, content):  # a commit of this node came meanwhile
            current = None
            running = await self._parts.assigned.find(mine, [])
        # From here on nothing waits or fails: what is repeated would reach the listeners twice.
        if foreign or newer or missed:
            created = self._parts.leads() and foreign and not missed
            known = current is not None and len(current.runs) == row.run - before.run
            self._parts.commits.follow(
                Committed(
                    head=row.result,
                    runs=current.runs if created and known and current is not None else [],
                    ended=changes.ended if foreign else [],
                    final=current is not None and current.final,
                    results=self._results(row, content) if foreign and content is not None else [],
                    handlers=handlers,
                    rules=row.rules if newer else 0,
                    foreign=foreign,
                    unread=range(before.run + 1, row.run + 1) if created and not known else (),
                    rescan=missed,
                    durables=changes.durables if foreign else (),
                    node=row.node if foreign else 0,
                    lingering=changes.lingering if foreign else (),
                    stopped=changes.stopped if foreign else (),
                    replays=changes.replays and foreign,
                    number=row.number,
                )
            )
        if mine:
            self._parts.assigned.accept(self._node, mine, running)
        self.applied = row
        return bool(changes) or (row.event, row.result) != (before.event, before.result)

    def _current(self, row: CommitRow, content: Content | None) -> Content | None:
        """Return the content of a commit, unless a later one of this node may have changed it."""
        return None if self._parts.commits.newest > row.number else content

    def _remember(self, runs: list[Run]) -> None:
        for run in runs:
            if len(run.event.data or b"") <= RECENT_BYTES:
                self._recent[run.id] = run
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def _results(self, row: CommitRow, content: Content) -> list[tuple[Result, Event]]:
        """Return the results of a commit, none if the message does not say all of them."""
        before = self.applied.result
        new_results = [each for each in content.results if each.number > before]
        if len(new_results) != row.result - before:
            return []
        results = []
        for each in new_results:
            run = self._recent.get(each.run)
            name = None if run is None else self._parts.handler_name(run.handler)
            if run is None or name is None:
                return []
            new = each.result
            result = Result(
                number=each.number,
                kind=new.kind,
                event=result_event(run.event),
                handler=name,
                revision=each.revision,
                run=each.run,
                attempt=each.attempt,
                index=new.index,
                data=new.data,
                binary=new.binary,
                error=new.error,
                completes=each.completes,
                replay=run.replay,
                time=new.time,
            )
            results.append((result, run.event))
        return results

    def _started(self, mine: list[int], content: Content | None) -> list[RunningRun]:
        """Return the attempts of this node that need not be read. The message has those of all nodes."""
        started = []
        for each in [] if content is None else content.assigned:
            run = self._recent.get(each.run) if each.run in mine else None
            if run is not None and (run.attempt, run.fence) == (each.attempt - 1, each.fence):
                started.append(RunningRun(run, each.attempt, each.token, each.pool, self._node))
        return started

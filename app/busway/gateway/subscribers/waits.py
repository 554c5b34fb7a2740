"""Requests that wait until the runs of an event have ended (`Prefer: wait`).

A waiting request is an entry in a table and a timer. It takes no task and no thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from busway.domain.result import Kind
from busway.gateway.budget import Budget
from busway.gateway.errors import BuswayError
from busway.gateway.store.port.reader import Outcomes, Reader
from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.polls import LongPolls

log = logging.getLogger("busway.waits")

MOST_RESULTS = 10_000
MOST_BYTES = 8 * 1024 * 1024
READS = 2  # concurrent reads of the store: leaves readers for other requests
FINAL = frozenset({Kind.SUCCEEDED, Kind.DEAD, Kind.CANCELLED})

Ended = Callable[[Outcomes | None], None]
"""Takes how the runs ended; None: they have not ended in time."""


class Wait:
    """One request that waits.

    Args:
        waits: all of them.
        seq: number of the event.
        runs: how many runs the event started; None: they may have ended already.
        ended: called once, unless it is given up.
    """

    __slots__ = ("_again", "_checking", "_ended", "_ended_runs", "_runs", "_waits", "seq", "timer")

    def __init__(self, waits: EventWaits, seq: int, runs: int | None, ended: Ended) -> None:
        self._waits, self.seq, self._runs = waits, seq, runs
        self._ended: Ended | None = ended
        self._ended_runs: set[int] = set()
        self._checking: asyncio.Task[None] | None = None
        self._again = False
        self.timer: asyncio.TimerHandle | None = None

    def run_ended(self, run: int) -> None:
        """Count a run that has ended."""
        self._ended_runs.add(run)
        if self._runs is None or len(self._ended_runs) >= self._runs:
            self.check()

    def check(self) -> None:
        """Read whether all runs have ended."""
        self._again = True
        if self._checking is None and self._ended is not None:
            self._checking = asyncio.get_running_loop().create_task(self._check())

    def finish(self, found: Outcomes | None = None) -> None:
        """End it. None: the runs have not ended."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        self._waits.remove(self)
        if self.timer is not None:
            self.timer.cancel()
        ended(found)

    async def _check(self) -> None:
        try:
            while self._again and self._ended is not None:
                self._again = False
                await self._waits.look(self)
        except BuswayError:
            self.finish()  # the store cannot be read now, or answers take too much memory
        except Exception:
            log.exception("cannot read how the runs of event %d ended", self.seq)
            self.finish()
        finally:
            self._checking = None


class Waits:
    """All requests that wait for results.

    Args:
        hub: shows results.
        answers: the memory for answers.
    """

    def __init__(self, hub: Hub, answers: Budget) -> None:
        self.events, self.polls = EventWaits(hub, hub.reader, answers), LongPolls(hub, answers)

    def close(self) -> None:
        """Answer all of them now, and those that come later at once."""
        self.events.close()
        self.polls.close()


class EventWaits:
    """All requests that wait for an event.

    Args:
        hub: shows results.
        reader: reads how runs ended.
        answers: the memory for answers.
    """

    def __init__(self, hub: Hub, reader: Reader, answers: Budget) -> None:
        hub.on_results = self.shown
        self._reader, self._answers = reader, answers
        self._waiting: defaultdict[int, list[Wait]] = defaultdict(list)
        self._reading = asyncio.Semaphore(READS)
        self.closed = False

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def begin(self, seq: int, runs: int | None, seconds: float, ended: Ended) -> Wait:
        """Wait until the runs of an event have ended.

        Begin before the commit of the event is shown, or with `runs` None.

        Args:
            seq: number of the event.
            runs: how many runs it started. None: it may be stored for a while, so they may have ended.
            seconds: how long to wait.
            ended: called once, maybe at once.
        """
        wait = Wait(self, seq, runs, ended)
        self._waiting[seq].append(wait)
        if runs == 0:
            wait.finish(Outcomes(0, [], truncated=False))
        elif self.closed or not seconds:
            wait.finish()
        else:
            wait.timer = asyncio.get_running_loop().call_later(seconds, wait.finish)
            if runs is None:
                wait.check()
        return wait

    def remove(self, wait: Wait) -> None:
        """Forget a wait that has ended."""
        waiting = self._waiting[wait.seq]
        waiting.remove(wait)
        if not waiting:
            del self._waiting[wait.seq]

    def shown(self, entries: list[Entry]) -> None:
        """Take results that were committed, in log order, each once."""
        if not self._waiting:
            return
        for entry in entries:
            result = entry.result
            if result.kind in FINAL and not result.replay:
                for wait in [*self._waiting.get(result.event.seq, ())]:
                    wait.run_ended(result.run)

    async def look(self, wait: Wait) -> None:
        """Finish a wait if all runs of its event have ended.

        Raises:
            Unavailable: the store cannot be read, or answers take too much memory.
        """
        async with self._reading:
            with self._answers.hold(MOST_BYTES):
                found = await self._reader.outcomes(wait.seq, MOST_RESULTS, MOST_BYTES)
                if not found.unfinished:
                    wait.finish(found)

    def close(self) -> None:
        """End all waits now, and those that begin later at once."""
        self.closed = True
        for waiting in [*self._waiting.values()]:
            for wait in [*waiting]:
                wait.finish()

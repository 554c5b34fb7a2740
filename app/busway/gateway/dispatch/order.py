"""The order of one handler's runs that have a partition key: one queue a key, one run of it at a time.

*Invariant.* Call a run of the handler with key k *present* from the time when dispatch learns that it is due,
or from its first attempt, until it ends for good (or is retried by hand, which removes its key). A run of k
starts only if no attempt of k is in flight and it is the first present run of k. Runs that an attempt has
started come first (there is at most one, unless `ordered` was switched on meanwhile), then the others. Both
groups are sorted by number. Runs are numbered in the order of their events.

*Why it holds.* Only the head of a queue starts (`head`). A queue has a head only if:

1. It is `loaded`: every present run of k up to its `edge` is in the queue. A new queue is loaded at once if
   the lane is `complete` (each key with present runs has a queue); otherwise the store is read first. Commits
   deliver runs in number order, so a loaded queue stays loaded when they are added. Runs that do not fit are
   removed from the end, and the edge moves with them. Runs behind the edge come in only by reading. So the
   first run of the queue is the first present run of k.
2. No attempt of k is in flight, and none that timed out or was cancelled may still run (`running`, which
   reads the table of attempts in flight).
3. No run of k that waits for its next attempt (`waits`) comes before the head. Dispatch reports such a run in
   the same tick of the event loop in which it reports the end of the attempt. Nothing starts in between.

A read is already out of date when its rows arrive. Its rows can be wrong in three ways only. A run has ended
since: `Holding` rejects it. A run has come since: it is either in the queue already, or was left out and then
bounds the edge (`left`). The next attempt of a run has become due, and the scheduler has not placed it yet:
it counts as waiting (`waits`) until it is placed. A read cannot lack a run that has started since: that run
has a queue, and the queue keeps what it knows. When queues are discarded (there are too many, or the store
changed without a commit here), the results of all running reads are discarded too (`epoch`). Later reads
return every run that has started.

*No key starves.* A queue that runs empty is read again. Keys without a queue are found by scanning the keys
in the store, round after round, while there is room for queues. A round that had room for every key makes the
lane complete. Queues that only wait for an attempt hold one number each, and are discarded first. Between
keys, the heads are sorted by priority, then by number.

*After a restart* nothing is known, so each queue is read before one of its runs starts. Runs whose
attempt was in flight wait again as started runs, and so come first.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Container
from itertools import count

from busway.domain.run import Run
from busway.gateway.dispatch.holding import Budget, weight
from busway.gateway.store.port.reader import KeyLine

LINES = 4_000  # keys that have a queue at the same time
CAPACITY = 2_000  # runs behind the heads of all queues together
PER_LINE = 100  # runs of one key
LINE_BYTES = 256 << 10  # bytes that the runs behind a head may take

Place = tuple[bool, int]
"""The position of a run in its queue: whether it is unstarted, then its number."""
_START: Place = (False, 0)


class Line:
    """The first present runs of one partition key. The module docstring explains the fields.

    `edge`: runs behind it are in the store only; None: there are none. `left`: such a run has come since the
    last read of the queue began. `offered`: the number of its head in the heap of heads, or 0.
    """

    __slots__ = ("_running", "edge", "key", "left", "offered", "runs", "seen", "waits", "weight")

    def __init__(self, key: str, running: Container[str], *, seen: bool) -> None:
        self.key, self.seen = key, seen
        self._running = running
        self.runs: list[tuple[bool, int, Run]] = []
        self.waits: set[int] = set()
        self.weight = self.offered = 0
        self.edge: Place | None = None
        self.left = False

    @property
    def running(self) -> bool:
        """Whether an attempt of its key is in flight or lingering."""
        return self.key in self._running

    @property
    def head(self) -> Run | None:
        """The run that may start now, if there is one."""
        if not self.seen or not self.runs or self.running:
            return None
        unstarted, id_, run = self.runs[0]
        if self.waits and (unstarted or min(self.waits) < id_):
            return None
        return run

    @property
    def idle(self) -> bool:
        """Whether it knows of no present run."""
        return not (self.runs or self.running or self.waits)


class Order:
    """The key queues of one handler. Runs that are pushed out of memory are collected in `out`.

    Args:
        budget: the bytes of all lanes.
        running: the keys that attempts of the handler hold.
    """

    def __init__(self, budget: Budget, running: Container[str]) -> None:
        self._running = running
        self.lines: dict[str, Line] = {}
        self.wanted: dict[str, None] = {}  # keys whose queues have to be read, in that order
        self.out: list[Run] = []
        self.complete = False
        self.cursor = ""  # the keys up to it were scanned in this round
        self.epoch = 0
        self.weight = self.held = 0
        self._missed = False  # a key got no queue in this round
        self._reading = False
        self._left: set[str] = set()  # such keys, since the running read began
        self._waits: dict[int, Line] = {}
        self._heads: list[tuple[int, int, int, Line]] = []
        self._pushes = count()
        self._budget = budget

    # -- the next run

    def head(self) -> Run | None:
        """Return the head that goes first."""
        while self._heads:
            _, id_, _, line = self._heads[0]
            run = line.head
            if run is not None and run.id == id_ and line.offered == id_:
                return run
            heapq.heappop(self._heads)
            if line.offered == id_:
                line.offered = 0
        return None

    def pop(self, run: Run) -> None:
        """Remove a head: its attempt was handed out, or it will not start."""
        line = self.lines[run.key or ""]
        line.runs.pop(0)
        line.offered = 0
        self._weigh(line, run, -1)
        self._look(line)

    # -- changes

    def free(self, key: str) -> None:
        """Handle that an attempt has released its key."""
        line = self.lines.get(key)
        if line is not None:
            self._look(line)

    def add(self, run: Run) -> None:
        """Add a run that is due."""
        line = self._line_for(run)
        if line is None:
            self._miss(run)
            return
        if self._waits.pop(run.id, None) is not None:
            line.waits.discard(run.id)
        if line.edge is not None and (run.attempt == 0, run.id) > line.edge:
            line.left = True
            self.out.append(run)
        else:
            self._insert(line, run)
            self._trim(line)
        self._look(line)

    def wait(self, run: Run) -> None:
        """Record that a run waits for its next attempt and holds its key."""
        line = self._line_of_started(run.key or "")
        line.waits.add(run.id)
        self._waits[run.id] = line
        if self.held > CAPACITY // 2 or self.weight > self._allowed // 2:
            self._cut(line, (False, run.id))  # nothing behind it can start for a while
        self._look(line)

    def lift(self, id_: int) -> None:
        """Record that a run no longer waits for its next attempt."""
        line = self._waits.pop(id_, None)
        if line is not None:
            line.waits.discard(id_)
            self._look(line)

    def forget(self) -> None:
        """Discard everything but the running attempts. Each queue is read before one of its runs starts."""
        self.epoch += 1
        self._waits.clear()
        self.complete, self._missed, self.cursor = False, False, ""
        for line in list(self.lines.values()):
            line.waits.clear()
            line.seen, line.edge = False, None
            self._drop(line, 0)
            self._look(line)

    # -- reading

    @property
    def roomy(self) -> bool:
        """Whether there is room for queues of keys that have none."""
        return len(self.lines) < LINES // 2 and self.weight <= self._allowed // 2

    @property
    def wants(self) -> bool:
        """Whether there is something to read."""
        return bool(self.wanted) or (not self.complete and self.roomy)

    def depth(self, keys: int) -> int:
        """Return how many runs of each of `keys` keys fit."""
        return max(1, min(PER_LINE, (CAPACITY - self.held) // max(1, keys)))

    def begin(self, keys: list[str]) -> None:
        """Record that a read of these queues begins."""
        self._reading = True
        for key in keys:
            if key in self.lines:
                self.lines[key].left = False

    def done(self) -> None:
        """Record that the rows of the read were added or discarded."""
        self._reading = False
        self._left.clear()

    def unknown(self, key: str) -> bool:
        """Return whether the queue of a key has to be read."""
        line = self.lines.get(key)
        return line is None or not line.seen

    def see(self, found: KeyLine, runs: list[Run], waits: list[Run]) -> None:
        """Add the rows that a read found for one key.

        Args:
            found: the runs of the key as the store has them.
            runs: those that may be added.
            waits: started runs that wait for their next attempt; the queue may have them already.
        """
        self.wanted.pop(found.key, None)
        line = self.lines.get(found.key)
        if line is None and not (runs or waits):
            return
        if line is None:
            if len(self.lines) >= LINES or (not runs and not self.roomy):
                self._missed = True
                self.out += runs
                return
            line = self.lines[found.key] = Line(found.key, self._running, seen=True)
            line.left = found.key in self._left
        line.seen = True
        known = {id_ for _, id_, _ in line.runs} if waits else set[int]()
        for run in waits:
            if run.id not in known:
                line.waits.add(run.id)
                self._waits[run.id] = line
        for run in runs:
            self._insert(line, run)
        last = (found.runs[-1].attempt == 0, found.runs[-1].id) if found.runs else _START
        line.edge = None
        if found.more or line.left:
            self._cut(line, last)
        self._trim(line)
        self._look(line)

    def looked_through(self, cursor: str | None) -> None:
        """Record how far the keys were scanned. None: to the end, so a round is complete."""
        if cursor is not None:
            self.cursor = cursor
            return
        self.complete, self._missed, self.cursor = not self._missed, False, ""

    # -- queues

    @property
    def _allowed(self) -> int:
        return self._budget.allowed(self.weight)

    def _line_for(self, run: Run) -> Line | None:
        """Return the queue of a due run, or make one. Return None if there is no room for another."""
        key = run.key or ""
        line = self.lines.get(key)
        if line is not None:
            return line
        if len(self.lines) >= LINES and len(self._waits) >= LINES // 4:
            self._forget_waiting()
        room = len(self.lines) < LINES and self.weight <= self._allowed
        if room and (self.complete or self.roomy or run.attempt):
            return self._make(key)
        return None

    def _line_of_started(self, key: str) -> Line:
        return self.lines.get(key) or self._make(key)

    def _make(self, key: str) -> Line:
        line = self.lines[key] = Line(key, self._running, seen=self.complete)
        if not line.seen:
            self.wanted[key] = None
        return line

    def _miss(self, run: Run) -> None:
        self.out.append(run)
        self.complete, self._missed = False, True
        if self._reading:
            self._left.add(run.key or "")

    def _insert(self, line: Line, run: Run) -> None:
        insort(line.runs, (run.attempt == 0, run.id, run))
        self._weigh(line, run, 1)

    def _trim(self, line: Line) -> None:
        """Remove runs from the end while there are too many. The first one stays."""
        while len(line.runs) > 1 and (
            len(line.runs) > PER_LINE
            or self.held > CAPACITY + len(self.lines)
            or line.weight > LINE_BYTES
            or self.weight > self._allowed
        ):
            self._drop(line, len(line.runs) - 1)
            line.edge, line.left = line.runs[-1][:2], True

    def _cut(self, line: Line, edge: Place) -> None:
        """Make a queue end at `edge`. Runs behind it wait in the store."""
        if line.edge is None or edge < line.edge:
            line.edge = edge
        keep = len(line.runs)
        while keep and line.runs[keep - 1][:2] > line.edge:
            keep -= 1
        if keep < len(line.runs):
            line.left = True
        self._drop(line, keep)

    def _drop(self, line: Line, keep: int) -> None:
        while len(line.runs) > keep:
            run = line.runs.pop()[2]
            self._weigh(line, run, -1)
            self.out.append(run)

    def _weigh(self, line: Line, run: Run, sign: int) -> None:
        change = sign * weight(run)
        line.weight += change
        self.weight += change
        self._budget.used += change
        self.held += sign

    def _look(self, line: Line) -> None:
        """Put a queue where it belongs now: into the heads or the queues to read, or remove it."""
        head = line.head
        if head is not None:
            if line.offered != head.id:
                line.offered = head.id
                heapq.heappush(self._heads, (-head.priority, head.id, next(self._pushes), line))
            return
        if line.seen and line.edge is None:
            if line.idle:
                self._remove(line)
        elif line.idle and not self.complete and not self.roomy:
            self._remove(line)  # its turn comes again after keys that had no queue
            self._missed = True
        elif not line.seen or not (line.runs or line.waits):
            self.wanted[line.key] = None

    def _remove(self, line: Line) -> None:
        if self.lines.get(line.key) is line:
            del self.lines[line.key]
        self.wanted.pop(line.key, None)
        if not line.seen or line.edge is not None:
            self.complete = False

    def _forget_waiting(self) -> None:
        """Discard the queues that only wait for an attempt: the store knows them."""
        self.epoch += 1
        self.complete, self._missed = False, True
        for line in list(self.lines.values()):
            if line.waits and not line.running:
                for id_ in line.waits:
                    self._waits.pop(id_, None)
                line.waits.clear()
                line.seen = False
                self._drop(line, 0)
                self._remove(line)

"""The order of one handler's runs that have a partition key: one line a key, one run of it at a time.

*The claim.* Call a run of the handler with key k *present* from when dispatch learns that it is due, or
from its first attempt, until it ends for good (or is retried by hand, which takes its key away). A run of
k is let go only when no attempt of k is under way and it is the first present run of k: those that an
attempt has started come first (there is one at most, unless `ordered` was switched on meanwhile), then the
rest, each by number. Runs are numbered in the order of their events.

*Why it holds.* Only heads of lines start (`head`), and a line has a head only if

1. it is `seen`: every present run of k up to its `edge` is in the line. A new line is seen at once if the
   lane is `complete` (each key that has present runs has its line), else by a read of the store. Runs
   come in number order from the commits, so a line that is complete stays so by adding them. What does not
   fit is taken off the end, and the edge with it; nothing behind the edge is let in but by reading. So the
   first run of the line is the first one of k.
2. no attempt of k is under way, nor given up and perhaps still running (`running`, which asks the attempts
   in flight).
3. no run of k that waits for its next attempt (`waits`) stands before the head. Dispatch tells of it in
   the same tick of the loop in which it tells that the attempt ended, and nothing starts in between.

A read shows a moment that is past when it arrives. What it adds to a line can only be wrong about runs that
ended since, which `Holding` turns away, about runs that came since, which are either in the line already or
were left out and then bound the edge (`left`), and about a run whose next attempt is due by then and which
the scheduler has not placed yet: it counts as waiting (`waits`) until it is placed. A read cannot lack a run
that was started since: that one has a line, whose knowledge stays. Lines that are forgotten (there are too
many, or the store changed unseen) take all reads under way with them (`epoch`), and what is read later shows
every run that started.

*Nobody starves.* A line that runs dry is read on. Keys that have no line are found by looking through the
keys in the store, round after round, while there is room for lines; a round that found room for every key
makes the lane complete. Lines that only wait for an attempt hold one number each, and are the first to be
forgotten. Across keys the heads go by priority, then by number.

*After a restart* nothing is known, so each line is read before it moves. What was under way is then waiting
again, as started, and so comes first.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Container
from itertools import count

from busway.domain.run import Run
from busway.gateway.dispatch.holding import Budget, weight
from busway.gateway.store.port.reader import KeyLine

LINES = 4_000  # keys that have a line at once
CAPACITY = 2_000  # runs behind the heads of all lines together
PER_LINE = 100  # runs of one key
LINE_BYTES = 256 << 10  # bytes that the runs behind a head may take

Place = tuple[bool, int]
"""Where a run stands in its line: whether no attempt has started it, then its number."""
_START: Place = (False, 0)


class Line:
    """The first present runs of one partition key; see the module for what its fields mean.

    `edge`: what stands behind it is in the store alone; None: nothing is. `left`: such a run came since
    the last read of the line began. `offered`: the number of the head that is among the heads, or 0.
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
        """Whether an attempt of its key is under way, or was given up and may still run."""
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
    """The lines of one handler. What is pushed out of memory is collected in `out`.

    Args:
        budget: of all lanes.
        running: the keys that attempts of the handler hold.
    """

    def __init__(self, budget: Budget, running: Container[str]) -> None:
        self._running = running
        self.lines: dict[str, Line] = {}
        self.wanted: dict[str, None] = {}  # keys whose lines are to be read, in that order
        self.out: list[Run] = []
        self.complete = False
        self.cursor = ""  # the keys up to it were looked at in this round
        self.epoch = 0
        self.weight = self.held = 0
        self._missed = False  # a key was left without a line in this round
        self._reading = False
        self._left: set[str] = set()  # such keys, since the read under way began
        self._waits: dict[int, Line] = {}
        self._heads: list[tuple[int, int, int, Line]] = []
        self._pushes = count()
        self._budget = budget

    # -- what may start

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
        """Take out a head: an attempt of it was handed out just now, or it will not start."""
        line = self.lines[run.key or ""]
        line.runs.pop(0)
        line.offered = 0
        self._weigh(line, run, -1)
        self._look(line)

    # -- what becomes known

    def free(self, key: str) -> None:
        """Take note that an attempt does not hold its key any more."""
        line = self.lines.get(key)
        if line is not None:
            self._look(line)

    def add(self, run: Run) -> None:
        """Take in a run that is due."""
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
        """Take note of a run that waits for its next attempt and holds its key."""
        line = self._line_of_started(run.key or "")
        line.waits.add(run.id)
        self._waits[run.id] = line
        if self.held > CAPACITY // 2 or self.weight > self._allowed // 2:
            self._cut(line, (False, run.id))  # nothing behind it can start for a while
        self._look(line)

    def lift(self, id_: int) -> None:
        """Take note that a run no longer waits for an attempt that is due later."""
        line = self._waits.pop(id_, None)
        if line is not None:
            line.waits.discard(id_)
            self._look(line)

    def forget(self) -> None:
        """Know nothing any more but what is under way; each line is read before it moves."""
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
        """Whether there is room for lines of keys that have none."""
        return len(self.lines) < LINES // 2 and self.weight <= self._allowed // 2

    @property
    def wants(self) -> bool:
        """Whether there is something to read."""
        return bool(self.wanted) or (not self.complete and self.roomy)

    def depth(self, keys: int) -> int:
        """Return how many runs of each of so many keys there is room for."""
        return max(1, min(PER_LINE, (CAPACITY - self.held) // max(1, keys)))

    def begin(self, keys: list[str]) -> None:
        """Take note that a read of these lines begins."""
        self._reading = True
        for key in keys:
            if key in self.lines:
                self.lines[key].left = False

    def done(self) -> None:
        """Take note that what the read found was added, or is of no use."""
        self._reading = False
        self._left.clear()

    def unknown(self, key: str) -> bool:
        """Tell whether the line of a key is to be read when it is come upon."""
        line = self.lines.get(key)
        return line is None or not line.seen

    def see(self, found: KeyLine, runs: list[Run], waits: list[Run]) -> None:
        """Add what a read found of one line.

        Args:
            found: the line as the store has it.
            runs: those of its runs that may be added.
            waits: those that an attempt has started and that wait for the next one; the line may have them.
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
        """Take note how far the keys were looked at; None: to the end, so a round is over."""
        if cursor is not None:
            self.cursor = cursor
            return
        self.complete, self._missed, self.cursor = not self._missed, False, ""

    # -- lines

    @property
    def _allowed(self) -> int:
        return self._budget.allowed(self.weight)

    def _line_for(self, run: Run) -> Line | None:
        """Find the line of a run that is due, or make it; None if there is no room for another."""
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
        """Take runs off the end while there are too many; the first one stays."""
        while len(line.runs) > 1 and (
            len(line.runs) > PER_LINE
            or self.held > CAPACITY + len(self.lines)
            or line.weight > LINE_BYTES
            or self.weight > self._allowed
        ):
            self._drop(line, len(line.runs) - 1)
            line.edge, line.left = line.runs[-1][:2], True

    def _cut(self, line: Line, edge: Place) -> None:
        """Let a line end at a place: what stands behind it waits in the store."""
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
        """Put a line where it belongs now: among the heads, among those to be read, or out."""
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
            self._remove(line)  # it comes in its turn, after keys that had none
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
        """Forget the lines that only wait for an attempt: the store knows them."""
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

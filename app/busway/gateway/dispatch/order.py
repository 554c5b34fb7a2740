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
from busway.gateway.store.port.reader import KeyRuns

QUEUES = 4_000  # keys that have a queue at the same time
CAPACITY = 2_000  # runs behind the heads of all queues together
PER_KEY = 100  # runs of one key
KEY_BYTES = 256 << 10  # bytes that the runs behind a head may take

Position = tuple[bool, int]
"""The position of a run in its queue: whether it is unstarted, then its number."""
_START: Position = (False, 0)


class KeyQueue:
    """The first present runs of one partition key. The module docstring explains the fields.

    `edge`: runs behind it are in the store only; None: there are none. `left`: such a run has come since the
    last read of the queue began. `offered`: the number of its head in the heap of heads, or 0.
    """

    __slots__ = ("_running", "edge", "key", "left", "loaded", "offered", "runs", "waits", "weight")

    def __init__(self, key: str, running: Container[str], *, loaded: bool) -> None:
        self.key, self.loaded = key, loaded
        self._running = running
        self.runs: list[tuple[bool, int, Run]] = []
        self.waits: set[int] = set()
        self.weight = self.offered = 0
        self.edge: Position | None = None
        self.left = False

    @property
    def running(self) -> bool:
        """Whether an attempt of its key is in flight or lingering."""
        return self.key in self._running

    @property
    def head(self) -> Run | None:
        """The run that may start now, if there is one."""
        if not self.loaded or not self.runs or self.running:
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
        self.queues: dict[str, KeyQueue] = {}
        self.wanted: dict[str, None] = {}  # keys whose queues have to be read, in that order
        self.out: list[Run] = []
        self.complete = False
        self.cursor = ""  # the keys up to it were scanned in this round
        self.epoch = 0
        self.weight = self.held = 0
        self._missed = False  # a key got no queue in this round
        self._reading = False
        self._left: set[str] = set()  # such keys, since the running read began
        self._waits: dict[int, KeyQueue] = {}
        self._heads: list[tuple[int, int, int, KeyQueue]] = []
        self._pushes = count()
        self._budget = budget

    # -- the next run

    def head(self) -> Run | None:
        """Return the head that goes first."""
        while self._heads:
            _, id_, _, queue = self._heads[0]
            run = queue.head
            if run is not None and run.id == id_ and queue.offered == id_:
                return run
            heapq.heappop(self._heads)
            if queue.offered == id_:
                queue.offered = 0
        return None

    def pop(self, run: Run) -> None:
        """Remove a head: its attempt was handed out, or it will not start."""
        queue = self.queues[run.key or ""]
        queue.runs.pop(0)
        queue.offered = 0
        self._weigh(queue, run, -1)
        self._reposition(queue)

    # -- changes

    def free(self, key: str) -> None:
        """Handle that an attempt has released its key."""
        queue = self.queues.get(key)
        if queue is not None:
            self._reposition(queue)

    def add(self, run: Run) -> None:
        """Add a run that is due."""
        queue = self._queue_for(run)
        if queue is None:
            self._miss(run)
            return
        if self._waits.pop(run.id, None) is not None:
            queue.waits.discard(run.id)
        if queue.edge is not None and (run.attempt == 0, run.id) > queue.edge:
            queue.left = True
            self.out.append(run)
        else:
            self._insert(queue, run)
            self._trim(queue)
        self._reposition(queue)

    def wait(self, run: Run) -> None:
        """Record that a run waits for its next attempt and holds its key."""
        queue = self._queue_of_started(run.key or "")
        queue.waits.add(run.id)
        self._waits[run.id] = queue
        if self.held > CAPACITY // 2 or self.weight > self._allowed // 2:
            self._cut(queue, (False, run.id))  # nothing behind it can start for a while
        self._reposition(queue)

    def lift(self, id_: int) -> None:
        """Record that a run no longer waits for its next attempt."""
        queue = self._waits.pop(id_, None)
        if queue is not None:
            queue.waits.discard(id_)
            self._reposition(queue)

    def forget(self) -> None:
        """Discard everything but the running attempts. Each queue is read before one of its runs starts."""
        self.epoch += 1
        self._waits.clear()
        self.complete, self._missed, self.cursor = False, False, ""
        for queue in list(self.queues.values()):
            queue.waits.clear()
            queue.loaded, queue.edge = False, None
            self._drop(queue, 0)
            self._reposition(queue)

    # -- reading

    @property
    def roomy(self) -> bool:
        """Whether there is room for queues of keys that have none."""
        return len(self.queues) < QUEUES // 2 and self.weight <= self._allowed // 2

    @property
    def wants(self) -> bool:
        """Whether there is something to read."""
        return bool(self.wanted) or (not self.complete and self.roomy)

    def depth(self, keys: int) -> int:
        """Return how many runs of each of `keys` keys fit."""
        return max(1, min(PER_KEY, (CAPACITY - self.held) // max(1, keys)))

    def begin(self, keys: list[str]) -> None:
        """Record that a read of these queues begins."""
        self._reading = True
        for key in keys:
            if key in self.queues:
                self.queues[key].left = False

    def done(self) -> None:
        """Record that the rows of the read were added or discarded."""
        self._reading = False
        self._left.clear()

    def unknown(self, key: str) -> bool:
        """Return whether the queue of a key has to be read."""
        queue = self.queues.get(key)
        return queue is None or not queue.loaded

    def add_found(self, found: KeyRuns, runs: list[Run], waits: list[Run]) -> None:
        """Add the rows that a read found for one key.

        Args:
            found: the runs of the key as the store has them.
            runs: those that may be added.
            waits: started runs that wait for their next attempt; the queue may have them already.
        """
        self.wanted.pop(found.key, None)
        queue = self.queues.get(found.key)
        if queue is None and not (runs or waits):
            return
        if queue is None:
            if len(self.queues) >= QUEUES or (not runs and not self.roomy):
                self._missed = True
                self.out += runs
                return
            queue = self.queues[found.key] = KeyQueue(found.key, self._running, loaded=True)
            queue.left = found.key in self._left
        queue.loaded = True
        known = {id_ for _, id_, _ in queue.runs} if waits else set[int]()
        for run in waits:
            if run.id not in known:
                queue.waits.add(run.id)
                self._waits[run.id] = queue
        for run in runs:
            self._insert(queue, run)
        last = (found.runs[-1].attempt == 0, found.runs[-1].id) if found.runs else _START
        queue.edge = None
        if found.more or queue.left:
            self._cut(queue, last)
        self._trim(queue)
        self._reposition(queue)

    def scanned_to(self, cursor: str | None) -> None:
        """Record how far the keys were scanned. None: to the end, so a round is complete."""
        if cursor is not None:
            self.cursor = cursor
            return
        self.complete, self._missed, self.cursor = not self._missed, False, ""

    # -- queues

    @property
    def _allowed(self) -> int:
        return self._budget.allowed(self.weight)

    def _queue_for(self, run: Run) -> KeyQueue | None:
        """Return the queue of a due run, or make one. Return None if there is no room for another."""
        key = run.key or ""
        queue = self.queues.get(key)
        if queue is not None:
            return queue
        if len(self.queues) >= QUEUES and len(self._waits) >= QUEUES // 4:
            self._forget_waiting()
        room = len(self.queues) < QUEUES and self.weight <= self._allowed
        if room and (self.complete or self.roomy or run.attempt):
            return self._make(key)
        return None

    def _queue_of_started(self, key: str) -> KeyQueue:
        return self.queues.get(key) or self._make(key)

    def _make(self, key: str) -> KeyQueue:
        queue = self.queues[key] = KeyQueue(key, self._running, loaded=self.complete)
        if not queue.loaded:
            self.wanted[key] = None
        return queue

    def _miss(self, run: Run) -> None:
        self.out.append(run)
        self.complete, self._missed = False, True
        if self._reading:
            self._left.add(run.key or "")

    def _insert(self, queue: KeyQueue, run: Run) -> None:
        insort(queue.runs, (run.attempt == 0, run.id, run))
        self._weigh(queue, run, 1)

    def _trim(self, queue: KeyQueue) -> None:
        """Remove runs from the end while there are too many. The first one stays."""
        while len(queue.runs) > 1 and (
            len(queue.runs) > PER_KEY
            or self.held > CAPACITY + len(self.queues)
            or queue.weight > KEY_BYTES
            or self.weight > self._allowed
        ):
            self._drop(queue, len(queue.runs) - 1)
            queue.edge, queue.left = queue.runs[-1][:2], True

    def _cut(self, queue: KeyQueue, edge: Position) -> None:
        """Make a queue end at `edge`. Runs behind it wait in the store."""
        if queue.edge is None or edge < queue.edge:
            queue.edge = edge
        keep = len(queue.runs)
        while keep and queue.runs[keep - 1][:2] > queue.edge:
            keep -= 1
        if keep < len(queue.runs):
            queue.left = True
        self._drop(queue, keep)

    def _drop(self, queue: KeyQueue, keep: int) -> None:
        while len(queue.runs) > keep:
            run = queue.runs.pop()[2]
            self._weigh(queue, run, -1)
            self.out.append(run)

    def _weigh(self, queue: KeyQueue, run: Run, sign: int) -> None:
        change = sign * weight(run)
        queue.weight += change
        self.weight += change
        self._budget.used += change
        self.held += sign

    def _reposition(self, queue: KeyQueue) -> None:
        """Put a queue where it belongs now: into the heads or the queues to read, or remove it."""
        head = queue.head
        if head is not None:
            if queue.offered != head.id:
                queue.offered = head.id
                heapq.heappush(self._heads, (-head.priority, head.id, next(self._pushes), queue))
            return
        if queue.loaded and queue.edge is None:
            if queue.idle:
                self._remove(queue)
        elif queue.idle and not self.complete and not self.roomy:
            self._remove(queue)  # its turn comes again after keys that had no queue
            self._missed = True
        elif not queue.loaded or not (queue.runs or queue.waits):
            self.wanted[queue.key] = None

    def _remove(self, queue: KeyQueue) -> None:
        if self.queues.get(queue.key) is queue:
            del self.queues[queue.key]
        self.wanted.pop(queue.key, None)
        if not queue.loaded or queue.edge is not None:
            self.complete = False

    def _forget_waiting(self) -> None:
        """Discard the queues that only wait for an attempt: the store knows them."""
        self.epoch += 1
        self.complete, self._missed = False, True
        for queue in list(self.queues.values()):
            if queue.waits and not queue.running:
                for id_ in queue.waits:
                    self._waits.pop(id_, None)
                queue.waits.clear()
                queue.loaded = False
                self._drop(queue, 0)
                self._remove(queue)

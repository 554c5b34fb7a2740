"""The hub pushes new results to the live subscriptions and keeps the newest results in a ring.

Subscriptions with equal selections that have all results up to the head form a group. For each commit the hub
checks each group, not each socket. It sends one encoded piece to each group that has a match. A subscription
whose socket is busy leaves its group, reads the log at its own pace, and joins again at the head.

Filters need whole events. The ring keeps events only while a subscription has a filter. Groups with filters
read from the store when a commit is too large for one iteration of the loop, or when events are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from busway.domain.cursor import START, Position
from busway.gateway.access.scopes import Access
from busway.gateway.door.deadlines import TIMES
from busway.gateway.errors import Gone, Unavailable
from busway.gateway.store.port.commits import Committed
from busway.gateway.store.port.reader import Reader
from busway.gateway.subscribers.durables import Durables
from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.frames import After
from busway.gateway.subscribers.groups import Group, pick, ready
from busway.gateway.subscribers.ring import Piece, Ring, cut
from busway.gateway.subscribers.selection import Selection, compiled, predicate, scan, size
from busway.gateway.subscribers.session import Start, Subscription
from busway.gateway.subscribers.sinks import NOT_ALLOWED, REVOKED, ObservedSink, Observer, Sink
from busway.gateway.turns import Turns

READ_RESULTS = 500
READ_BYTES = 256 * 1024


async def resolve(reader: Reader, epoch: str, after: tuple[str, Position]) -> Position:
    """Return the position of a cursor if the log still has all results after it.

    Raises:
        Gone: the cursor belongs to another log, is ahead of the head, names another result, or the results
            after it were pruned.
    """
    of, position = after
    if of != epoch:
        raise Gone("the cursor belongs to another log: start again after 'earliest' or 'latest'")
    head, floor = await reader.log_bounds()
    if position in (head, floor):
        return position
    if position.number < floor.number:
        raise Gone("the results after this cursor were deleted: start again after 'earliest' or 'latest'")
    if position.number > head.number or await reader.position(position.number) != position:
        raise Gone("the cursor is not in this log: start again after 'earliest' or 'latest'")
    return position


logger = logging.getLogger("busway.hub")

RING_BYTES = 64 * 1024 * 1024
SHOW = 20_000  # comparisons in one iteration of the loop; the groups that need more read the log
SHORT = 500  # comparisons that need no turn of their own
SELECTIONS_BYTES = 128 * 1024 * 1024  # memory for the different selections of all connections
SHARED_BYTES = 8 * 1024 * 1024
FLOOR_AGE = 5.0  # seconds for which the oldest position is cached
READS = 2  # concurrent reads of the store: leaves readers for other requests
BEAT = 0.1  # seconds
BEAT_FRAMES = 100  # empty frames a beat: 10,000 quiet sockets get one every ten seconds


class Hub:
    """Pushes committed results to subscriptions. Register it as a listener of the commits, then `start` it.

    Args:
        reader: reads results that the ring no longer holds.
        epoch: identifies the log in cursors.
        durables: the durable subscriptions.
        turns: for pieces that take many comparisons.
        ring_bytes: memory for the newest results.

    Attributes:
        admits: returns whether an access is still good.
    """

    def __init__(
        self,
        reader: Reader,
        epoch: str,
        durables: Durables,
        turns: Turns | None = None,
        *,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self._turns = turns or Turns()
        self._selections: dict[Selection, int] = {}  # how many subscriptions have each
        self._selections_bytes = self._shared_bytes = 0
        self.epoch, self.durables = epoch, durables
        self.stall_timeout = TIMES.stall  # seconds
        self.latest = self._floor = START
        self.closing: tuple[int, str] | None = None
        self.reader = reader
        self._entered, self._floor_at, self._ring_bytes = 0, 0.0, ring_bytes
        self._ring = Ring(ring_bytes, 0)
        self._groups: dict[str | None, dict[Selection, Group[Sink]]] = {None: {}}
        self.sinks: dict[Sink, int] = {}  # each with the number of its connection since the start
        self.admits: Callable[[Access], bool] = lambda _: True
        self._queue: deque[Committed] = deque()
        self._started = self._scheduled = self._watched = self._beating = False
        self.on_results: Callable[[list[Entry]], None] | None = None  # gets each result, in log order
        self.on_sent: Observer | None = None  # set it before anything joins
        self._turned = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None
        self._shared: dict[tuple[int, Selection], Piece] = {}
        self._reads: dict[tuple[int, bool], asyncio.Task[list[Entry]]] = {}
        self._reading = asyncio.Semaphore(READS)
        self._quiet: deque[tuple[float, Subscription, Sink]] = deque()
        self._filtered: set[Subscription] = set()

    async def start(self) -> None:
        """Read the head of the log. Commits that arrived before are processed now."""
        self._loop = asyncio.get_running_loop()
        self.latest, self._floor = await self.reader.log_bounds()
        self._floor_at = self._loop.time()
        self._ring = Ring(self._ring_bytes, self.latest.number)
        self._started = True
        self._advance()

    def committed(self, commit: Committed) -> None:
        """Queue a commit. The next iteration of the loop sends its results, in commit order."""
        self._floor = commit.floor or self._floor
        self._queue.append(commit)
        if self._started and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._advance)

    def enter(self, sink: Sink) -> None:
        """Register a connection, so that the hub can close it. One whose access ended meanwhile is closed."""
        self._entered += 1
        self.sinks[sink] = self._entered
        if not self.admits(sink.access):
            sink.close(NOT_ALLOWED, REVOKED, flush=False)

    def exit(self, sink: Sink) -> None:
        """Remove a connection. Its subscriptions must have left."""
        self.sinks.pop(sink, None)
        self._turned.set()

    async def locate(self, after: After) -> Start:
        """Return where a subscription begins: at the head if `after` is no longer available."""
        if after is None:
            await self._refresh_floor()
            return Start(self.latest, True, self._floor)
        if isinstance(after, str):
            await self._refresh_floor(0)
            return Start(self._floor, True, self._floor)
        epoch, position = after
        if epoch == self.epoch and self._ring.position(position.number) == position:
            await self._refresh_floor()
            oldest = min(self._floor, position, key=lambda each: each.number)
            return Start(position, True, oldest)
        await self._refresh_floor(0)
        try:
            return Start(await resolve(self.reader, self.epoch, after), True, self._floor)
        except Gone:
            return Start(self.latest, False, self._floor)

    def contradicts(self, position: Position) -> bool:
        """Return whether the ring has another result at this number."""
        known = self._ring.position(position.number)
        return known is not None and known != position

    def join(self, subscription: Subscription, sink: Sink) -> bool:
        """Push to a subscription from now on. Return False if it is not at the head."""
        if subscription.position != self.latest.number:
            return False
        selection = subscription.selection
        groups = self._groups.setdefault(selection.correlationid, {})
        group = groups.get(selection)
        if group is None:
            group = groups[selection] = Group(selection)
        group.members[subscription] = sink if self.on_sent is None else ObservedSink(sink, self.on_sent)
        subscription.live, subscription.live_since = True, self.durables.clock()
        return True

    def leave(self, subscription: Subscription) -> None:
        """Stop pushing to a subscription. It has everything up to the head."""
        if not subscription.live:
            return
        subscription.live = False
        subscription.position = self.latest.number
        selection = subscription.selection
        groups = self._groups[selection.correlationid]
        group = groups[selection]
        del group.members[subscription]
        if not group.members:
            del groups[selection]
            if not groups and selection.correlationid is not None:
                del self._groups[selection.correlationid]

    def watch(self, subscription: Subscription, sink: Sink) -> None:
        """Send an open subscription empty frames that move its cursor while nothing matches."""
        selection = subscription.selection
        subscription.first, subscription.since = subscription.position, self.durables.clock()
        if selection.filter is not None:
            self._filtered.add(subscription)
        if selection not in self._selections:
            self._selections_bytes += size(selection)
        self._selections[selection] = self._selections.get(selection, 0) + 1
        self._quiet.append((self._loop.time() + 1, subscription, sink))
        if not self._beating:
            self._beating = True
            self._loop.call_later(BEAT, self._beat)

    def check_room(self, selection: Selection) -> None:
        """Check that there is memory for a subscription with this selection.

        Raises:
            Unavailable: the selections of all connections take too much.
        """
        if selection in self._selections:
            return
        if self._selections_bytes + size(selection) > SELECTIONS_BYTES:
            raise Unavailable("the subscriptions of all connections take too much memory: try again later")

    def _unwatch(self, subscription: Subscription) -> None:
        self._filtered.discard(subscription)
        selection = subscription.selection
        self._selections[selection] -= 1
        if not self._selections[selection]:
            del self._selections[selection]
            self._selections_bytes -= size(selection)

    async def read(self, subscription: Subscription) -> Piece | None:
        """Return the next piece for a lagging subscription, or None if it is at the head or ahead of it.

        Raises:
            Gone: results that it has not received were pruned.
        """
        after, selection = subscription.position, subscription.selection
        if after >= self.latest.number:
            return None
        if after + 1 < self._ring.first:
            return await self._stored_piece(after, selection)
        piece = self._shared.get((after, selection))
        if (
            piece is None
            and min(scan(selection), self.latest.number - after) * compiled(selection).cost > SHORT
        ):
            await self._turns.next()
            if after + 1 < self._ring.first:
                return await self._stored_piece(after, selection)
        return piece or self._shared_piece(after, selection) or await self._stored_piece(after, selection)

    async def close(self, code: int, reason: str, grace: float = 5.0) -> None:
        """Close all connections, each when it has everything, the slow ones after `grace` seconds.

        New connections are closed at once.
        """
        deadline = self._loop.time() + grace
        await self._until(lambda: not (self._queue or self._filling), deadline)
        self.closing = (code, reason)
        for sink in list(self.sinks):
            sink.close(code, reason, flush=True)
        await self._until(lambda: not self.sinks, deadline)
        for sink in list(self.sinks):
            sink.close(code, reason, flush=False)

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait for a condition that changes when results are shown or connections end."""
        self._watched = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not condition():
                    self._turned.clear()
                    await self._turned.wait()

    def revoke(self, key: int | None) -> None:
        """Close the connections of a key that is no longer valid. None: those opened before the first key."""
        for sink in list(self.sinks):
            if sink.access.key == key:
                sink.close(NOT_ALLOWED, REVOKED, flush=False)

    def status(self) -> dict[str, Any]:
        """Return the state of the subscribers for `/v1/status`."""
        live = sum(len(group.members) for groups in self._groups.values() for group in groups.values())
        subscriptions = sum(subscription.open for _, subscription, _ in self._quiet)
        return {
            "connections": len(self.sinks),
            "subscriptions": subscriptions,
            "live": live,
            "lagging": max(0, subscriptions - live),
            "furthest_behind": max(self.behind(0).values(), default=0),
            "head": self.latest.number,
            "ring": {"results": len(self._ring), "bytes": self._ring.bytes},
        }

    def followers(self) -> list[tuple[int, Sink, Subscription]]:
        """Return the open subscriptions, each with its connection and the number of that."""
        return [(n, sink, each) for _, each, sink in self._quiet if each.open and (n := self.sinks.get(sink))]

    def behind(self, least: int) -> dict[Subscription, int]:
        """Return the subscriptions that have not received at least so many results, and how many."""
        lag = {s: self.latest.number - s.position for _, s, _ in self._quiet if s.open and not s.live}
        return {s: count for s, count in lag.items() if count >= least}

    async def _refresh_floor(self, age: float = FLOOR_AGE) -> None:
        if self._loop.time() - self._floor_at >= age:
            _, self._floor = await self.reader.log_bounds()
            self._floor_at = self._loop.time()

    def _advance(self) -> None:
        self._scheduled = False
        fresh: list[Entry] = []
        filtered = bool(self._filtered)
        head = self.latest.number
        while self._queue and not self._filling:
            commit = self._queue[0]
            known = [
                Entry(result, event if filtered else None)  # only filters need the event: saves memory
                for result, event in commit.results
                if result.number > head
            ]
            if commit.head > head and (
                not known or known[0].result.number != head + 1 or len(known) != commit.head - head
            ):
                self._filling = self._loop.create_task(self._fill(commit.head))
                break
            self._queue.popleft()
            fresh += known
            head = max(head, commit.head)
        if fresh:
            self._show(fresh)
        if self._watched:
            self._turned.set()

    async def _fill(self, head: int) -> None:
        while self.latest.number < head:
            try:
                count = min(READ_RESULTS, head - self.latest.number)
                entries = await self._read(self.latest.number, count, READ_BYTES, bool(self._filtered))
            except Exception:
                logger.exception("cannot read the results after %d, retrying", self.latest.number)
                entries = []
            if entries and entries[0].result.number == self.latest.number + 1:
                self._show(entries)
            elif not await self._skip_pruned():
                await asyncio.sleep(0.2)
        self._filling = None
        self._advance()

    async def _read(self, after: int, count: int, max_bytes: int, with_events: bool) -> list[Entry]:
        reader = self.reader
        if with_events:
            pairs = await reader.results_with_events(after, count, max_bytes)
            return [Entry(result, event) for result, event in pairs]
        return [Entry(result) for result in await reader.results(after, count, max_bytes)]

    async def _skip_pruned(self) -> bool:
        """Continue after results that were pruned before they were sent. Live subscriptions fall behind."""
        try:
            _, floor = await self.reader.log_bounds()
        except Exception:
            logger.exception("cannot read the bounds of the log, retrying")
            return False
        if floor.number <= self.latest.number:
            return False
        self._floor, self._floor_at = floor, self._loop.time()
        self._ring = Ring(self._ring_bytes, floor.number)
        self._shared.clear()
        self._shared_bytes = 0
        for group in [group for groups in self._groups.values() for group in groups.values()]:
            self._all_fall_behind(group, self.latest.number)
        self.latest = floor
        return True

    def _all_fall_behind(self, group: Group[Sink], position: int) -> None:
        for subscription, sink in list(group.members.items()):
            self._fall_behind(subscription, sink, position)

    def _fall_behind(self, subscription: Subscription, sink: Sink, position: int) -> None:
        self.leave(subscription)
        subscription.position = position
        sink.lag(subscription)

    def _show(self, entries: list[Entry]) -> None:
        before = self.latest.number
        for entry in entries:
            self._ring.append(entry)
        self._shared.clear()
        self._shared_bytes = 0
        concerned = {entry.result.event.correlationid for entry in entries} & self._groups.keys()
        groups = [group for name in (None, *concerned) for group in self._groups[name].values()]
        self.latest = entries[-1].result.position
        if self.on_results is not None:
            self.on_results(entries)
        filtered, left = [], SHOW
        for group in groups:
            if group.test is not None:
                filtered.append(group)
                continue
            left -= len(entries)
            if left < 0:
                self._all_fall_behind(group, before)
            elif any(group.matches(entry) for entry in entries):
                self._push(group, before, cut(before, entries, group.matches, self.epoch, group.selection))
        if filtered:
            self._show_filtered(filtered, before, entries, left)

    def _show_filtered(self, groups: list[Group[Sink]], before: int, entries: list[Entry], left: int) -> None:
        """Push to groups with filters, after all others, with `left` comparisons."""
        shown = []
        for group in groups:
            left -= len(entries) * group.cost
            if left < 0:
                self._all_fall_behind(group, before)
            else:
                shown.append(group)
        wanted = [entry for entry in entries if any(group.matches(entry) for group in shown)]
        if len(ready(wanted)) < len(wanted):
            for group in shown:
                self._all_fall_behind(group, before)
            return
        for group, picked in pick(shown, wanted).items():
            if picked.numbers:
                self._push(group, before, cut(before, entries, picked, self.epoch, group.selection))

    def _push(self, group: Group[Sink], before: int, piece: Piece) -> None:
        whole = piece.until == self.latest
        for subscription, sink in list(group.members.items()):
            if not subscription.live:
                continue
            subscription.position = before
            if self._sent(subscription, sink, piece) and whole:
                continue
            self._fall_behind(subscription, sink, subscription.position)

    def _sent(self, subscription: Subscription, sink: Sink, piece: Piece) -> bool:
        try:
            return sink.push(subscription, piece)
        except Exception:  # an error of one subscriber must not reach the others
            logger.exception("cannot push to a subscriber")
            sink.close(1011, "internal error: connect again with your cursor", flush=False)
            return False

    def _shared_piece(self, after: int, selection: Selection) -> Piece | None:
        """Return the next piece from the ring, or None if a filter needs events that the ring lacks."""
        piece = self._shared.get((after, selection))
        if piece is None:
            entries = self._ring.after(after, scan(selection))
            if selection.filter is not None:
                entries = ready(entries)
                if not entries:
                    return None
            piece = cut(after, entries, predicate(selection), self.epoch, selection)
            self._shared_bytes += piece.size
            if self._shared_bytes > SHARED_BYTES:
                self._shared.clear()
                self._shared_bytes = piece.size
            self._shared[after, selection] = piece
        return piece

    async def _stored_piece(self, after: int, selection: Selection) -> Piece:
        which = after, selection.filter is not None
        reading = self._reads.get(which)
        if reading is None:
            reading = self._reads[which] = self._loop.create_task(self._read_entries(*which))
            reading.add_done_callback(lambda _: self._reads.pop(which, None))
        entries = await asyncio.shield(reading)
        if len(entries) * compiled(selection).cost > SHORT:
            await self._turns.next()
        return cut(after, entries[: scan(selection)], predicate(selection), self.epoch, selection)

    async def _read_entries(self, after: int, with_events: bool) -> list[Entry]:
        async with self._reading:
            entries = await self._read(after, READ_RESULTS, READ_BYTES // 4, with_events)
        if not entries or entries[0].result.number != after + 1:
            raise Gone(
                "results that this subscription had not received were deleted, and it has ended: "
                "subscribe again after 'earliest' or 'latest'"
            )
        return entries

    def _beat(self) -> None:
        now, left, head = self._loop.time(), BEAT_FRAMES, self.latest
        while self._quiet and self._quiet[0][0] <= now and left:
            _, subscription, sink = self._quiet.popleft()
            if not subscription.open:
                self._unwatch(subscription)
                continue
            if subscription.live and subscription.checked == subscription.sent < head.number:
                subscription.position = subscription.sent
                self._sent(subscription, sink, Piece(subscription.sent, head, [], self.epoch))
                left -= 1
            subscription.checked = subscription.sent
            self._quiet.append((now + 1, subscription, sink))
        self._beating = bool(self._quiet)
        if self._beating:
            self._loop.call_later(BEAT, self._beat)

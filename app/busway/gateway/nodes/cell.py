"""One node among several on a PostgreSQL database.

One task renews the node's row, applies what other nodes commit, and takes the lead when nobody else has it.
Notifications only make it look earlier: it looks by itself anyway, once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from busway.domain.operations import node_lost
from busway.domain.run import MAX_LOSSES
from busway.domain.weburl import is_url
from busway.gateway.errors import Unavailable
from busway.gateway.nodes.clock import CellClock
from busway.gateway.nodes.following import CommitFollower, Parts
from busway.gateway.nodes.liveness import BEAT, LEASE, Liveness, own_row
from busway.gateway.nodes.notifications.port import LOOK, BrokerStatus, Notifications
from busway.gateway.nodes.port import AssignedRuns, CellStatus, CodeChanged, Led, NodeStatus, TakeLead
from busway.gateway.store.port.cell import CellLink, CellState, CommitRow, NodeRow, Offer, capacity
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.operations import Lead
from busway.gateway.store.port.reader import Reader
from busway.version import __version__

log = logging.getLogger("busway.nodes")

REST = 0.1  # seconds between two looks at the nodes, however many notifications come
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between attempts to connect
PATIENCE = 10.0  # seconds to wait for handlers that another node changed
SPREAD = 15.0  # seconds to wait for the other nodes: those that are gone are closed before
ASK_AGAIN = 0.005  # seconds between two questions whether they have confirmed
GATEWAYS_FIRST = 1.0  # seconds that nodes with workers leave the lead to gateways
MOST_SKEW = 5_000_000  # microseconds between the clocks of this machine and the database without a warning
EXPELLED = (
    "other nodes considered this one gone, because it did not report for 10 s. What it held in memory is out "
    "of date. This gateway ends; start it again"
)


class CellNode:
    """Implements `Nodes` over a `CellLink`.

    Args:
        link: to the cell. Only this object uses it.
        notifications: from and to the other nodes.
        name: of this node.
        role: `all`, `gateway` or `worker`.
        clock: of this machine, in microseconds since 1970.
    """

    def __init__(
        self, link: CellLink, notifications: Notifications, name: str, role: str, clock: Callable[[], int]
    ) -> None:
        self.id = 0
        self.leads = False
        self.secret: bytes
        """Of the cell: only its nodes know it."""
        self._leaves = False
        self.name, self._role = name, role
        self._link, self.clock = link, CellClock(clock)
        self._notifications = notifications
        self._liveness = Liveness()
        self._state = CellState([], 0, 0)
        self._confirmed = 0
        self._offering = False
        self._left = False  # a node, since the last look for runs that no node has
        self._offers: list[tuple[int, int, int, int, list[str]]] = []  # of other nodes
        self._offered: set[str] = set()  # targets
        self._without_leader_since: float | None = None
        self._problem: str | None = None
        self._running: Callable[[], dict[str, int]] = dict
        self._offers_changed: Callable[[], None] = lambda: None
        self._offer: Offer | None = None  # not stored yet
        self._catalogs: dict[int, bytes] = {}  # of the handler code that nodes with workers have
        self._code = ""  # of this node
        self._code_of: dict[int, int] = {}  # by node with workers
        self._replaced: set[int] = set()  # versions of handler code that a node had, and has replaced
        self._code_changed: CodeChanged = lambda _, __: None
        self._assigned: AssignedRuns
        self._renewed_at = self._looked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._leading: asyncio.Task[None] | None = None
        self._turned = asyncio.Event()
        self._commits: Commits
        self._reader: Reader
        self._version: Callable[[], int]
        self._newest: CommitRow
        self._follower: CommitFollower
        self._handler_name: Callable[[int], str | None]
        self._extend_lease: Callable[[int], None]
        self._looked: Callable[[], None]
        self._lease_end: int

    async def join(self) -> int:
        """Become a node of the cell. Return the id."""
        await self._link.open()
        await self._measure_time()
        if abs(skew := self.clock.skew()) >= MOST_SKEW:
            log.warning(
                "the clock of this machine is %.0f s %s that of the database, which counts: correct it",
                abs(skew) / 1e6,
                "behind" if skew > 0 else "ahead of",
            )
        self._lease_end = _lease_end()
        self.id = await self._link.join(own_row(self.name, self._role, __version__, self.clock()))
        self._newest = await self._link.newest()
        self.secret = await self._link.secret()
        self._notifications.open(self._link.epoch, self.secret)
        return self.id

    def serve(
        self,
        commits: Commits,
        reader: Reader,
        version: Callable[[], int],
        assigned: AssignedRuns,
        handler_name: Callable[[int], str | None],
        extend_lease: Callable[[int], None],
        looked: Callable[[], None],
    ) -> None:
        """Set what commits are passed to.

        Args:
            commits: writes to the store.
            reader: reads from it.
            version: of the handlers that this node has.
            assigned: starts the attempts of runs that were assigned to this node.
            handler_name: returns the name of a handler, by number.
            extend_lease: lets attempts run until then, in nanoseconds of CLOCK_BOOTTIME.
            looked: called when the open nodes were read.
        """
        self._commits, self._reader, self._version, self._assigned = commits, reader, version, assigned
        self._extend_lease, self._looked = extend_lease, looked
        self._handler_name = handler_name

    @property
    def term(self) -> int:
        """The newest term."""
        return self._state.term

    def peers(self) -> list[NodeRow]:
        """Return the other open nodes."""
        return [node for node in self._state.nodes if node.id != self.id]

    def others(self) -> set[int]:
        """Return the ids of the other open nodes."""
        return {node.id for node in self.peers()}

    def listen(
        self,
        running: Callable[[], dict[str, int]],
        offers_changed: Callable[[], None],
        code_changed: CodeChanged,
    ) -> None:
        """Set what counts attempts of this node, and what is called when nodes offer something else."""
        self._running, self._offers_changed, self._code_changed = running, offers_changed, code_changed

    def offered(self, target: str) -> bool:
        """Return whether another node can run a target."""
        return target in self._offered or (is_url(target) and any(node.deliveries for node in self.peers()))

    def offer(self, offer: Offer) -> None:
        """Tell the other nodes what this one can run."""
        self._offer, self._code = offer, offer.code

    async def shared(self) -> None:
        """Wait until the other nodes can see what this one offered, and this one has seen what they offer."""
        while self._offer is not None or self._offering:
            self._turned.clear()
            await self._turned.wait()

    @property
    def knows_code(self) -> bool:
        """Whether it is known which handler code is current."""
        return bool(self._catalogs)

    async def lead(self, take: TakeLead) -> bool:
        """Lead, if no other node does."""
        self._look_around(await self._link.state())
        await self._lead_if_nobody_does(take)
        return self.leads

    async def confirm(self, version: int) -> None:
        """Let the other nodes know which handlers and keys this one has."""
        await self._link.confirm(self.id, version)
        self._confirmed = version

    def follow(self, take: TakeLead, led: Led, renew: Callable[[], Awaitable[None]]) -> None:
        """Apply what other nodes commit, and call `led` if this node leads later."""
        parts = Parts(
            self._commits,
            self._reader,
            self._assigned,
            self._version,
            self._handler_name,
            lambda: self.leads,
            self._end,
            renew,
        )
        self._follower = CommitFollower(self.id, self._newest, self._link, self._notifications, parts)
        self._extend_lease(self._lease_end)
        self._task = asyncio.create_task(self._run(take, led))

    async def hand_over(self, mark: Callable[[], None]) -> None:
        """Leave the lead to another node."""
        if not (self.leads and self.peers()):
            return
        mark()
        await self._commits.drained()  # before another node may start these runs
        self.leads = False
        self._leaves = True
        operation = Lead(now=self.clock(), max_losses=MAX_LOSSES, term=self._state.term + 1)
        with contextlib.suppress(Unavailable):  # then the others wait until this node has left
            await self._commits.change(operation)

    def drain(self) -> None:
        """Take no more runs of other nodes, and give back those that have not started."""
        self.offer(Offer(code=self._code))
        self._assigned.stop()

    async def drained(self) -> None:
        """Wait until what was given back is stored."""
        await self._assigned.returned()

    async def current(self) -> None:
        """Wait until this node has the handlers that the store has now."""
        await self._until_version(await self._reader.rules())

    async def _until_version(self, wanted: int) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while self._version() < wanted:
                    self._turned.clear()
                    await self._turned.wait()
        except TimeoutError:
            raise Unavailable("this node cannot read what other nodes changed: try again") from None

    async def spread(self) -> None:
        """Wait until all nodes have the handlers and keys that the store has now."""
        wanted = await self._reader.rules()
        # This node, too: else changes of keys one after another keep it behind, and publishing waits for it.
        await self._until_version(wanted)
        end = time.monotonic() + SPREAD
        while {*await self._reader.nodes_behind(wanted)} - {self.id}:
            if time.monotonic() > end:
                raise Unavailable(
                    "stored, but not all nodes have confirmed it yet: `busway nodes` shows them"
                )
            await asyncio.sleep(ASK_AGAIN)

    async def stop_following(self) -> None:
        """Undo `follow`: apply nothing more, and lead no more."""
        tasks = [task for task in (self._task, self._leading) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Leave the cell."""
        await self.stop_following()
        try:
            if self.id:
                async with asyncio.timeout(PATIENCE):
                    await self._link.open()  # a cancelled task may have left the connection in any state
                    await self._link.leave(self.id)
                    self._notifications.notify(b"")
        except (Unavailable, TimeoutError) as problem:
            log.warning("the other nodes notice only after 10 s that this one has ended: %s", problem)
        await self._notifications.close()
        await self._link.close()

    def status(self) -> CellStatus:
        """Return the state of the cell."""
        state, leader = self._state, next((n for n in self._state.nodes if n.id == self._state.leader), None)
        nodes = [
            NodeStatus(
                id=node.id,
                name=node.name,
                role=node.role,
                version=node.version,
                code=node.code,
                leader=node is leader,
                this=node.id == self.id,
                opened_at=node.opened_at,
                capacity=capacity(node),
                running=self._running() if node.id == self.id else node.running,
                lag=node.lag,
            )
            for node in state.nodes
        ]
        led = leader is not None and self._problem is None and not self._liveness.is_gone(leader)
        return CellStatus(nodes=nodes, term=state.term, led=led, problem=self._problem)

    def broker(self) -> BrokerStatus | None:
        """Return the state of the broker."""
        return self._notifications.status()

    # -- the task

    async def _run(self, take: TakeLead, led: Led) -> None:
        delay, heard = 0.0, False
        while not self._commits.lost.done():
            try:
                if delay:
                    await asyncio.sleep(delay)
                    await self._link.open()
                    await self._follower.check_last()
                await self._look(take, led, heard=heard)
                delay, self._problem = 0.0, None
                heard = await self._notifications.wait()
            except Unavailable as problem:
                heard = False
                self._problem = problem.detail
                if not delay:
                    log.error("this node cannot follow the others: %s", problem.detail)  # noqa: TRY400 - it says all
                self._liveness.failed()
                delay = min(delay * 2 or FIRST_DELAY, LONGEST_DELAY)
            except Exception as problem:
                heard = False
                self._problem = repr(problem)
                log.exception("following the other nodes failed; trying again")
                delay = LONGEST_DELAY

    async def _look(self, take: TakeLead, led: Led, *, heard: bool) -> None:
        now = time.monotonic()
        if now - self._renewed_at >= BEAT:
            lease_end = _lease_end()
            if not await self._link.renew(self.id, self._follower.applied.number, self._running()):
                self._end(EXPELLED)
                return
            self._extend_lease(lease_end)
            self._renewed_at = now
            await self._measure_time()
        if self._offer is not None:
            offer, self._offering = self._offer, True  # until this node has seen it
            self._looked_at = float("-inf")
            await self._link.offer(self.id, offer)
            if self._offer is offer:  # there may be a newer one
                self._offer = None
            self._notifications.notify(b"")
        at_work = await self._follower.catch_up(heard=heard)
        self._turned.set()
        if self._version() > self._confirmed:
            await self.confirm(self._version())
        if now - self._looked_at >= (LOOK if at_work else REST):
            self._looked_at = now
            self._look_around(await self._link.state())
            await self._follow_code()
            self._offering = False
            self._turned.set()
            if self.leads:
                await self._close_gone(take)
            elif not self._leaves and await self._lead_if_nobody_does(take):
                self._leading = asyncio.create_task(led())  # it waits for commits that this task applies

    async def _measure_time(self) -> None:
        sent = self.clock.monotonic()
        self.clock.measured(sent, await self._link.time())

    def _end(self, why: str) -> None:
        if not self._commits.lost.done():
            self._commits.lost.set_result(why)

    # -- the leader

    def _look_around(self, state: CellState) -> None:
        self._left |= len({node.id for node in self._state.nodes} - {node.id for node in state.nodes}) > 0
        self._state = state
        self._liveness.read(state.nodes, time.monotonic())
        offers = [
            (node.id, node.processes, node.threads, node.deliveries, node.targets) for node in self.peers()
        ]
        if offers != self._offers:
            self._offers, self._offered = offers, {target for *_, targets in offers for target in targets}
            self._offers_changed()
        self._looked()

    async def _follow_code(self) -> None:
        """Find out which handler code the nodes with workers have."""
        capable = [node for node in self._state.nodes if node.processes + node.threads]
        code_of = {node.id: node.appeared for node in capable if node.appeared}
        codes, known = sorted({*code_of.values()}), self._catalogs
        self._replaced |= {code for node, code in self._code_of.items() if code_of.get(node, code) != code}
        self._code_of = code_of
        if not codes or codes == [*known]:
            return
        catalogs = {code: known.get(code) or await self._link.catalog(code) for code in codes}
        later = await self._link.catalogs_after(codes[-1])
        self._catalogs = catalogs
        self._code_changed(
            [*catalogs.values()], [catalog for code, catalog in later.items() if code not in self._replaced]
        )

    async def _lead_if_nobody_does(self, take: TakeLead) -> bool:
        state = self._state
        others = [node for node in state.nodes if node.id != self.id]
        gone = [node for node in others if self._liveness.is_gone(node)]
        alive = [node for node in others if node not in gone]
        if any(node.id == state.leader for node in alive):
            self._without_leader_since = None
            return False
        if self._role != "gateway" and any(node.role == "gateway" for node in alive):
            now = time.monotonic()
            self._without_leader_since = self._without_leader_since or now
            if now - self._without_leader_since < GATEWAYS_FIRST:
                return False
        self.leads = await self._take(take, state.term + 1, gone)
        if self.leads:
            state.term, state.leader = state.term + 1, self.id
            if others or state.term > 1:
                log.info("the node %s (%d) leads now: it hands out runs", self.name, self.id)
        return self.leads

    async def _close_gone(self, take: TakeLead) -> None:
        """Close the rows of nodes that are gone, so that their runs wait again.

        A node that left by itself may have got a run that it could not give back any more.
        """
        gone = [node for node in self.peers() if self._liveness.is_gone(node)]
        if not (gone or self._left):
            return
        if not await self._take(take, self._state.term, gone):
            self._end(EXPELLED)
            return
        self._left = False
        self._state.nodes = [node for node in self._state.nodes if node not in gone]
        self._looked()

    async def _take(self, take: TakeLead, term: int, gone: list[NodeRow]) -> bool:
        for node in gone:
            await self._link.end_sessions(node.id)
        operation = Lead(
            now=self.clock(),
            max_losses=MAX_LOSSES,
            term=term,
            node=self.id,
            gone=[(node.id, node.beat) for node in gone],
            notices=[node_lost(node.id, node.name, self.clock()) for node in gone],
        )
        if not await take(operation):
            return False
        for node in gone:
            log.warning("the node %s (%d) is gone", node.name, node.id)
        return True


def _lease_end() -> int:
    """Return until when attempts may run if a renewal is sent now, in nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + round(LEASE * 1e9)

"""The composition root: creates the parts of a gateway and connects them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from busway.domain.run import Run, RunState
from busway.gateway.access.keysfile import KeysFile
from busway.gateway.access.origins import Origins
from busway.gateway.access.proxies import TrustedProxies
from busway.gateway.access.ticket import SharedTickets
from busway.gateway.admitting import make_gate
from busway.gateway.api import sources
from busway.gateway.api.frames import publish_frame
from busway.gateway.api.front import Front, HealthFront
from busway.gateway.api.keys import take_declared
from busway.gateway.api.preparing import prepare_routes
from busway.gateway.api.routes import describe
from busway.gateway.api.stages import Stages
from busway.gateway.attempts import outcome_log
from busway.gateway.attempts.depth import Depth
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.attempts.rates import Rates
from busway.gateway.attempts.recorder import Progress, Recorder, shift
from busway.gateway.budget import Budgets
from busway.gateway.clock import clock
from busway.gateway.dispatch.assigned import Assigned
from busway.gateway.dispatch.assigner import Assigner
from busway.gateway.dispatch.changes import HandlerChanges
from busway.gateway.dispatch.dispatcher import Dispatcher
from busway.gateway.dispatch.firings import Firings
from busway.gateway.dispatch.placement import Placement
from busway.gateway.dispatch.registry import Registry
from busway.gateway.dispatch.replays import Replays
from busway.gateway.dispatch.retention import Retention
from busway.gateway.dispatch.schedules import Schedules
from busway.gateway.dispatch.trials import Trials
from busway.gateway.executing import make_executors
from busway.gateway.executors.port import Catalog, WorkerReport, Workers
from busway.gateway.handler_code import HandlerCode, keep_trying
from busway.gateway.ingest.publisher import Publisher
from busway.gateway.ingest.rematching import Rematching
from busway.gateway.nodes.alone import Alone
from busway.gateway.nodes.cell import CellNode
from busway.gateway.nodes.notifications.port import Notifications
from busway.gateway.nodes.notifications.postgres import PostgresNotifications
from busway.gateway.nodes.port import Nodes
from busway.gateway.settings import Settings
from busway.gateway.store.databases import choose
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.group.process import Launched
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.database import Database, is_postgres
from busway.gateway.store.port.operations import Lead, RedeemTicket
from busway.gateway.store.port.reader import Reader, RunQuery
from busway.gateway.subscribers.durables import Durables
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.sse import StreamShell
from busway.gateway.subscribers.waits import Waits
from busway.gateway.subscribers.websocket import WebSocketShell
from busway.gateway.tls import Certificate
from busway.gateway.traces.switch import REQUEST_HEADERS
from busway.gateway.tracing import codec_choice, trace_attempts, trace_commits, trace_deliveries
from busway.gateway.turns import Turns
from busway.gateway.upkeep import follow_keys_file, keep_up

if TYPE_CHECKING:
    from busway.gateway.traces.tracer import Tracer

log = logging.getLogger("busway")

LEADS = "this node leads, but cannot hand out runs yet; trying again"
FRAME_ROOM = 65_536  # bytes that a frame may have in addition to its event


class Gateway:
    """One gateway: starts, drains and stops.

    It belongs to the loop that runs when it is made. `stages` is None until work can be taken. `ready`
    resolves then, or has the error of why not.
    """

    def __init__(
        self,
        settings: Settings,
        committer: Launched | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self.settings, self._certificate = settings, certificate
        self.budgets = Budgets(settings.max_answers_bytes, settings.max_bodies_bytes)
        self.limits, self.times = settings.limits(), settings.times
        self._committer = committer
        self.stages: Stages | None = None
        self.loading: asyncio.Task[Catalog] | None = None
        self.ready: asyncio.Future[Stages] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(_retrieve)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start in the background, so that health checks get answers meanwhile. Stop at the end."""
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(app, stack))
            try:
                yield
            finally:
                starting.cancel()
                await asyncio.wait([starting])

    async def _start(self, app: FastAPI, stack: AsyncExitStack) -> None:
        preparing = asyncio.create_task(prepare_routes(app))  # while other processes start
        try:
            stages = await _build(self, self._committer, self._certificate, stack)
            await preparing
        except Exception as problem:
            self.ready.set_exception(problem)
            return
        self.stages = stages
        self.ready.set_result(stages)

    def starting(self) -> str:
        """Return a log line for a start that takes long."""
        if self.loading is not None and not self.loading.done():
            return "still starting: waiting for the import of the handlers folder"
        return "still starting: opening the database and reading waiting runs"

    def draining(self, left: float) -> str:
        """Return a log line for a drain that takes long. `left`: seconds until attempts are stopped."""
        if self.stages is None:
            return "still stopping"
        running = sum(pool["running"] for pool in self.stages.workers.status()["pools"].values())
        return f"still draining: {running} attempts run, {left:.0f} s left"

    async def drain(self) -> None:
        """Refuse new events, wait for running handlers, deliver their results, close the sockets."""
        stages = self.stages
        if stages is None:
            return
        stages.publisher.closed = "the gateway is stopping: try again after its restart"
        stages.schedules.stop()
        stages.waits.close()
        stages.dispatcher.stop()
        stages.replays.stop()
        await stages.nodes.hand_over(partial(_mark_all, stages))
        stages.nodes.drain()
        await stages.workers.drain(self.settings.drain_timeout)
        await stages.recorder.prepared()
        await stages.nodes.drained()
        await stages.commits.drained()
        await stages.hub.close(1012, "the gateway is restarting: connect again with your cursor")
        await stages.hub.durables.settled()


def _mark_all(stages: Stages) -> None:
    """Mark all attempts of this node as running, so that no other node starts them."""
    stages.recorder.mark_all()
    stages.assigned.own()


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve an error, which asyncio would log if nobody waits for the future any more."""
    if not future.cancelled():
        future.exception()


async def _build(
    gateway: Gateway, committer: Launched | None, certificate: Certificate | None, stack: AsyncExitStack
) -> Stages:
    settings, budgets, limits = gateway.settings, gateway.budgets, gateway.limits
    database = choose(settings.database_url)
    notifications = _make_notifications(settings)
    nodes = _make_nodes(settings, database, notifications)
    stack.push_async_callback(nodes.close)
    store = GroupCommits(database.url, committer)
    store.notify = None if notifications is None else notifications.notify
    tracer, commits = trace_commits(settings.traces, nodes, store, stack)
    registry = Registry(delivers=settings.has_workers)
    changes = HandlerChanges(
        commits, registry, nodes.clock, nodes.current, nodes.spread, settings.targets.fault
    )
    placement = Placement(settings.pool, nodes.clock)
    workers = make_executors(settings, registry, changes, lambda: commits.epoch)
    stack.push_async_callback(workers.stop)
    # Import the handlers folder and open the store at the same time: both use other processes.
    gateway.loading = loading = asyncio.create_task(workers.start())
    stack.callback(loading.cancel)
    if isinstance(nodes, CellNode):  # from `join` on it must report in time, which imports may prevent
        await asyncio.wait([loading])
    reader = await _open_store(database, nodes, store, stack)
    in_flight, turns = trace_attempts(tracer, InFlight(workers)), Turns()
    recorder = Recorder(commits, registry, in_flight, workers, settings.max_event_bytes, nodes.clock, turns)
    recorder.depth = Depth(settings.max_depth, reader.chain)
    dispatcher = Dispatcher(commits, reader, registry, in_flight, placement, nodes.clock)
    commits.listen(recorder.committed)
    assigned = Assigned(commits, reader, registry, in_flight, nodes.clock)
    assigner = _share_runs(nodes, commits, reader, registry, in_flight, dispatcher, assigned, workers)
    code = HandlerCode(settings, nodes, registry, changes, workers, dispatcher.wake, commits, reader)
    nodes.listen(in_flight.count, dispatcher.wake, code.adopt)
    trials = Trials(in_flight, changes, registry, placement, settings.max_event_bytes, nodes.clock)

    cell = nodes if isinstance(nodes, CellNode) else None

    def apply(progress: Progress) -> None:
        placement.take(progress.ended)
        if assigner is not None:
            assigned.take(progress)
        dispatcher.take(progress)

    def reported(reports: list[WorkerReport]) -> None:
        if cell is not None:
            shift(reports, cell.clock.skew())
        apply(recorder.take(reports))

    workers.listen(reported)
    recorder.listen(apply)
    stack.callback(dispatcher.stop)
    commits.listen(dispatcher.committed)
    if cell is not None:
        commits.listen(code.committed)
    hub = await _make_hub(cell, commits, reader, nodes.clock, turns, gateway.times.stall, tracer)
    commits.match_again(Rematching(registry, nodes.current).take)
    publisher = Publisher(commits, registry, nodes.clock, settings.max_event_bytes, turns)
    gate, token_keys = make_gate(
        settings,
        nodes.clock,
        _shared_tickets(nodes, commits),
        None if cell is None else cell.secret,
        hub,
        stack,
    )
    stages = Stages(
        settings=settings,
        clock=nodes.clock,
        started_at=nodes.clock(),
        gate=gate,
        token_keys=token_keys,
        keys_file=None if settings.keys_file is None else KeysFile(settings.keys_file),
        publisher=publisher,
        choose_codec=codec_choice(tracer),
        database=database,
        nodes=nodes,
        commits=commits,
        reader=reader,
        registry=registry,
        changes=changes,
        placement=placement,
        dispatcher=dispatcher,
        trials=trials,
        replays=_make_replays(commits, reader, registry, nodes, stack),
        schedules=Schedules(
            commits, reader, nodes.clock, Firings(commits, reader, registry, nodes.clock, nodes.current)
        ),
        workers=workers,
        recorder=recorder,
        rates=Rates(reader, recorder.durations, nodes.clock),
        assigned=assigned,
        hub=hub,
        subscribe=WebSocketShell(
            hub, publish_frame(publisher), settings.max_event_bytes + FRAME_ROOM, gate.renew, limits
        ),
        stream=StreamShell(hub, limits),
        waits=Waits(hub, budgets.answers),
        answers=budgets.answers,
        bodies=budgets.bodies,
        certificate=certificate,
        spans=None if tracer is None else tracer.counts,
        limits=limits,
        times=gateway.times,
    )
    await _begin(stages, code, await loading, assigner, stack)
    return stages


async def _begin(
    stages: Stages, code: HandlerCode, catalog: Catalog, assigner: Assigner | None, stack: AsyncExitStack
) -> None:
    """Hand out runs if no other node does, follow the other nodes, and accept events."""
    reader, nodes = stages.reader, stages.nodes
    version = await reader.rules()
    await nodes.confirm(version)  # before they are read
    stages.registry.take(await reader.handlers(), version)
    code.load(catalog)
    await code.store()
    take = partial(_take_lead, stages.commits, reader, stages.registry)
    settings = stages.settings
    retention = Retention(stages.commits, reader, settings.retention, nodes.clock, settings.audit_retention)
    stack.callback(retention.stop)
    stack.callback(stages.schedules.stop)
    lead = partial(_lead, stages, code, retention, assigner)
    leads = await nodes.lead(take)
    code.offer(catalog)
    nodes.follow(take, partial(keep_trying, lead, LEADS), partial(_renew, stages))
    stack.push_async_callback(nodes.stop_following)  # before what it uses is closed
    if leads:
        await lead()
    else:
        await nodes.shared()
        await code.declared()
    for following in (code.follow_folder(), code.follow_nodes(), code.follow_files()):
        stack.callback(asyncio.create_task(following).cancel)
    await _accept_events(stages, stack)


def _make_replays(
    commits: Commits, reader: Reader, registry: Registry, nodes: Nodes, stack: AsyncExitStack
) -> Replays:
    replays = Replays(commits, reader, registry, nodes.clock)
    stack.callback(replays.stop)
    if isinstance(nodes, CellNode):  # only other nodes create replays without it
        commits.listen(replays.committed)
    return replays


async def _renew(stages: Stages) -> None:
    """Read what another node may have changed, besides handlers."""
    await sources.load_access(stages)
    stages.schedules.look()


async def _make_hub(
    cell: CellNode | None,
    commits: Commits,
    reader: Reader,
    clock: Callable[[], int],
    turns: Turns,
    stall_timeout: float,
    tracer: Tracer | None,
) -> Hub:
    durables = Durables(commits, reader, clock, None if cell is None else cell.others)
    hub = Hub(reader, commits.epoch, durables, turns)
    hub.stall_timeout = stall_timeout
    await hub.start()
    commits.listen(hub.committed)
    trace_deliveries(tracer, commits, hub)
    if cell is not None:
        commits.listen(durables.committed)
    return hub


def _share_runs(
    nodes: Nodes,
    commits: Commits,
    reader: Reader,
    registry: Registry,
    in_flight: InFlight,
    dispatcher: Dispatcher,
    assigned: Assigned,
    workers: Workers,
) -> Assigner | None:
    """Connect what gives runs to other nodes, and takes them. None: there are no other nodes."""
    if not isinstance(nodes, CellNode):
        return None

    def refused(run: Run) -> None:
        dispatcher.take(Progress(returned=[run]))

    def version() -> int:
        return registry.version

    def freed(runs: list[Run]) -> None:
        dispatcher.take(Progress(freed=runs))

    assigner = Assigner(commits, reader, in_flight, nodes, version, nodes.clock, refused, freed)
    in_flight.elsewhere, registry.offered = assigner, nodes.offered
    name = registry.name_of
    nodes.serve(commits, reader, version, assigned, name, workers.extend_lease, assigner.looked)
    commits.listen(assigner.committed)
    commits.listen(assigned.committed)
    return assigner


def _shared_tickets(nodes: Nodes, commits: Commits) -> SharedTickets | None:
    """Return the tickets that all nodes accept. None: there are no other nodes."""
    if not isinstance(nodes, CellNode):
        return None

    async def redeem(ticket: str, until: int) -> bool:
        done: bool = await commits.change(RedeemTicket(id=ticket, until=until, now=nodes.clock()))
        return done

    return SharedTickets(nodes.secret, nodes.clock, redeem)


def _make_nodes(settings: Settings, database: Database, notifications: Notifications | None) -> Nodes:
    if not is_postgres(database.url):
        return Alone(settings.node_name, clock)
    from busway.gateway.store.postgres.cell import PostgresCellLink  # noqa: PLC0415 - loaded if used

    link = PostgresCellLink(database.url, listens=notifications is None)
    notifications = notifications or PostgresNotifications(link)
    return CellNode(link, notifications, settings.node_name, settings.role, clock)


def _make_notifications(settings: Settings) -> Notifications | None:
    """Return what notifies the other nodes, None if the database does."""
    broker = settings.broker
    if broker is None:
        return None
    from busway.gateway.nodes.notifications.nats import NatsNotifications  # noqa: PLC0415 - loaded if used

    return NatsNotifications(broker, settings.node_name)


async def _open_store(
    database: Database, nodes: Nodes, commits: GroupCommits, stack: AsyncExitStack
) -> Reader:
    """Open the store as a node of the cell."""
    await asyncio.to_thread(database.migrate)
    await commits.start(await nodes.join(), nodes.name)
    reader = database.reader()
    stack.callback(reader.close)
    await reader.open()
    return reader


async def _take_lead(commits: Commits, reader: Reader, registry: Registry, operation: Lead) -> bool:
    """Lead, and mark attempts as lost that ran when the leader before ended."""
    operation.notices = registry.asked_for(operation.notices)
    running = await reader.runs(RunQuery(state=RunState.RUNNING), outcome_log.MOST_LOST)
    lost = await commits.change(operation)
    if lost is None:
        return False
    for run in running:
        if run.id in lost and (found := await reader.run(run.id)):
            outcome_log.write_lost(found[0])
    if more := len(set(lost).difference(run.id for run in running)):
        log.warning("%d more attempts were lost, because their gateway ended", more)
    return True


async def _lead(stages: Stages, code: HandlerCode, retention: Retention, assigner: Assigner | None) -> None:
    """Hand out runs from now on."""
    await stages.nodes.shared()
    await code.declare()
    if assigner is not None:
        assigner.adopt(await stages.dispatcher.adopt())
        await assigner.adopt_lingering(await stages.dispatcher.adopt_lingering(stages.nodes.id))
    for handler in stages.registry.deleted():
        await stages.changes.cancel_waiting(handler)
    stages.dispatcher.start()
    stages.schedules.start()
    retention.start()
    stages.replays.start()


async def _accept_events(stages: Stages, stack: AsyncExitStack) -> None:
    """Load the keys and sources, then accept events."""
    await sources.load_access(stages)
    if stages.keys_file is not None:
        await asyncio.to_thread(stages.keys_file.read)
        take_declared(stages, stages.keys_file)
        following = asyncio.create_task(follow_keys_file(stages, stages.keys_file))
        stack.callback(following.cancel)
    watch = asyncio.create_task(keep_up(stages))
    stack.callback(watch.cancel)
    stages.publisher.closed = None


def create_app(
    settings: Settings, committer: Launched | None = None, certificate: Certificate | None = None
) -> tuple[Front | HealthFront, Gateway]:
    """Create the ASGI application of a gateway. Its lifespan starts and stops the gateway.

    Args:
        settings: the settings.
        committer: the committer process, if it is already launched to save time.
        certificate: of the server, for the metrics.

    Returns:
        the application and its gateway.
    """
    gateway = Gateway(settings, committer, certificate)
    rest = describe(
        FastAPI(
            lifespan=gateway.lifespan,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
    )
    allowed = Origins(settings.allow_origin)
    frame = settings.max_event_bytes + FRAME_ROOM
    proxies = TrustedProxies(settings.trusted_proxies)
    carries = REQUEST_HEADERS if settings.traces else frozenset()
    front = Front(gateway, rest, settings.max_body_bytes, frame, allowed, proxies, carries)
    return front if settings.serves_clients else HealthFront(front), gateway

"""The composition root: creates the parts of a gateway and connects them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
from fastapi import Depends, FastAPI

from busway.domain.run import MAX_LOSSES, RunState
from busway.gateway.access.gate import Gate
from busway.gateway.access.origins import Origins
from busway.gateway.access.scopes import Access
from busway.gateway.api import (
    docs_page,
    document,
    events,
    handlers,
    keys,
    metrics,
    problems,
    results,
    runs,
    service,
    subscriptions,
    tickets,
)
from busway.gateway.api import streaming as stream_routes
from busway.gateway.api import trials as trial_routes
from busway.gateway.api.answers import known_parameters
from busway.gateway.api.front import Front
from busway.gateway.api.stages import Stages
from busway.gateway.attempts import outcome_log
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.attempts.recorder import Progress, Recorder
from busway.gateway.budget import Budgets
from busway.gateway.dispatch.changes import Changes
from busway.gateway.dispatch.dispatcher import Dispatcher
from busway.gateway.dispatch.placement import Placement
from busway.gateway.dispatch.registry import Registry
from busway.gateway.dispatch.retention import Retention
from busway.gateway.dispatch.trials import Trials
from busway.gateway.executors.port import Catalog, WorkerReport
from busway.gateway.executors.python.host.supervisor import Supervisor
from busway.gateway.ingest.publisher import EventWaiter, Publisher, receipt
from busway.gateway.settings import Settings
from busway.gateway.store.databases import choose
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.group.process import Launched
from busway.gateway.store.port.database import Database
from busway.gateway.store.port.operations import Rescue
from busway.gateway.store.port.reader import Reader, RunQuery
from busway.gateway.subscribers.durables import Durables
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.sse import StreamShell
from busway.gateway.subscribers.websocket import WebSocketShell
from busway.gateway.turns import Line, Turns

log = logging.getLogger("busway")

FRAME_ROOM = 65_536  # bytes that a frame may have in addition to its event
DECLARE_AGAIN = 1.0  # seconds between attempts to declare handlers that could not be stored
KEYS_EVERY = 2.0  # seconds until keys created by another process take effect


def clock() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000


class Gateway:
    """One gateway: starts, drains and stops.

    It belongs to the loop that runs when it is made. `stages` is None until work can be taken. `ready`
    resolves then, or has the error of why not.
    """

    def __init__(self, settings: Settings, committer: Launched | None = None) -> None:
        self.settings = settings
        self.budgets = Budgets(settings.max_answers_bytes, settings.max_bodies_bytes)
        self._committer = committer
        self.stages: Stages | None = None
        self.ready: asyncio.Future[Stages] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(_retrieve)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start in the background, so that health checks get answers meanwhile. Stop at the end."""
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(stack))
            try:
                yield
            finally:
                starting.cancel()
                await asyncio.wait([starting])

    async def _start(self, stack: AsyncExitStack) -> None:
        try:
            self.stages = await _build(self.settings, self.budgets, self._committer, stack)
        except Exception as problem:
            self.ready.set_exception(problem)
            return
        self.ready.set_result(self.stages)

    async def drain(self) -> None:
        """Refuse new events, wait for running handlers, deliver their results, close the sockets."""
        stages = self.stages
        if stages is None:
            return
        stages.publisher.closed = "the gateway is stopping: try again after its restart"
        stages.dispatcher.stop()
        await stages.workers.drain(self.settings.drain_timeout)
        await stages.recorder.prepared()
        await stages.commits.drained()
        await stages.hub.close(1012, "the gateway is restarting: connect again with your cursor")
        await stages.hub.durables.settled()


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve an error, which asyncio would log if nobody waits for the future any more."""
    if not future.cancelled():
        future.exception()


async def _build(
    settings: Settings, budgets: Budgets, committer: Launched | None, stack: AsyncExitStack
) -> Stages:
    database = choose(settings.database_url)
    commits = GroupCommits(database.url, committer)
    stack.push_async_callback(commits.close)
    registry = Registry()
    changes = Changes(commits, registry, clock)
    placement = Placement(settings.pool, clock)
    workers = _make_workers(settings)
    stack.push_async_callback(workers.stop)
    # Import the handlers folder and open the store at the same time: both use other processes.
    loading = asyncio.create_task(workers.start())
    stack.callback(loading.cancel)
    reader = await _open_store(database, commits, stack)
    in_flight = InFlight(workers)
    turns = Turns()
    recorder = Recorder(commits, registry, in_flight, workers, settings.max_event_bytes, turns)
    dispatcher = Dispatcher(commits, reader, registry, in_flight, placement, clock)
    trials = Trials(in_flight, changes, registry, placement, settings.max_event_bytes, clock)

    def apply(progress: Progress) -> None:
        placement.take(progress.ended)
        dispatcher.take(progress)

    def reported(reports: list[WorkerReport]) -> None:
        apply(recorder.take(reports))

    workers.listen(reported)
    recorder.listen(apply)
    stack.callback(dispatcher.stop)
    hub = Hub(reader, commits.epoch, Durables(commits, reader, clock), turns)
    await hub.start()
    commits.listen(recorder.committed)
    commits.listen(dispatcher.committed)
    commits.listen(hub.committed)
    publisher = Publisher(commits, registry, clock, settings.max_event_bytes, turns)
    stages = Stages(
        settings=settings,
        clock=clock,
        started_at=clock(),
        gate=Gate(clock, Origins(settings.allow_origin)),
        publisher=publisher,
        database=database,
        commits=commits,
        reader=reader,
        registry=registry,
        changes=changes,
        placement=placement,
        dispatcher=dispatcher,
        trials=trials,
        workers=workers,
        recorder=recorder,
        hub=hub,
        subscribe=WebSocketShell(hub, _publish_frame(publisher), settings.max_event_bytes + FRAME_ROOM),
        stream=StreamShell(hub),
        answers=budgets.answers,
        bodies=budgets.bodies,
    )
    registry.load(await reader.handlers(), [])
    await _declare(registry, changes, await loading)
    following = asyncio.create_task(_follow_code(workers, registry, changes))
    stack.callback(following.cancel)
    await _take_up_work(stages, stack)
    return stages


async def _open_store(database: Database, commits: GroupCommits, stack: AsyncExitStack) -> Reader:
    """Open the store, and mark attempts that ran when the gateway last ended as lost."""
    await asyncio.to_thread(database.migrate)
    await commits.start()
    reader = database.reader()
    stack.callback(reader.close)
    await reader.open()
    running = await reader.runs(RunQuery(state=RunState.RUNNING), outcome_log.MOST_LOST)
    lost = await commits.change(Rescue(now=clock(), max_losses=MAX_LOSSES))
    for run in running:
        if found := await reader.run(run.id):
            outcome_log.write_lost(found[0])
    if lost > len(running):
        log.warning("%d more attempts were lost, because the gateway ended", lost - len(running))
    return reader


async def _take_up_work(stages: Stages, stack: AsyncExitStack) -> None:
    """Load the keys, then start runs and accept events."""
    for handler in stages.registry.deleted():
        await stages.changes.cancel_waiting(handler)
    await keys.load_keys(stages)
    watch = asyncio.create_task(_watch_keys(stages))
    stack.callback(watch.cancel)
    stages.dispatcher.start()
    retention = Retention(stages.commits, stages.reader, stages.settings.retention, clock)
    retention.start()
    stack.callback(retention.stop)
    stages.publisher.closed = None


async def _declare(registry: Registry, changes: Changes, catalog: Catalog) -> None:
    """Update targets and handlers from the files of the handlers folder."""
    registry.load([], catalog)
    for broken in registry.broken_files():
        log.error("%s, its handlers wait\n%s", registry.fault_of(broken.file), broken.error)
    for left_out in registry.not_loaded():
        log.warning("not loaded: %s: %s", left_out.file, left_out.error)
    await changes.declare(catalog)


async def _follow_code(workers: Supervisor, registry: Registry, changes: Changes) -> None:
    """Have the handlers in step with changed files before an attempt runs their code."""
    while True:
        catalog = await workers.renewed()
        while True:
            try:
                await _declare(registry, changes, catalog)
                break
            except Exception:
                log.exception("the changed handler files could not be declared; trying again")
                await asyncio.sleep(DECLARE_AGAIN)
        workers.take_over()


def _make_workers(settings: Settings) -> Supervisor:
    return Supervisor(
        handlers=settings.handlers,
        app_dir=settings.app_dir,
        processes=settings.workers,
        threads=settings.threads,
        max_result_bytes=settings.max_result_bytes,
        max_event_bytes=settings.max_event_bytes,
        default_pool=settings.pool,
        reload=settings.reload,
    )


def _publish_frame(publisher: Publisher) -> Callable[[bytes, Access, Line], Awaitable[dict[str, Any]]]:
    async def publish(body: bytes, _access: Access, line: Line) -> dict[str, Any]:
        waiter = EventWaiter(asyncio.get_running_loop().create_future())
        publisher.submit(body, waiter, line)
        stored = await waiter.stored
        return msgspec.structs.asdict(receipt(waiter.events[0], stored[0]))

    return publish


async def _watch_keys(stages: Stages) -> None:
    """Load keys that the command line created or revoked, and cancel leftover runs of deleted handlers."""
    while True:
        await asyncio.sleep(KEYS_EVERY)
        try:
            await keys.load_keys(stages)
            await stages.changes.cancel_left_over(await stages.reader.counts())
        except Exception:
            log.exception("cannot reload keys and deleted handlers from the store, retrying")


def create_app(settings: Settings, committer: Launched | None = None) -> tuple[Front, Gateway]:
    """Create the ASGI application of a gateway. Its lifespan starts and stops the gateway.

    Args:
        settings: the settings.
        committer: the committer process, if it is already launched to save time.

    Returns:
        the application and its gateway.
    """
    gateway = Gateway(settings, committer)
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
    return Front(gateway, rest, settings.max_body_bytes, frame, allowed), gateway


_ROUTES = (
    events, handlers, trial_routes, runs, results, stream_routes, subscriptions,
    service, metrics, tickets, keys,
)  # fmt: skip


def describe(rest: FastAPI) -> FastAPI:
    """Add all routes, error handlers and documents to an app. `busway openapi` uses it too."""
    for routes in _ROUTES:
        rest.include_router(
            routes.router,
            dependencies=[Depends(known_parameters)],
            generate_unique_id_function=lambda route: route.name,
        )
    docs_page.install(rest)
    problems.install(rest)
    rest.openapi = lambda: document.openapi(rest)  # type: ignore[method-assign] # FastAPI's own way to extend it
    return rest

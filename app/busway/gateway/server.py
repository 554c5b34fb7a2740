"""Runs `busway serve`: the listening socket, signals, drain and exit status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn

from busway.domain.pattern import sample_type
from busway.gateway import garbage, signals
from busway.gateway.access import keysfile
from busway.gateway.api.front import Front, HealthFront
from busway.gateway.api.stages import Stages
from busway.gateway.dispatch.registry import Registry
from busway.gateway.door.protocol import HttpProtocol
from busway.gateway.door.room import is_no_room
from busway.gateway.door.websocket import PING_EVERY, PONG_WITHIN
from busway.gateway.errors import BadSettings
from busway.gateway.listening import Listener, Loop
from busway.gateway.main import Gateway, create_app
from busway.gateway.settings import Settings, naming
from busway.gateway.store.databases import choose
from busway.gateway.store.group.process import Launched
from busway.gateway.store.port.database import Database, is_postgres
from busway.gateway.tls import Certificate, CertificateError

log = logging.getLogger("busway")

_EXAMPLE = '{"type": "order.created", "data": {"item": "book", "quantity": 2}}'
FIRST_LINE, LONGEST_PAUSE = 5.0, 60.0  # seconds before a line that it still starts or drains
BACKLOG = 4096  # pending connections: after a restart, all subscribers reconnect at once


Announce = Callable[[Settings, Listener, Stages], None]


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would close the sockets before the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: Settings, committer: Launched, *, json_lines: bool = False) -> int:
    """Run a gateway until a signal stops it.

    Args:
        settings: the settings.
        committer: the committer process, which starts while this process imports.
        json_lines: the address is printed as a JSON object.

    Returns:
        the exit status: 0 after a clean drain, 1 otherwise.

    Raises:
        BadSettings: the gateway cannot start with these settings.
    """
    certificate = _certificate(settings)
    database = choose(settings.database_url)
    place = settings.place("database_url")
    with naming(place):
        lock = database.lock()
    try:
        with naming(place):
            database.migrate()
        listener = Listener(settings)
        try:
            _check_access(settings, database, listener)
            listener.socket.listen(BACKLOG)
            with asyncio.Runner(loop_factory=Loop) as runner:
                try:
                    announce = _announce_json if json_lines else _announce
                    return runner.run(_serve(settings, committer, listener, certificate, announce))
                finally:
                    signals.stop.then(lambda: os._exit(1))  # the loop cannot be called any more
        finally:
            listener.release()
    finally:
        lock.release()


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None:
        return None
    try:
        return Certificate(settings.tls_cert, settings.tls_key)
    except CertificateError as problem:
        raise BadSettings(f"{settings.place('tls_cert', 'tls_key')}{problem}") from None


async def _serve(
    settings: Settings,
    committer: Launched,
    listener: Listener,
    certificate: Certificate | None,
    announce: Announce,
) -> int:
    front, gateway = create_app(settings, committer, certificate)
    server = _Server(_config(front, settings, certificate))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_fault)
    signals.stop.then(lambda: loop.call_soon_threadsafe(stopping.set))
    serving = asyncio.create_task(server.serve(sockets=[listener.socket]))
    following = None if certificate is None else asyncio.create_task(certificate.follow())
    try:
        return await _until_stopped(gateway, server, serving, stopping, partial(announce, settings, listener))
    finally:
        if following is not None:
            following.cancel()
        server.should_exit = True
        await serving


async def _until_stopped(
    gateway: Gateway,
    server: uvicorn.Server,
    serving: asyncio.Task[None],
    stopping: asyncio.Event,
    announce: Callable[[Stages], None],
) -> int:
    stop = asyncio.create_task(stopping.wait())
    waited: list[asyncio.Future[Any]] = [gateway.ready, serving, stop]
    with _logging_often(gateway.starting):
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if gateway.ready.done():
        stages = gateway.ready.result()
        garbage.tune()
        announce(stages)
        waited[0] = stages.commits.lost
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if stages.commits.lost.done():
            log.critical("%s", stages.commits.lost.result())
            return 1
    if serving.done():
        return 1
    log.info(
        "draining: running handlers have %g s to finish, a second signal stops at once",
        gateway.settings.drain_timeout,
    )
    ends = time.monotonic() + gateway.settings.drain_timeout
    with _logging_often(lambda: gateway.draining(max(ends - time.monotonic(), 0))):
        await gateway.drain()
    server.should_exit = True
    await serving
    return 0


@contextlib.contextmanager
def _logging_often(text: Callable[[], str]) -> Iterator[None]:
    """Log a line after some seconds, and again after longer and longer pauses, while the body waits."""

    async def follow() -> None:
        pause = FIRST_LINE
        while True:
            await asyncio.sleep(pause)
            log.info("%s", text())
            pause = min(2 * pause, LONGEST_PAUSE)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()


def _on_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log unhandled exceptions. `is_no_room` counts failed accepts and logs them once a minute."""
    if not is_no_room(context.get("exception")):
        loop.default_exception_handler(context)


def _config(
    front: Front | HealthFront, settings: Settings, certificate: Certificate | None
) -> uvicorn.Config:
    return uvicorn.Config(
        front,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
        http=HttpProtocol,
        ws="none",  # HttpProtocol handles WebSockets
        ws_ping_interval=PING_EVERY,
        ws_ping_timeout=PONG_WITHIN,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=5,
    )


def _check_access(settings: Settings, database: Database, listener: Listener) -> None:
    if settings.jwt_issuer or listener.local:
        return
    declared = settings.keys_file is not None and keysfile.read(settings.keys_file).keys
    if not declared and not database.read_keys():
        raise BadSettings(
            f"{settings.place('host')}listening on {settings.host} needs an API key: create one with "
            f"`busway keys create NAME --create --database-url {_shown(settings, database)}`"
        )


def _announce(settings: Settings, listener: Listener, stages: Stages) -> None:
    url = listener.address
    sizes = {"process": f"{settings.workers} workers", "thread": f"{settings.threads} threads"}
    size = sizes.get(settings.pool) or " and ".join(sizes.values())
    about = [] if settings.role == "all" else [f"role {settings.role}"]
    about += [f"pool {settings.pool} ({size})"] if settings.has_workers else []
    lines = [f"busway {'  '.join([url, *about])}  database {_shown(settings, stages.database)}"]
    if not settings.serves_clients:
        sys.stdout.write(f"{lines[0]}\n")
        return
    if settings.uds is None:
        lines += [f"  console   {url}/", f"  API docs  {url}/docs"]
    event = _event_to_try(stages.registry)
    if event is not None:
        sent = f"-H 'Content-Type: application/json' -d {shlex.quote(event)}"
        lines.append(f"  try       {listener.curl}/v1/events {sent}")
    if stages.gate.open:
        lines.append("  auth      no API key exists: anyone on this machine has full access")
    sys.stdout.write("\n".join(lines) + "\n")


def _announce_json(settings: Settings, listener: Listener, stages: Stages) -> None:
    in_browser = settings.serves_clients and settings.uds is None
    found = {
        "url": listener.address,
        "role": settings.role,
        "pool": settings.pool if settings.has_workers else None,
        "workers": settings.workers if settings.has_workers else 0,
        "threads": settings.threads if settings.has_workers else 0,
        "database": _shown(settings, stages.database),
        "open": stages.gate.open,
        "console": f"{listener.address}/" if in_browser else None,
        "docs": f"{listener.address}/docs" if in_browser else None,
    }
    sys.stdout.write(json.dumps(found) + "\n")


def _shown(settings: Settings, database: Database) -> str:
    """Return the URL of the database without secrets."""
    return database.shown if is_postgres(settings.database_url) else settings.database_url


def _event_to_try(registry: Registry) -> str | None:
    """Return an event that starts a handler, as JSON text. None: no handler can run."""
    handlers = [entry for entry in registry.live() if registry.obstacle(entry) is None]
    if not handlers:
        return None
    known = any(entry.matches("order.created") for entry in handlers)
    if known:
        return _EXAMPLE
    entry = min(handlers, key=lambda entry: entry.spec.filter is not None)
    return json.dumps({"type": sample_type(entry.spec.events[0]), "data": {}})

"""A real SQLite store, hub and server on `tmp_path`, and clients that speak frames."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from busway.domain.event import NewEvent, new_id
from busway.domain.handler import Handler
from busway.domain.result import Kind
from busway.domain.run import Outcome, Run, RunState
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.api import problems
from busway.gateway.door import asgi
from busway.gateway.door.port import Answer, Headers, Serve
from busway.gateway.door.protocol import HttpProtocol
from busway.gateway.door.websocket import PING_EVERY, PONG_WITHIN
from busway.gateway.errors import BuswayError, Unauthorized
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.port.commits import Committed
from busway.gateway.store.port.operations import NewResult, Publish, Report, SaveHandler, Settle
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.reader import SQLiteReader
from busway.gateway.subscribers.durables import Durables
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.sse import StreamShell
from busway.gateway.subscribers.websocket import SUBPROTOCOLS, WebSocketShell
from busway.gateway.turns import Line
from websockets.asyncio.client import ClientConnection, connect

from tests.documents.frames import heard

PATIENCE = 120.0
_tokens = itertools.count(1)


def now() -> int:
    return time.time_ns() // 1000


class Store:
    """Commits, reader and hub of one database; `produce` makes results as a gateway would."""

    def __init__(self, commits: GroupCommits, reader: SQLiteReader, hub: Hub, handler: int) -> None:
        self.commits = commits
        self.reader = reader
        self.hub = hub
        self.handler = handler
        self._runs: list[Run] = []
        commits.listen(self._committed)

    def _committed(self, committed: Committed) -> None:
        self._runs += committed.runs

    async def produce(
        self,
        count: int,
        type_: str = "order.created",
        data: bytes = b"1",
        correlationid: str = "c",
        **fields: Any,
    ) -> None:
        """Store `count` events of one run each, and the final result of each run."""
        await self.complete([self.event(type_, correlationid, **fields) for _ in range(count)], data)

    async def complete(self, events: list[NewEvent], data: bytes = b"1") -> None:
        """Store these events, and the final result of each one's run."""
        await self.commits.publish(Publish(events=events))
        runs, self._runs = self._runs, []
        await asyncio.gather(*(self._settle(run, data) for run in runs))

    def event(self, type_: str = "order.created", correlationid: str = "c", **fields: Any) -> NewEvent:
        moment = now()
        return NewEvent(
            id=new_id(moment),
            source="/",
            type=type_,
            time=moment,
            accepted_at=moment,
            correlationid=correlationid,
            made_id=True,
            handlers=(self.handler,),
            **fields,
        )

    def _settle(self, run: Run, data: bytes) -> asyncio.Future[Any]:
        moment = now()
        report = Report(
            outcome=Outcome.SUCCEEDED, revision=1, started_at=moment, finished_at=moment, pool="process"
        )
        operation = Settle(
            run=run.id,
            token=next(_tokens),
            attempt=1,
            event=run.event.seq,
            root=run.event.root,
            handler=self.handler,
            state=RunState.SUCCEEDED,
            lost=0,
            max_attempts=5,
            report=report,
            result=NewResult(kind=Kind.SUCCEEDED, data=data, time=moment),
        )
        stored: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.commits.settle(operation, run, "invoice", stored)
        return stored


@contextlib.asynccontextmanager
async def store(folder: Path, ring_bytes: int = 1 << 20) -> AsyncIterator[Store]:
    path = folder / "busway.db"
    sqlite.migrate(path)
    commits = GroupCommits(sqlite.address(path))
    await commits.start()
    reader = SQLiteReader(path)
    try:
        handler = Handler(id=0, name="invoice", overrides={"target": "a:b", "events": ["**"]})
        number = await commits.change(SaveHandler(handler=handler, fields={}))
        hub = Hub(reader, commits.epoch, Durables(commits, reader, now), ring_bytes=ring_bytes)
        await hub.start()
        commits.listen(hub.committed)
        yield Store(commits, reader, hub, number)
    finally:
        await commits.close()
        reader.close()


async def refuse_all(_event: bytes, _access: Access, _line: Line) -> dict[str, Any]:
    raise AssertionError("nothing is published here")


class Server:
    """uvicorn in this loop, serving the shell as the gateway does; `access` is what each connection gets."""

    path = "/v1/subscribe"
    subprotocols = SUBPROTOCOLS

    def __init__(self, store_: Store, publish: Any = refuse_all, max_frame: int = 65_536) -> None:
        self.access: Access | Unauthorized = OPEN
        self.port = 0
        self.url = ""
        self.connections = 0
        self.max_message = max_frame
        self.pings = (PING_EVERY, PONG_WITHIN)
        self.opened: Callable[[], list[Any]] = list  # the server's protocols, while it serves
        self._shell = WebSocketShell(store_.hub, publish, max_frame)
        self._streams = StreamShell(store_.hub)

    @property
    def sockets(self) -> Server:
        """The WebSocket endpoint, as the door looks for it."""
        return self

    def admit(self, _headers: Headers, query: bytes) -> Answer | Serve:
        async def serve_(socket_: Any) -> None:
            self.connections += 1
            try:
                await self._shell(socket_, query=query, access=self.access)
            finally:
                self.connections -= 1

        return serve_

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await asgi.subscribe(self, scope, receive, send)
            return
        self.connections += 1
        try:
            assert isinstance(self.access, Access)
            await self._streams(scope, receive, send, self.access)
        except BuswayError as problem:
            await problems.response(problem)(scope, receive, send)
        finally:
            self.connections -= 1


@contextlib.asynccontextmanager
async def serve(
    server: Server, port: int = 0, http: Any = HttpProtocol, ws: Any = "none"
) -> AsyncIterator[Server]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        server.port = listener.getsockname()[1]
        server.url = f"ws://127.0.0.1:{server.port}/v1/subscribe"
        config = uvicorn.Config(
            server,
            http=http,
            proxy_headers=False,
            ws=ws,
            ws_ping_interval=server.pings[0],
            ws_ping_timeout=server.pings[1],
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        running = uvicorn.Server(config)
        running.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        serving = asyncio.create_task(running.serve(sockets=[listener]))
        await until(lambda: running.started)
        server.opened = lambda: list(running.server_state.connections)
        try:
            yield server
        finally:
            running.should_exit = True
            await serving


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


class Peer:
    """A client that sends and receives frames."""

    def __init__(self, socket_: ClientConnection) -> None:
        self.socket = socket_

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            frame = await self.socket.recv()
        assert isinstance(frame, str)
        return heard(json.loads(frame))

    async def ask(self, **frame: Any) -> dict[str, Any]:
        await self.say(**frame)
        return await self.hear()

    async def items(self, count: int, name: str = "s1") -> list[dict[str, Any]]:
        """Hear `results` of one subscription until there are so many items."""
        items: list[dict[str, Any]] = []
        while len(items) < count:
            frame = await self.hear()
            assert frame["op"] == "results", frame
            assert frame["id"] == name
            items += frame["items"]
        return items


@contextlib.asynccontextmanager
async def peer(server: Server, query: str = "", **options: Any) -> AsyncIterator[Peer]:
    options = {"compression": None, "max_size": None, "proxy": None, **options}
    async with connect(server.url + query, **options) as socket_:
        yield Peer(socket_)


def seqs(items: list[dict[str, Any]]) -> list[int]:
    return [item["event"]["seq"] for item in items]


def number(cursor: str) -> int:
    return int(cursor.split("-")[1])


def decode(text: str) -> Any:
    return msgspec.json.decode(text)

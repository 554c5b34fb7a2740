"""A seeded life of a gateway: publishes all the time, kills, drains, cut and halted connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from typing import Any

from busway import BuswayClientError, SyncClient

from .service import Service, until

HANDLERS = """
from busway import handler

@handler("order.*")
def price(event, ctx):
    yield {"n": event.data["n"]}
    if event.data["n"] % 5 == 0:
        ctx.publish("rest.made", {"n": event.data["n"]})
    return {"pad": "x" * (event.data["n"] % 7) * 500}

@handler("rest.*")
def rest(event): return event.data

@handler("the.end")
def end(event): return "end"
"""
END = "the.end"


class Cutter:
    """A TCP relay on a port of its own, in a thread; it cuts and halts what goes through it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._kept: set[asyncio.StreamWriter] = set()  # stay open until the end, and get nothing more
        self._swallowing = False
        self._loop = asyncio.new_event_loop()
        self._open, self._ended = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Cutter:
        self._thread.start()
        until(lambda: self.port, "the relay")
        return self

    def __exit__(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def cut(self) -> None:
        """Break all connections without a word."""
        self._loop.call_soon_threadsafe(self._abort)

    def strand(self) -> None:
        """Break all connections on the client's side. The other side does not notice."""
        self._loop.call_soon_threadsafe(self._strand)

    def swallow(self) -> None:
        """Carry nothing more over all connections, and over new ones until `carry`. They stay open."""
        self._loop.call_soon_threadsafe(self._swallow)

    def carry(self) -> None:
        """Carry what new connections send."""
        self._swallowing = False

    def lead_to(self, port: int) -> None:
        """Carry new connections to another port."""
        self._target = port

    def halt(self, seconds: float) -> None:
        """Carry nothing for a while."""
        self._loop.call_soon_threadsafe(self._open.clear)
        time.sleep(seconds)
        self._loop.call_soon_threadsafe(self._open.set)

    def _strand(self) -> None:
        for writer in self._clients:
            self._kept |= self._writers - self._clients
            writer.transport.abort()

    def _swallow(self) -> None:
        self._swallowing = True
        self._kept |= self._writers

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._open.set()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        await self._ended.wait()
        server.close()
        self._abort()
        while self._writers:
            await asyncio.sleep(0.01)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        self._clients.add(writer)
        if self._swallowing:
            self._kept |= ends
        await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        self._writers -= ends
        self._clients.discard(writer)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65_536):
                await self._open.wait()
                if sink in self._kept:
                    continue
                sink.write(chunk)
                await sink.drain()
        if sink in self._kept:
            await self._ended.wait()
        sink.close()
        with contextlib.suppress(OSError):
            await sink.wait_closed()


class Disturbance:
    """Publishes in a thread while it does things to the gateway; `end` says when all is in the log."""

    def __init__(self, service: Service, relay: Cutter) -> None:
        self.seed = int(os.environ.get("BUSWAY_TEST_SEED") or random.randrange(1 << 32))
        print(f"BUSWAY_TEST_SEED={self.seed}")
        self._random = random.Random(self.seed)
        self._service, self._relay = service, relay
        self._stop = threading.Event()
        self._published = 0
        self._publisher = threading.Thread(target=self._publish)
        self.unanswered = 0

    def run(self, rounds: int) -> None:
        """Live through `rounds` disturbances, each kind at least once, then let everything finish."""
        kinds = [self._kill, self._drain, self._relay.cut, lambda: self._relay.halt(0.3)]
        chosen = [*kinds, *self._random.choices(kinds, k=rounds - len(kinds))]
        self._random.shuffle(chosen)
        self._publisher.start()
        for disturb in chosen:
            before = self._published
            until(lambda before=before: self._published > before + 30, "more events")
            disturb()
        self._stop.set()
        self._publisher.join()
        until(self._idle, "the runs")
        self._service.publish(END)

    def _kill(self) -> None:
        self._service.kill()
        self._service.start()

    def _drain(self) -> None:
        assert self._service.stop() == 0
        self._service.start()

    def _idle(self) -> bool:
        return not self._service.unfinished()

    def _publish(self) -> None:
        with SyncClient(self._service.url) as client:
            while not self._stop.is_set():
                first = self._published
                batch = [self._event(first + n) for n in range(self._random.randint(1, 20))]
                try:
                    client.publish_many(batch)
                    self._published += len(batch)
                except BuswayClientError:
                    self.unanswered += 1  # perhaps stored: the same ids again are stored once
                time.sleep(0.02)

    def _event(self, number: int) -> dict[str, Any]:
        kind = "order.created" if number % 3 else "order.changed"
        return {"type": kind, "id": f"e{number}", "data": {"n": number}}

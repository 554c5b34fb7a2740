"""Several nodes on one PostgreSQL database, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

from .disturbance import Cutter
from .load import Publisher, Subscriber, check
from .service import Service, until


def leader_of(nodes: list[Service]) -> Service:
    """The running node that leads, and is seen as the leader by all that run."""

    def probe() -> Service | None:
        running = [node for node in nodes if node.process is not None]
        leaders = {
            tuple(each["id"] for each in status["nodes"] if each["leader"])
            for status in (node.ok("GET", "/v1/status") for node in running)
        }
        if len(leaders) != 1 or not (leader := leaders.pop()):
            return None
        return next((node for node in running if own_id(node) == leader[0]), None)

    found: Service = until(probe, "one leader that all see")
    return found


def own_id(node: Service) -> int:
    return next(each["id"] for each in node.ok("GET", "/v1/status")["nodes"] if each["this"])


class Clients:
    """Two publishers and two subscribers at several nodes, and what they must find at the end."""

    def __init__(self, nodes: list[Service], seed: int, keys: int = 0) -> None:
        chosen = random.Random(seed)
        self._publishers = [
            Publisher(node, seed + n, keys, "ab"[n]) for n, node in enumerate(chosen.sample(nodes, 2))
        ]
        self._subscribers = [Subscriber(node) for node in chosen.sample(nodes, 2)]

    def acknowledged(self, count: int) -> None:
        """Wait until so many more events of one publisher are stored: the other one's node may be halted."""
        before = [len(publisher.acknowledged) for publisher in self._publishers]

        def grown() -> bool:
            found = zip(self._publishers, before, strict=True)
            return any(len(publisher.acknowledged) >= n + count for publisher, n in found)

        until(grown, "events")

    def check(self, node: Service) -> None:
        """Check all of them with what a node has. They end."""
        check(node, *self._publishers, *self._subscribers)


class Unreliable(Cutter):
    """A relay to PostgreSQL that loses, doubles, delays and reorders notifications.

    Args:
        port: of the server.
        lost: the share that is lost. Of the others, a third each comes twice, late, or as it should.
        seed: of what happens to each.
    """

    def __init__(self, port: int, lost: float, seed: int) -> None:
        super().__init__(port)
        self._lost, self._chance = lost, random.Random(seed)
        self.notifications = 0

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        if sink not in self._clients:
            await super()._carry(source, sink)
            return
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                message, notifies = await self._message(source)
                if notifies:
                    self._notify(message, sink)
                else:
                    sink.write(message)
                    await sink.drain()
        sink.close()

    async def _message(self, source: asyncio.StreamReader) -> tuple[bytes, bool]:
        """The next message of the server, and whether it is a notification."""
        head = await source.readexactly(5)  # type and length
        return head + await source.readexactly(int.from_bytes(head[1:]) - 4), head[:1] == b"A"

    def _notify(self, message: bytes, sink: asyncio.StreamWriter) -> None:
        self.notifications += 1
        if self._chance.random() < self._lost:
            return
        what = self._chance.choice(["as it should", "twice", "late"])
        if what == "late":
            self._loop.call_later(self._chance.random() * 3, sink.write, message)
        else:
            sink.write(message * (2 if what == "twice" else 1))


class UnreliableNats(Unreliable):
    """The same for NATS."""

    async def _message(self, source: asyncio.StreamReader) -> tuple[bytes, bool]:
        line = await source.readuntil(b"\r\n")
        if not line.startswith(b"MSG "):
            return line, False
        return line + await source.readexactly(int(line.split()[-1]) + 2), True


@contextlib.contextmanager
def losing(nodes: list[Service], port: int, lost: float, seed: int = 0) -> Iterator[list[Unreliable]]:
    """Let nodes reach the database through relays that lose, double, delay and reorder notifications."""
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Unreliable(port, lost, seed + n)) for n in range(len(nodes))]
        for node, relay in zip(nodes, relays, strict=True):
            way = f"postgresql://postgres@127.0.0.1:{relay.port}/cell"
            node.database_url = f"{way}?sslmode=disable&gssencmode=disable"
        yield relays

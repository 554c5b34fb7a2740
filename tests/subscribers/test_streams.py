"""Real sockets, a real store: what a client of `/v1/subscribe/sse` sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from busway.gateway.access.scopes import Access
from busway.gateway.subscribers import connection, sse

from tests.subscribers.kit import PATIENCE, Server, Store, number, peer, serve, store, until
from tests.subscribers.stream import Reader, Told

Claim = Callable[[Store, Server], Awaitable[None]]


def run(folder: Path, claim: Claim, **options: Any) -> None:
    ring_bytes = options.pop("ring_bytes", 1 << 20)

    async def scene() -> None:
        async with store(folder, ring_bytes) as there, serve(Server(there, **options)) as server:
            await claim(there, server)
            await until(lambda: server.connections == 0)
            status = there.hub.status()
            assert (status["connections"], status["subscriptions"], status["live"]) == (0, 0, 0)

    asyncio.run(scene())


class Stream:
    """One response, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.reader = Reader()
        self._chunks = response.aiter_raw()
        self._told: deque[Told] = deque()

    async def hear(self) -> Told:
        async with asyncio.timeout(PATIENCE):
            while not self._told:
                self._told += self.reader.feed(await anext(self._chunks))
        return self._told.popleft()

    async def items(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < count:
            told = await self.hear()
            if told.name == "message":
                found.append(json.loads(told.data))
                assert found[-1]["cursor"] == told.id
        return found

    async def rest(self) -> list[Told]:
        """All that comes until the response ends."""
        found: list[Told] = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                found.append(await self.hear())
        return found


@contextlib.asynccontextmanager
async def streamed(server: Server, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(timeout=PATIENCE, headers=named) as client:
        url = f"http://127.0.0.1:{server.port}/v1/subscribe/sse{query}"
        async with client.stream("GET", url) as response:
            yield Stream(response)


def seqs(items: list[dict[str, Any]]) -> list[int]:
    return [item["event"]["seq"] for item in items]


def test_items_come_live_with_their_cursor_as_id(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with streamed(server, "?types=order.*") as stream, peer(server, "?types=order.*") as client:
            headers = stream.response.headers
            assert headers["content-type"].startswith("text/event-stream")
            assert headers["cache-control"].startswith("no-store")
            assert headers["x-accel-buffering"] == "no"
            told = await stream.hear()
            begun = await client.hear()
            assert (told.name, told.id) == ("subscribed", begun["cursor"])
            assert json.loads(told.data) == {n: begun[n] for n in ("cursor", "recovered", "oldest")}
            assert stream.reader.retry
            assert stream.reader.retry >= 500
            await there.produce(3, data=b'{"text": "a\\nb"}')
            assert await stream.items(3) == await client.items(3, "default")

    run(tmp_path, claim)


def test_the_last_event_id_goes_before_after(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(10)
        async with streamed(server, "?after=earliest") as stream:
            items = await stream.items(10)
        for query in ("?after=earliest", "?after=latest", "?after=nonsense", ""):
            async with streamed(server, query, last_event_id=items[3]["cursor"]) as stream:
                assert seqs(await stream.items(6)) == list(range(5, 11))

    run(tmp_path, claim)


@pytest.mark.parametrize("ring_bytes", [1, 1 << 20], ids=["from the store", "from the ring"])
def test_resuming_while_results_pour_in_has_no_gap_and_no_repeat(tmp_path: Path, ring_bytes: int) -> None:
    async def claim(there: Store, server: Server) -> None:
        async def produce() -> None:
            for _ in range(20):
                await there.produce(25)

        producing = asyncio.create_task(produce())
        got: list[int] = []
        last = ""
        while len(got) < 500:
            async with streamed(server, "?after=earliest", last_event_id=last) as stream:
                items = await stream.items(20)
            got += seqs(items)
            last = items[-1]["cursor"]
        await producing
        assert got == list(range(1, 501))

    run(tmp_path, claim, ring_bytes=ring_bytes)


def test_the_cursor_moves_past_what_does_not_match(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with streamed(server, "?types=rare") as stream:
            await stream.hear()
            await there.produce(5)
            told = await stream.hear()
            assert (told.name, number(told.id)) == ("moved", 5)
            assert json.loads(told.data) == {"cursor": told.id}
        await there.produce(5)
        await there.produce(1, "rare")
        await there.produce(2)
        async with streamed(server, "?types=rare", last_event_id=told.id) as stream:
            assert (await stream.hear()).name == "subscribed"
            assert seqs(await stream.items(1)) == [11]
            told = await stream.hear()
            assert (told.name, number(told.id)) == ("moved", 13)

    run(tmp_path, claim)


def test_a_place_that_cannot_be_kept_is_an_event_of_its_own(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        async with streamed(server, "", last_event_id=f"{'0' * 16}-2-00000000") as stream:
            gap, begun = await stream.hear(), await stream.hear()
            assert (gap.name, gap.id, begun.name) == ("gap", "", "subscribed")
            assert json.loads(gap.data).keys() == {"detail", "cursor", "oldest"}
            assert json.loads(begun.data)["recovered"] is False
            await there.produce(1)
            assert seqs(await stream.items(1)) == [4]
            oldest = json.loads(gap.data)["oldest"]
        async with streamed(server, f"?after={oldest}") as stream:
            assert seqs(await stream.items(4)) == [1, 2, 3, 4]

    run(tmp_path, claim)


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("?colour=red", 400, "colour"),
        ("?key=secret", 400, "Authorization"),
        ("?after=yesterday", 400, "cursor"),
        ("?types=a..b", 422, "a..b"),
        ("?kinds=partly", 422, "partly"),
        ("?after=latest&after=earliest", 400, "twice"),
    ],
)
def test_a_bad_request_is_a_problem_document(tmp_path: Path, query: str, status: int, word: str) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with streamed(server, query) as stream:
            body = json.loads(await stream.response.aread())
            assert (stream.response.status_code, body["status"]) == (status, status)
            assert stream.response.headers["content-type"] == "application/problem+json"
            assert word in body["detail"]

    run(tmp_path, claim)


def test_the_scope_is_checked(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        server.access = Access(1, frozenset({"publish"}))
        async with streamed(server) as stream:
            assert stream.response.status_code == 403

    run(tmp_path, claim)


def test_closing_delivers_everything_and_says_why(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with streamed(server) as live, streamed(server, "?after=earliest") as lagging:
            await live.hear()
            await there.produce(400)
            closing = asyncio.create_task(there.hub.close(1012, "restart"))
            for stream in (live, lagging):
                told = await stream.rest()
                numbers = [number(event.id) for event in told if event.name == "message"]
                assert numbers == list(range(1, 401))
                assert told[-1].name == "close"
                assert json.loads(told[-1].data) == {"code": 1012, "reason": "restart"}
            await closing
        async with streamed(server, "", accept="text/event-stream") as late:
            assert [event.name for event in await late.rest()] == ["close"]
            assert (late.response.status_code, late.reader.last_id) == (200, "")
            assert late.reader.retry
        async with streamed(server) as late:
            assert late.response.status_code == 503
            assert late.response.headers["retry-after"]

    run(tmp_path, claim, ring_bytes=1)


def test_a_revoked_key_ends_its_streams(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        server.access = Access(7, frozenset({"subscribe"}))
        async with streamed(server) as stream:
            await stream.hear()
            there.hub.revoke(7)
            assert json.loads((await stream.rest())[-1].data)["code"] == 4401
        there.hub.admits = lambda access: access != server.access  # revoked while the stream was opened
        async with streamed(server) as stream:
            assert json.loads((await stream.rest())[-1].data)["code"] == 4401

    run(tmp_path, claim)


def test_silence_is_broken_by_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.05)

    async def claim(there: Store, server: Server) -> None:
        async with streamed(server) as stream:
            await stream.hear()
            async with asyncio.timeout(PATIENCE):
                while stream.reader.comments < 3:
                    assert stream.reader.feed(await anext(stream._chunks)) == []
            await there.produce(1)
            assert seqs(await stream.items(1)) == [1]

    run(tmp_path, claim)


def test_a_peer_that_does_not_acknowledge_is_let_go_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    notice = sse._set_user_timeout

    def look(transport: Any) -> None:
        notice(transport)
        raw = transport.get_extra_info("socket")
        found.append(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    monkeypatch.setattr(sse, "_set_user_timeout", look)

    async def claim(there: Store, server: Server) -> None:
        async with streamed(server) as stream:
            await stream.hear()
        assert found == [sse.USER_TIMEOUT * 1000]
        assert sse.HEARTBEAT + sse.USER_TIMEOUT <= 60

    run(tmp_path, claim)


@contextlib.asynccontextmanager
async def reluctant(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, Reader]]:
    """A client with a small receive buffer, which reads when it is told to."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
    writer.write(b"GET /v1/subscribe/sse HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    events = Reader()
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    try:
        yield reader, events
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_a_slow_reader_gets_everything_in_order_and_costs_its_buffer(tmp_path: Path) -> None:
    data = json.dumps("x" * 20_000).encode()

    async def claim(there: Store, server: Server) -> None:
        async with reluctant(server) as (reader, events), streamed(server) as fast:
            await fast.hear()
            for _ in range(20):
                await there.produce(50, data=data)
                await fast.items(50)
            assert there.hub.status()["lagging"] == 1
            numbers: list[int] = []
            while len(numbers) < 1000:
                size = int((await reader.readline()).strip() or b"0", 16)
                body = await reader.readexactly(size + 2)
                numbers += [number(t.id) for t in events.feed(body[:-2]) if t.name == "message"]
            assert numbers == list(range(1, 1001))
            await until(lambda: not any(not c.flow.reading for c in server.opened()))  # its end will be seen

    run(tmp_path, claim)


def test_a_reader_without_progress_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.2)
    data = json.dumps("x" * 500_000).encode()

    async def claim(there: Store, server: Server) -> None:
        there.hub.stall_timeout = 0.5
        async with reluctant(server):
            for _ in range(4):
                await there.produce(10, data=data)
            await until(lambda: server.connections == 0)
            assert there.hub.status()["connections"] == 0

    run(tmp_path, claim)

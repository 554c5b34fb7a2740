"""Memory that requests share: bodies under way and unread answers; who does not read is cut."""

import asyncio
import json
import socket
import threading
import time

import pytest
from busway.gateway.api import answers
from busway.gateway.budget import Budget
from busway.gateway.door.deadlines import Times
from busway.gateway.errors import Unavailable

from tests.api.kit import HOST, PATIENCE, App, Direct, Peer, serving

BEGUN = b"POST /%b HTTP/1.1\r\n" + HOST + b"Content-Length: 90000\r\n\r\n"


def wait(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("path", [b"echo", b"other"], ids=["endpoint", "cycle"])
def test_bodies_under_way_are_bounded_together(path):
    app = Direct()
    app.echo.idle = PATIENCE
    app.bodies = Budget(100_000, "bodies")
    with serving(app) as (port, _):
        first, second = Peer(port), Peer(port)
        first.send(BEGUN % path + b"x" * 60_000)
        wait(lambda: app.bodies.used == 60_000)
        second.send(BEGUN % path + b"x" * 50_000)
        status, body, headers = second.read()
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert b"memory" in body
        assert app.bodies.refused == 1
        wait(lambda: app.bodies.used == 60_000)
        first.send(b"x" * 30_000)
        assert first.read()[0] == 200
        assert app.bodies.used == 0
        third = Peer(port)
        third.send(BEGUN % path + b"x" * 90_000)  # the memory is free again
        assert third.read()[0] == 200
        third.send(BEGUN % path + b"x" * 80_000)
        wait(lambda: app.bodies.used == 80_000)
        third.close()
        wait(lambda: app.bodies.used == 0)
        first.close()
        second.close()


def test_heads_under_way_count_too():
    app = Direct()
    app.bodies = Budget(50_000, "bodies")
    with serving(app) as (port, _):
        first, second = Peer(port), Peer(port)
        first.send(b"GET / HTTP/1.1\r\nx: " + b"x" * 40_000)
        wait(lambda: app.bodies.used > 40_000)
        second.send(b"GET / HTTP/1.1\r\nx: " + b"x" * 40_000)
        assert second.read()[0] == 503
        first.send(b"\r\n" + HOST + b"\r\n")
        assert first.read()[0] == 200
        assert app.bodies.used == 0
        first.close()
        second.close()


class Waiting(App):
    """Reads nothing of a body until the test says so."""

    def __init__(self):
        super().__init__()
        self.goes = threading.Event()

    async def __call__(self, scope, receive, send):
        while not self.goes.is_set():
            await asyncio.sleep(0.005)
        await super().__call__(scope, receive, send)


def test_a_body_that_the_application_does_not_read_is_not_read_from_the_socket():
    app = Waiting()
    with serving(app) as (port, server):
        peer = Peer(port)
        peer.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 300000\r\n\r\n" + b"x" * 100_000)
        wait(lambda: [c.flow.reading for c in server.server_state.connections] == [False])
        app.goes.set()
        peer.send(b"x" * 200_000)
        assert peer.read()[0] == 200
        peer.close()


class Large(App):
    """Answers with 16 MiB, or streams as much."""

    size = 16 << 20

    async def __call__(self, scope, receive, send):
        streams = scope["path"] == "/stream"
        headers = [] if streams else [(b"content-length", b"%d" % self.size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(16):
            await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def slow(port, path=b"/"):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    sock.sendall(b"GET %b HTTP/1.1\r\n%b\r\n" % (path, HOST))
    return sock


def test_a_client_that_does_not_read_its_answer_is_cut():
    app = Large()
    app.times = Times(stall=0.5)
    app.answers = Budget(1 << 40, "answers")
    with serving(app) as (port, server), slow(port):
        wait(lambda: app.answers.used)
        wait(lambda: not server.server_state.connections)
        assert app.answers.used == 0


@pytest.mark.long
def test_a_client_that_reads_slowly_gets_all_of_its_answer():
    app = Large()
    app.times = Times(stall=3.0)
    app.answers = Budget(1 << 40, "answers")
    with serving(app) as (port, _), slow(port) as sock:
        size = 0
        while size < app.size:
            got = sock.recv(1 << 20)
            assert got
            size += len(got)
            time.sleep(0.001)
        wait(lambda: app.answers.used == 0)


def test_a_budget_gives_nothing_beyond_its_limit_but_something_to_the_first():
    budget = Budget(10, "things")
    budget.take(20)
    with pytest.raises(Unavailable, match="things"):
        budget.take(1)
    budget.give(20)
    with budget.hold(6):
        assert budget.used == 6
        with pytest.raises(Unavailable):
            budget.take(5)
    assert (budget.used, budget.refused) == (0, 2)


class Stages:
    def __init__(self, limit=1 << 30):
        self.answers = Budget(limit, "answers")


def pages(items, limit):
    """Return the items of all pages, and how many items each page has."""
    found, sizes, rest = [], [], items
    while True:
        page = json.loads(answers.part(Stages(), rest, limit, lambda item, _: str(item["n"])).body)
        found += page["items"]
        sizes.append(len(page["items"]))
        if page["next"] is None:
            return found, sizes
        rest = [item for item in items if item["n"] > int(page["next"])]


def test_a_list_in_memory_is_paged_by_items_and_by_bytes():
    small = [{"n": n} for n in range(25)]
    assert pages(small, 10) == (small, [10, 10, 5])
    assert pages(small[:10], 10) == (small[:10], [10])
    assert pages([], 10) == ([], [0])
    large = [{"n": n, "text": "x" * (1 << 20)} for n in range(20)]
    found, sizes = pages(large, 1000)
    assert found == large
    assert sizes == [8, 8, 4]


def test_a_page_is_refused_while_many_are_under_way():
    stages = Stages(answers.PAGE_BYTES)
    with stages.answers.hold(1), pytest.raises(Unavailable):
        answers.part(stages, [{"n": 1}], 1, lambda item, _: str(item["n"]))
    assert stages.answers.used == 0

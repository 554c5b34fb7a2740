"""Frames a second: messages one after another, each to a thousand subscribers with one subscription."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks import running
from benchmarks.listening import (
    ITEM,
    SUBSCRIBED,
    UPGRADED,
    Clients,
    Step,
    allow_many_sockets,
    opened,
    text_frame,
)
from benchmarks.peers import crossbar_node
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.running import PEERS

SOCKETS = 1000
MESSAGES = 150  # in a round
TOO_MANY = 0.1  # seconds to wait for duplicate results
UNDER_WAY = 8  # messages published before the subscribers have the first one
FRAME = b'"op":"results"'
BODY = b'{"type":"bench.noop"}'
SIZE = 477  # bytes of Busway's frame with its head of 4; the peers' frames are padded to this size
BARE_TEXT = '{"op":"results","id":"default","items":[{"cursor":"' + "x" * (SIZE - 59) + '"}]}'
CROSSBAR_TEXT = "x" * (SIZE - 50)
SOCKETIO_TEXT = "x" * (SIZE - 19)
SOCKETIO_JOINED = (Step(b"\r\n\r\n"), Step(b"0{", text_frame("40")), Step(b"40{"))


UVICORN = ["--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning", "--backlog=4096"]


class Publisher:
    """One kept-alive connection that publishes single events to Busway, pipelined."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._request = (
            f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(BODY)}\r\n\r\n"
        ).encode() + BODY

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, _number: int) -> None:
        """Publish one event, and read the available responses."""
        with contextlib.suppress(BlockingIOError):
            answers = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            if answers.count(b"HTTP/1.1 ") != answers.count(b"HTTP/1.1 202"):
                raise RuntimeError(f"the gateway refuses events: {answers[:200]!r}")
        self._socket.sendall(self._request)


def paced(clients: Clients, send: Callable[[int], None], effort: float) -> Reading:
    """Send messages, few of them under way at a time; each must reach every subscriber."""
    messages, count = max(20, round(MESSAGES * effort)), len(clients.sockets)
    began, items, frames, sent = time.monotonic(), clients.items, clients.frames, 0

    def enough() -> bool:
        nonlocal sent
        while sent < messages and clients.items - items > (sent - UNDER_WAY) * count:
            send(sent + 1)
            sent += 1
        return clients.items - items >= messages * count

    clients.read(enough)
    last = clients.last
    clients.poll(TOO_MANY)
    if clients.items - items != messages * count:
        raise RuntimeError(f"{messages * count} results expected, {clients.items - items} arrived")
    reading = {"frames_per_s": messages * count / (last - began)}
    if clients.frames:
        reading["frames_per_s"] = (clients.frames - frames) / (last - began)
        reading["results_per_frame"] = messages * count / (clients.frames - frames)
    return reading


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    allow_many_sockets()
    with running.busway() as gateway:
        port = int(gateway.url.rpartition(":")[2])

        def once(effort: float) -> Reading:
            path = "/v1/subscribe?types=bench.*"
            with (
                Clients(port, SOCKETS, path, ITEM, FRAME, SUBSCRIBED) as clients,
                Publisher(port) as publisher,
            ):
                return paced(clients, publisher.send, effort)

        yield once


@contextlib.contextmanager
def bare() -> Iterator[Once]:
    allow_many_sockets()
    port = running.port()
    command = [sys.executable, "-m", "benchmarks.peers.bare", str(port)]
    with running.running(command, f"http://127.0.0.1:{port}/"):

        def once(effort: float) -> Reading:
            messages = max(20, round(MESSAGES * effort))
            with (
                Clients(port, SOCKETS, steps=UPGRADED) as clients,
                socket.create_connection(("127.0.0.1", port)) as asking,
            ):
                began = time.monotonic()
                asking.sendall(f"GET /{messages}?{BARE_TEXT} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                clients.read(lambda: clients.items >= messages * SOCKETS)
                return {"frames_per_s": messages * SOCKETS / (clients.last - began)}

        yield once


@contextlib.contextmanager
def crossbar() -> Iterator[Once]:
    allow_many_sockets()
    with crossbar_node.node() as port:

        def once(effort: float) -> Reading:
            steps, protocol = crossbar_node.SUBSCRIBED, crossbar_node.PROTOCOL
            with (
                Clients(port, SOCKETS, "/ws", crossbar_node.EVENT, None, steps, protocol) as clients,
                opened(port, "/ws", crossbar_node.JOINED, protocol) as publisher,
            ):
                return paced(
                    clients, lambda n: publisher.sendall(crossbar_node.publication(n, CROSSBAR_TEXT)), effort
                )

        yield once


@contextlib.contextmanager
def socketio() -> Iterator[Once]:
    allow_many_sockets()
    interpreter, port = running.python("peers", "socketio, uvicorn"), running.port()
    command = [interpreter, "-m", "uvicorn", "socketio_server:app", "--app-dir", str(PEERS), f"--port={port}"]
    command += UVICORN
    with running.running(command, f"http://127.0.0.1:{port}/"):

        def once(effort: float) -> Reading:
            path = "/socket.io/?EIO=4&transport=websocket"
            message = text_frame(f'42["publish","{SOCKETIO_TEXT}"]')
            with (
                Clients(port, SOCKETS, path, b'42["result",', None, SOCKETIO_JOINED) as clients,
                opened(port, path, SOCKETIO_JOINED) as publisher,
            ):
                return paced(clients, lambda _: publisher.sendall(message), effort)

        yield once


PACED = f"one message after another, at most {UNDER_WAY} under way"

ROW = Row(
    name="fanout",
    title=f"frames a second, one result to {SOCKETS} subscribers with one subscription",
    sides=(
        Side(OURS, f"synced, process pool; single events over one connection, {PACED}", busway),
        Side(
            "bare",
            "an ASGI loop that sends a text of the same size to all, on the same uvicorn settings with "
            "uvicorn's own protocols: uvloop, httptools, websockets-sansio, no compression, the same pings "
            "and backlog",
            bare,
        ),
        Side(
            "crossbar",
            f"Crossbar.io, its documented production settings, WAMP in JSON; one publisher, {PACED}",
            crossbar,
        ),
        Side(
            "socketio",
            "python-socketio's AsyncServer, WebSocket transport, on uvicorn with uvloop and httptools; one "
            f"client's messages emitted to all others, {PACED}",
            socketio,
        ),
    ),
    comparisons=(
        Comparison("frames_per_s", ("bare",), must=0.8, aim=1),
        Comparison("frames_per_s", ("crossbar",), must=2, aim=2.5),
        Comparison("frames_per_s", ("socketio",), must=0.9, aim=1),
    ),
)

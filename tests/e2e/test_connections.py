"""Connections without end, and a gateway whose descriptors run out."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from .conftest import Serve
from .service import PATIENCE, Service, until
from .test_metrics import Scraped

pytestmark = pytest.mark.one_node("descriptors of one process")

HANDSHAKE = (
    b"GET /v1/subscribe HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def connections(service: Service, count: int) -> Iterator[list[socket.socket]]:
    port = service.options["port"]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(count)
        ]


def descriptors(service: Service) -> int:
    assert service.process is not None
    return sum(1 for _ in Path(f"/proc/{service.process.pid}/fd").iterdir())


def limit(service: Service, count: int) -> None:
    assert service.process is not None
    hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (count, hard))


def ask(sock: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        sock.sendall(ASK)
        return sock.recv(100).split(b"\r\n")[0]
    return b""


def test_silent_connections_shut_nobody_out(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    limit(service, 300)
    with connections(service, 400), connections(service, 1) as newest:
        assert ask(newest[0]) == b"HTTP/1.1 200 OK"
        receipt = service.publish("a.b")
        assert receipt["seq"] == 1
    scraped = Scraped(service)
    assert scraped("busway_connections_cut_total") > 100
    assert scraped("busway_accept_errors_total") == 0
    assert service.logged("ulimit -n").count("ulimit -n") == 1


@pytest.mark.fault
def test_a_gateway_without_descriptors_goes_on_when_there_are_some_again(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    limit(service, descriptors(service) + 1)
    for _ in range(3):
        with connections(service, 20) as found:
            for sock in found:
                ask(sock)
    limit(service, 4096)
    until(lambda: service.get("/readyz").status_code == 200, "an answer when there is room again")
    assert service.log.read_text().count("ulimit -n") <= 1
    assert "Traceback" not in service.log.read_text()
    assert service.publish("a.b")["seq"] == 1


DIES = """
import os
from busway import handler

@handler("die", max_attempts=1, pool=POOL)
def die(event):
    os._exit(3)

@handler("work", pool=POOL)
def work(event):
    return event.data
"""


class Kept:
    """A connection that is open before descriptors run out."""

    def __init__(self, service: Service) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", service.options["port"], timeout=PATIENCE)
        self.ask("GET", "/healthz")

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} if body else {}
        self._connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def without_descriptors(service: Service) -> Iterator[Kept]:
    """Let the gateway open nothing, but answer on one connection."""
    with contextlib.closing(Kept(service)) as kept:
        limit(service, 3)
        try:
            yield kept
        finally:
            limit(service, 1024)


@pytest.mark.fault
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_pool_without_descriptors_is_named_and_works_again(make_service: Serve, pool: str) -> None:
    service = make_service(workers=1, pool=pool)
    service.write("dies.py", DIES.replace("POOL", repr(pool)))
    service.start()
    service.finished(service.publish("work", 1)["seq"])
    with without_descriptors(service) as kept:
        assert kept.ask("POST", "/v1/events", {"type": "die"})[0] == 202
        trouble = until(lambda: kept.ask("GET", "/readyz")[1]["trouble"], "the reason")
        assert trouble == [f"workers of the pool {pool} cannot be started or reached: Too many open files"]
        status, receipt = kept.ask("POST", "/v1/events", {"type": "work", "data": 2})
        assert status == 202
    service.finished(receipt["seq"])
    assert service.ok("GET", "/readyz")["trouble"] == []


@pytest.mark.fault
def test_a_committer_that_cannot_be_replaced_is_named_and_replaced_later(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    committer = service.ok("GET", "/v1/status")["committer"]["pid"]
    with without_descriptors(service) as kept:
        os.kill(committer, signal.SIGKILL)

        def named() -> bool:
            status, answer = kept.ask("GET", "/readyz")
            return status == 503 and "Too many open files" in answer["detail"]

        until(named, "the reason")
        status, answer = kept.ask("POST", "/v1/events", {"type": "a"})
        assert status == 503
        assert "Too many open files" in answer["detail"]
    until(lambda: service.get("/readyz").status_code == 200, "another committer")
    assert service.publish("a")["seq"] == 1


@pytest.mark.fault
def test_idle_connections_that_leave_no_descriptor_empty_no_pool(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("dies.py", DIES.replace("POOL", "'process'"))
    service.start()
    limit(service, 80)
    with connections(service, 90):
        service.finished(service.publish("die")["seq"])
    service.finished(service.publish("work", 2)["seq"])


def test_an_event_is_stored_once_whose_socket_was_reset_before_the_answer(make_service: Serve) -> None:
    """What was not acknowledged may be stored or not: published again, it is there once."""
    service = make_service(workers=1).start()
    ids = [f"reset-{n}" for n in range(20)]
    for id_ in ids:
        event = {"type": "reset", "source": "/test", "id": id_}
        frame = Frame(Opcode.TEXT, json.dumps({"op": "publish", "event": event}).encode())
        with connections(service, 1) as [peer]:
            peer.sendall(HANDSHAKE)
            assert peer.recv(4096).startswith(b"HTTP/1.1 101 ")
            peer.sendall(frame.serialize(mask=True, extensions=[]))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
        assert service.ok("POST", "/v1/events", event)["seq"] > 0
    found = service.ok("GET", "/v1/events?type=reset&limit=1000")["items"]
    assert [event["id"] for event in found] == ids[::-1]

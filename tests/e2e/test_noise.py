"""What clients do wrong is no fault of the gateway: it writes no traceback, and few lines."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attacks import GOOD, KEY, frame, handshake

from .service import Service, until

pytestmark = pytest.mark.one_database("connections that clients spoil")

ABORT = struct.pack("ii", 1, 0)
CLOSE = b"\x88\x80" + bytes(4)


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("noise"), workers=1).start()
    yield service
    service.close()


def connection(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), 60)


def publishes(count: int) -> bytes:
    event = {"type": "t", "data": "x" * 200}
    return b"".join(
        frame(1, json.dumps({"op": "publish", "ref": n, "event": event}).encode()) for n in range(count)
    )


BAD = {
    "no key": handshake("Sec-WebSocket-Version: 13"),
    "another version": handshake(f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 7"),
    "another host": handshake(*GOOD, host="evil"),
    "a bad query": handshake(*GOOD, path="/v1/subscribe?types=%ff"),
    "bad UTF-8": handshake(*GOOD) + frame(1, b"\xff\xfe"),
    "reserved bits": handshake(*GOOD) + b"\xff" * 100,
    "no HTTP": b"\xff\xfe\r\n\r\n",
    "bad JSON": b"POST /v1/handlers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n\xff\xff",
    "half a body": b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{",
    "a bad path": b"GET /v1/handlers/%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "unread answers": b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
}


def check(service: Service, before: int) -> None:
    assert service.get("/healthz").status_code == 200
    written = service.log.read_text()[before:]
    assert "Traceback" not in written
    assert written.count("\n") < 50, written


@pytest.mark.parametrize("name", BAD)
def test_a_client_that_errs_writes_no_traceback(service: Service, name: str) -> None:
    before = len(service.log.read_text())
    for _ in range(5):
        with connection(service) as sock:
            sock.sendall(BAD[name])
            if name != "half a body":
                sock.recv(100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    check(service, before)


@pytest.mark.parametrize("end", ["closed", "cut", "half closed", "close frame, then cut"])
def test_sockets_that_end_in_the_middle_of_their_publishes_write_no_traceback(
    service: Service, end: str
) -> None:
    before = len(service.log.read_text())
    start = service.ok("POST", "/v1/events", {"type": "start"})["seq"]
    for _ in range(10):
        with connection(service) as sock:
            sock.sendall(handshake(*GOOD))
            assert sock.recv(1000).startswith(b"HTTP/1.1 101")
            sock.sendall(publishes(200))
            sock.recv(1)
            if "frame" in end:
                sock.sendall(CLOSE)
            if "cut" in end:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            if end == "half closed":
                sock.shutdown(socket.SHUT_WR)
    until(
        lambda: service.ok("GET", "/v1/status")["subscribers"]["connections"] == 0, "the sockets to be gone"
    )
    assert service.ok("POST", "/v1/events", {"type": "end"})["seq"] > start + 1
    check(service, before)
    assert service.log.stat().st_size < 100_000

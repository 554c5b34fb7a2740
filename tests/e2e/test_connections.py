"""Connections without end, and a gateway whose descriptors run out."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Serve
from .service import PATIENCE, Service, until
from .test_metrics import Scraped

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
    assert service.log.read_text().count("ulimit -n") == 1


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

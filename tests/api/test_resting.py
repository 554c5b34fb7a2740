"""A client that keeps the event loop busy for nothing is left alone for a while, and others are served."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
from busway.gateway.door import bodies, flow
from busway.gateway.door.protocol import HttpProtocol

from tests.api.kit import HOST, PATIENCE, Direct, Peer, post, serving

CHUNKED = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = post(b"", extra=b"X-Refuse: 1\r\n")


@pytest.fixture
def port(monkeypatch):
    """Of a server whose rests do not end within a test."""
    monkeypatch.setattr(flow, "REST", 3600.0)
    with serving(Direct()) as (port, _):
        yield port


def served(port):
    """Another client is."""
    other = Peer(port)
    other.send(post(b"good"))
    assert other.read()[:2] == (200, b"good")
    other.close()


def test_after_many_refused_requests(port):
    peer = Peer(port)
    peer.send(REFUSED * 3 * flow.AT_ONCE)
    for _ in range(flow.AT_ONCE):
        assert peer.read()[0] == 403
    served(port)
    peer.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.sock.recv(1)
    peer.close()


def test_after_many_tiny_chunks(port):
    peer = Peer(port)
    peer.send(CHUNKED + b"1\r\nx\r\n" * bodies.LINES + b"0\r\n\r\n")
    served(port)
    assert peer.read()[0] == 408  # it is not read on before its time is over
    peer.close()


def test_not_after_many_chunks_of_a_usual_size(port):
    peer = Peer(port)
    peer.send(CHUNKED + b"40\r\n%b\r\n" % (b"x" * 64) * bodies.LINES + b"0\r\n\r\n")
    assert peer.read()[:2] == (200, b"x" * 64 * bodies.LINES)
    peer.close()


@pytest.mark.parametrize("closes", [False, True])
def test_while_a_refused_body_goes_on(port, closes):
    peer = Peer(port)
    more = b"Connection: close\r\n" if closes else b""
    peer.send(post(b"", extra=b"X-Refuse: 1\r\n" + more).replace(b"Length: 0", b"Length: 60000000"))
    assert peer.read()[0] == 403
    sent = taken(peer.sock)
    served(port)
    assert sent < 30_000_000  # the buffers of the sockets
    peer.close()


def taken(sock):
    """How many bytes a socket takes until it takes no more for a while, or is closed."""
    sock.setblocking(False)
    sent, last = 0, time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < last + 0.2 and sent < 60_000_000:
            try:
                sent += sock.send(bytes(1 << 20))
                last = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
    return sent


def test_a_large_body_is_read_once_in_a_turn(monkeypatch):
    turns, number = [], 0
    received = HttpProtocol.data_received

    def tick(loop):
        nonlocal number
        number += 1
        loop.call_soon(tick, loop)

    def noted(self, data):
        if not number:
            tick(asyncio.get_running_loop())
        if len(data) > flow.BULK:
            turns.append(number)
        received(self, data)

    monkeypatch.setattr(HttpProtocol, "data_received", noted)
    body = bytes(8 << 20)
    with serving(Direct()) as (port, _):
        peers = [Peer(port) for _ in range(2)]
        threads = [threading.Thread(target=peer.send, args=(post(body, b"/else"),)) for peer in peers]
        for thread in threads:
            thread.start()
        for peer, thread in zip(peers, threads, strict=True):
            thread.join(PATIENCE)
            assert peer.read()[1] == b"/else:" + body
            peer.close()
    assert len(turns) > 10
    assert max(map(turns.count, turns)) <= len(peers)


def test_a_connection_may_end_while_it_rests(port):
    peer = Peer(port)
    peer.send(REFUSED * 2 * flow.AT_ONCE)
    for _ in range(flow.AT_ONCE):
        assert peer.read()[0] == 403
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    served(port)

"""A request whose answer takes long hears that its client sends no more, in both shells of the door."""

import socket
import time

import pytest

from tests.api.kit import PATIENCE, App, Direct, Peer, post, serving


@pytest.fixture(scope="module", params=[Direct, App])
def served(request):
    app = request.param()
    with serving(app) as (port, _):
        yield app.echo, port


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize(
    "parts", [(post(b"wait"),), (post(b"wait")[:-2], b"it"), (post(b"wait")[:9], post(b"wait")[9:])]
)
def test_a_client_that_is_gone_leaves_nothing(served, parts):
    echo, port = served
    for _ in range(3):
        peer = Peer(port)
        peer.send(post(b"first"))
        assert peer.read()[1] == b"first"
        for part in parts:
            peer.send(part)
            time.sleep(0.01)
        until(lambda: echo.waiting)
        peer.close()
        until(lambda: not echo.waiting)


def test_a_client_that_only_sends_no_more_gets_its_answer(served):
    echo, port = served
    peer = Peer(port)
    peer.send(post(b"wait"))
    until(lambda: echo.waiting)
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.read()[:2] == (200, b"hurried")
    assert peer.ended()
    peer.close()


def test_an_answer_in_time_leaves_the_connection_open(served):
    echo, port = served
    peer = Peer(port)
    for _ in range(3):
        peer.send(post(b"wait"))
        until(lambda: echo.waiting)
        echo.release()
        assert peer.read()[:2] == (200, b"released")
    peer.send(post(b"x", b"/asgi"))
    assert peer.read()[1] == b"/asgi:x"
    peer.close()

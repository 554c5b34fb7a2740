"""What a connection took is free when it has ended, without the collector of reference cycles."""

from __future__ import annotations

import gc
import time

import pytest
from busway.gateway.door.protocol import HttpProtocol

from tests.api.kit import HOST, PATIENCE, Peer, post

BEGUN = b" HTTP/1.1\r\n" + HOST + b"Content-Length: 9000\r\n\r\nx"
SENT = {
    "nothing": b"",
    "nonsense": b"\x16\x03\x01\r\n\r\n",
    "a part of a head": b"GET / HT",
    "a part of a body to the endpoint": b"POST /echo" + BEGUN,
    "a part of a body to the application": b"POST /other" + BEGUN,
    "a whole request to the endpoint": post(b"x"),
    "a whole request to the application": post(b"x", b"/other"),
}


@pytest.mark.long
@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_a_connection_is_freed_when_it_ends(shared, sent):
    app, port = shared
    gc.collect()  # what other tests left
    gc.disable()
    try:
        peers = [Peer(port) for _ in range(10)]
        for peer in peers:
            peer.send(sent)
        if sent == SENT["nonsense"]:
            assert [peer.read()[0] for peer in peers] == [400] * 10
        else:
            wait(lambda: connections(app) == 10)
        for peer in peers:
            peer.close()
        wait(lambda: connections(app) == 0)
    finally:
        gc.enable()


def connections(app):
    return sum(isinstance(each, HttpProtocol) and each._app is app for each in gc.get_objects())


def wait(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

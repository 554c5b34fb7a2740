"""The fixed script: what is sent to a gateway while its work is counted, and what must have come back."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import ClientConnection, connect

_REQUEST = (
    b"POST /v1/events HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
EVENT = b'{"type":"work.counted","data":{"item":"book","quantity":2}}'
HANDLERS = "from busway import handler\n@handler('work.*')\ndef noop(event):\n    return None\n"
PATIENCE = 120.0  # seconds; far more than anything here takes


class Traffic:
    """One connection that publishes and one subscriber that hears every result.

    A request leaves in one write: a client that sends its head and its body apart makes the gateway read once
    or twice, by chance.
    """

    def __init__(self, publisher: socket.socket, subscriber: ClientConnection) -> None:
        self._publisher, self._subscriber = publisher, subscriber
        self._host = b"%b:%d" % (publisher.getpeername()[0].encode(), publisher.getpeername()[1])

    def one_by_one(self, events: int) -> None:
        """Publish so many events, each when the result of the one before was delivered."""
        for _ in range(events):
            self._publish(EVENT)
            self._hear(1)

    def at_once(self, events: int) -> None:
        """Publish so many events in one request and wait until all their results were delivered."""
        self._publish(b"[" + b",".join([EVENT] * events) + b"]")
        self._hear(events)

    def _publish(self, body: bytes) -> None:
        self._publisher.sendall(_REQUEST % (self._host, len(body), body))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, start = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202 "), answer
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        assert length, head
        left = int(length[1]) - len(start)
        while left > 0:
            left -= len(self._more())

    def _more(self) -> bytes:
        chunk = self._publisher.recv(1 << 20)
        assert chunk, "the gateway closed the connection"
        return chunk

    def _hear(self, wanted: int) -> None:
        heard = 0
        while heard < wanted:
            frame: dict[str, Any] = json.loads(self._subscriber.recv(timeout=PATIENCE))
            assert frame["op"] == "results", frame
            kinds = [item["kind"] for item in frame["items"]]
            assert kinds == ["succeeded"] * len(kinds), frame
            heard += len(kinds)
        assert heard == wanted


@contextlib.contextmanager
def traffic(url: str) -> Iterator[Traffic]:
    """Connect to the gateway there, for the length of the block."""
    host, _, port = url.removeprefix("http://").partition(":")
    address = url.replace("http", "ws", 1) + "/v1/subscribe?after=latest"
    with (
        socket.create_connection((host, int(port)), PATIENCE) as publisher,
        connect(address, compression=None, max_size=None) as subscriber,
    ):
        assert json.loads(subscriber.recv(timeout=PATIENCE))["op"] == "subscribed"
        yield Traffic(publisher, subscriber)

"""The subprotocol `cloudevents.json`: each message of the gateway is one CloudEvent in structured mode.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/websockets-protocol-binding.md
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from busway.contract.frames import FRAME_EVENT, FrameEvent
from busway.domain import times
from busway.domain.event import new_id
from busway.gateway.door.port import Socket

SUBPROTOCOL = "cloudevents.json"


class _Frame(msgspec.Struct):
    op: str
    items: list[msgspec.Raw] = []


_decode = msgspec.json.Decoder(_Frame).decode
_encode = msgspec.json.Encoder().encode


def messages(text: str) -> Iterator[str]:
    """Yield a frame as CloudEvents: each item of `results`, which is one already, or the whole frame."""
    frame = _decode(text)
    if frame.items:
        for item in frame.items:
            yield bytes(item).decode()
        return
    now = time.time_ns() // 1000
    data: Any = msgspec.Raw(text.encode())
    kind = "moved" if frame.op == "results" else frame.op
    yield _encode(FrameEvent(new_id(now), f"{FRAME_EVENT}{kind}", times.to_text(now), data)).decode()


class CloudEventsSocket:
    """A socket whose frames leave as CloudEvents.

    Args:
        socket: an open socket.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.transport, self.share = socket.transport, socket.share
        self.subprotocol = socket.subprotocol
        self.receive = socket.receive
        self.close = socket.close

    def offer(self, _text: str) -> bool:
        """Return False: a frame may be several messages, which only `send` sends."""
        return False

    async def send(self, text: str) -> None:
        """Send a frame, message by message."""
        for message in messages(text):
            await self._socket.send(message)

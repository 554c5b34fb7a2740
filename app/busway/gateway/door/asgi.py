"""The endpoints as ASGI applications: for other servers, middleware and tests in one process."""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from typing import Any

from busway.gateway.door.cycle import UNREAD, Message, Receive, Send
from busway.gateway.door.deadlines import Pace
from busway.gateway.door.port import Answer, Endpoint, Head, Hurry, SocketEndpoint, relevant
from busway.gateway.door.websocket import REASON_BYTES
from busway.gateway.limits import Share


async def publish(endpoint: Endpoint, scope: Message, receive: Receive, send: Send) -> None:
    """Have the endpoint answer one HTTP request."""
    head = Head(relevant(endpoint.looks_at | endpoint.carries, scope["headers"]))
    answer = endpoint.admit(head)
    if answer is None and head.streams:
        answer = await _stream(endpoint, head, receive)
        if answer is None:
            return
    elif answer is None:
        body = await _read(endpoint, head, receive)
        if body is None:
            return
        if isinstance(body, Answer):
            answer = body
        else:
            answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            hurry = endpoint.take(head, body, answered.set_result)
            if hurry is not None:
                await _hurry(hurry, answered, receive)
            answer = await asyncio.shield(answered)
    await _send(answer, send, "http.response")


async def _hurry(hurry: Hurry, answered: asyncio.Future[Answer], receive: Receive) -> None:
    """Wait for the answer, and hurry it when the client is gone."""
    gone = asyncio.ensure_future(_gone(receive))
    waited: list[asyncio.Future[Any]] = [gone, answered]
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not answered.done():
            hurry()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(endpoint: Endpoint, head: Head, receive: Receive) -> bytes | Answer | None:
    """Return the body, why it is refused, or None: the client is gone."""
    parts, size, more = [], 0, True
    loop = asyncio.get_running_loop()
    pace = Pace(loop.time(), endpoint.idle, endpoint.least)
    while more:
        try:
            async with asyncio.timeout(pace.left(loop.time())):
                message = await receive()
        except TimeoutError:
            return endpoint.too_slow(head)
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        pace.came(len(parts[-1]))
        if size > endpoint.max_body:
            return endpoint.too_large(head)
        more = message.get("more_body", False)
    return b"".join(parts)


async def _stream(endpoint: Endpoint, head: Head, receive: Receive) -> Answer | None:
    """Give the body to the endpoint as it arrives. Return the answer, None if the client is gone."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    room = asyncio.Event()

    def unread(size: int) -> None:
        (room.clear if size > UNREAD else room.set)()

    def respond(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)
        room.set()

    room.set()
    intake = endpoint.open(head, respond, unread)
    more = True
    try:
        while more and not answered.done():
            receiving = asyncio.ensure_future(receive())
            await asyncio.wait((receiving, answered), timeout=intake.idle, return_when=FIRST_COMPLETED)
            if not receiving.done():
                receiving.cancel()
                return answered.result() if answered.done() else intake.too_slow()
            message = receiving.result()
            if message["type"] == "http.disconnect":
                return None
            intake.add(message.get("body", b""))
            more = message.get("more_body", False)
            await room.wait()
        if not answered.done():
            intake.whole()
        return await answered
    finally:
        intake.disconnect()


async def _send(answer: Answer, send: Send, kind: str) -> None:
    lines = [line.partition(b": ") for line in answer.lines.splitlines()]
    headers = [(name, value) for name, _, value in lines]
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": answer.body})


class AsgiSocket:
    """A WebSocket that another server holds."""

    transport = None
    share: Share | None = None

    def __init__(self, receive: Receive, send: Send, subprotocol: str | None) -> None:
        self._receive, self._send, self.subprotocol = receive, send, subprotocol

    async def receive(self) -> str | bytes | None:
        """Return the next message; None when there are no more."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return bytes(message.get("bytes") or b"") if text is None else text

    def offer(self, _text: str) -> bool:
        """Send nothing: only the server knows whether there is room."""
        return False

    async def send(self, text: str) -> None:
        """Send text when the server takes it."""
        await self._send({"type": "websocket.send", "text": text})

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame."""
        short = reason.encode()[:REASON_BYTES].decode(errors="ignore")
        await self._send({"type": "websocket.close", "code": code, "reason": short})


async def subscribe(endpoint: SocketEndpoint, scope: Message, receive: Receive, send: Send) -> None:
    """Have the endpoint serve one WebSocket, or refuse its handshake."""
    await receive()
    serve = endpoint.admit(scope["headers"], scope["query_string"])
    if not isinstance(serve, Answer):
        offered = scope.get("subprotocols", ())
        protocol = next((each for each in endpoint.subprotocols if each in offered), None)
        await send({"type": "websocket.accept", "subprotocol": protocol})
        await serve(AsgiSocket(receive, send, protocol))
    elif "websocket.http.response" in scope.get("extensions", {}):
        await _send(serve, send, "websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": 1008})

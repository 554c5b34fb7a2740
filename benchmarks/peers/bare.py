"""A bare ASGI loop on Busway's uvicorn settings: it accepts WebSockets and sends one text to all of them.

It uses uvicorn's protocols, httptools and websockets-sansio.

`python -m benchmarks.peers.bare PORT`; then `GET /COUNT?TEXT` sends TEXT to every socket, COUNT times, one
message after another, and responds when all are sent.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from busway.gateway.door.websocket import PING_EVERY, PONG_WITHIN
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

sockets: set[ASGISendCallable] = set()


async def bare(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Accept a WebSocket, or send to all."""
    if scope["type"] == "http":
        await send_to_all(int(scope["path"][1:] or 0), scope["query_string"].decode())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    await receive()
    await send({"type": "websocket.accept"})
    sockets.add(send)
    while (await receive())["type"] != "websocket.disconnect":
        pass
    sockets.discard(send)


async def send_to_all(count: int, text: str) -> None:
    for _ in range(count):
        for send in list(sockets):
            await send({"type": "websocket.send", "text": text})
        await asyncio.sleep(0)


if __name__ == "__main__":
    uvicorn.run(
        bare,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=PING_EVERY,
        ws_ping_timeout=PONG_WITHIN,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=4096,
        timeout_graceful_shutdown=5,
    )

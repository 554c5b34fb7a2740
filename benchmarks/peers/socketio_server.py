"""A Socket.IO server as python-socketio documents it for uvicorn: one client's messages go to all others."""

from __future__ import annotations

import socketio

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])
app = socketio.ASGIApp(server)


@server.event
async def publish(sid: str, data: object) -> None:
    """Send a client's message to all other clients."""
    await server.emit("result", data, skip_sid=sid)

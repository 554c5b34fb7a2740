"""Checks access to the WebSocket /v1/subscribe during its handshake."""

from __future__ import annotations

from functools import partial

from busway.gateway.access.pending import KeysPending, settled
from busway.gateway.access.scopes import Access
from busway.gateway.access.sessions import Use
from busway.gateway.api.stages import Gateway, Stages
from busway.gateway.door.port import Answer, Headers, Serve, Socket, problem
from busway.gateway.errors import STARTING, BuswayError, Unauthorized, Unavailable
from busway.gateway.subscribers.websocket import SUBPROTOCOLS, WebSocketShell


class SubscribeEndpoint:
    """The WebSocket /v1/subscribe. A `SocketEndpoint` of the door.

    Args:
        gateway: the gateway that has the running stages.
        max_message: maximum size of a client's frame in bytes.
    """

    path = "/v1/subscribe"
    subprotocols: tuple[str, ...] = SUBPROTOCOLS

    def __init__(self, gateway: Gateway, max_message: int) -> None:
        self._gateway, self.max_message = gateway, max_message

    def admit(self, headers: Headers, query: bytes) -> Answer | Serve:
        """Return the function that serves the socket, or the answer that refuses it.

        Without a valid key the socket opens, then closes with 4401: pages can read a close code, but not the
        status of a handshake.
        """
        stages = self._gateway.stages
        if stages is None:
            return problem(Unavailable(STARTING))
        shell: WebSocketShell = stages.subscribe
        try:
            access = stages.gate.admit_subscriber(headers, query, Use.SOCKET)
            if isinstance(access, str):
                return partial(_redeem, stages, query, access)
        except Unauthorized as refusal:
            return partial(shell, query=query, access=refusal)
        except KeysPending:
            return partial(_admit_later, stages, query, headers)
        except BuswayError as error:
            return problem(error)
        return partial(shell, query=query, access=access)


async def _admit_later(stages: Stages, query: bytes, headers: Headers, socket: Socket) -> None:
    """Serve a socket whose token is signed with a key that is being read."""
    try:
        access: Access | Unauthorized = await settled(lambda: stages.gate.admit(headers, Use.SOCKET))
    except Unauthorized as refusal:
        access = refusal
    except BuswayError as error:
        await socket.close(1013, error.detail)
        return
    await stages.subscribe(socket, query=query, access=access)


async def _redeem(stages: Stages, query: bytes, ticket: str, socket: Socket) -> None:
    try:
        access: Access | Unauthorized = await stages.gate.redeem(ticket)
    except Unauthorized as refusal:
        access = refusal
    except BuswayError as error:
        await socket.close(1013, error.detail)
        return
    await stages.subscribe(socket, query=query, access=access)

"""Admission to the WebSocket at /v1/subscribe, before its first frame."""

from __future__ import annotations

from functools import partial

from busway.gateway.api.stages import Gateway
from busway.gateway.door.port import Answer, Headers, Serve, problem
from busway.gateway.errors import STARTING, BuswayError, Unauthorized, Unavailable
from busway.gateway.subscribers.websocket import SUBPROTOCOL, WebSocketShell


class SubscribeEndpoint:
    """Opens subscriptions, as a `SocketEndpoint` of the door.

    Args:
        gateway: has the running stages.
        max_message: bytes of a frame of the client.
    """

    path = "/v1/subscribe"
    subprotocol = SUBPROTOCOL

    def __init__(self, gateway: Gateway, max_message: int) -> None:
        self._gateway, self.max_message = gateway, max_message

    def admit(self, headers: Headers, query: bytes) -> Answer | Serve:
        """Return what serves the socket, or why it is refused.

        Without a good key the socket opens and closes with 4401: pages see close codes, not the status of
        a handshake.
        """
        stages = self._gateway.stages
        if stages is None:
            return problem(Unavailable(STARTING))
        shell: WebSocketShell = stages.subscribe
        try:
            access = stages.gate.admit_subscriber(headers, query)
        except Unauthorized as refusal:
            return partial(shell, query=query, access=refusal)
        except BuswayError as error:
            return problem(error)
        return partial(shell, query=query, access=access)

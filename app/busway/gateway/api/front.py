"""The outermost ASGI application: admits each request, then sends it its way.

Publishing and subscribing carry the load: the first goes past ASGI altogether (`direct`), the second is
bare ASGI; all else is FastAPI.
"""

from __future__ import annotations

from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from busway.gateway.access import origins
from busway.gateway.access.holder import Access
from busway.gateway.access.origins import Origins
from busway.gateway.api import problems
from busway.gateway.api.bodies import Disconnected, next_message, too_large
from busway.gateway.api.publishing import PublishEndpoint
from busway.gateway.api.stages import House, Stages
from busway.gateway.errors import STARTING, BuswayError, NotFound, Unauthorized, Unavailable
from busway.gateway.subscribers.sse import come_back
from busway.gateway.subscribers.wires import RawSend

EVENT_STREAM = "/v1/subscribe/sse"
PUBLIC = frozenset({"/", "/healthz", "/readyz", "/docs", "/client.js", "/openapi.json", "/asyncapi.json"})


class Front:
    """Admits and routes.

    Args:
        house: has the running stages.
        rest: everything that is not the hot path.
        max_body_bytes: the most bytes of one request body.
        allowed: whose pages may use this gateway beside its own.
    """

    def __init__(
        self,
        house: House,
        rest: ASGIApp,
        max_body_bytes: int,
        allowed: Origins,
    ) -> None:
        self._house, self._rest, self._max_body_bytes = house, rest, max_body_bytes
        self._allowed = allowed
        self.direct = PublishEndpoint(house, max_body_bytes, allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        stages = scope["busway.stages"] = self._house.stages
        origin = self._allowed.allowed(scope["headers"])
        if origin is not None:
            send = origins.shared(send, origin)
            answer = origins.preflight(scope)
            if answer is not None:
                return await answer(scope, receive, send)
        try:
            await self._route(stages, scope, receive, send)
        except BuswayError as error:
            await problems.response(error)(scope, receive, send)
        except Disconnected:
            pass

    async def _route(self, stages: Stages | None, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["method"] == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}  # the server sends no body for it (RFC 9110, section 9.3.2)
        path = scope["path"]
        public = path in PUBLIC or path.startswith("/docs/")
        streams = path == EVENT_STREAM and scope["method"] == "GET"
        if stages is None:
            if streams:
                await come_back(scope, cast("RawSend", send), STARTING)
                return
            if not public:
                raise Unavailable(STARTING)
        else:
            try:
                if streams:
                    access = stages.gate.admit_subscriber(scope["headers"], scope["query_string"])
                else:
                    access = stages.gate.admit(scope["headers"])
                scope["busway.access"] = access
            except Unauthorized:
                if not public:
                    raise
            if streams:
                await stages.stream(scope, receive, cast("RawSend", send), scope["busway.access"], head=head)
                return
        await self._rest(scope, self._bounded(receive), send)

    def _bounded(self, receive: Receive) -> Receive:
        size = 0

        async def bounded() -> Message:
            nonlocal size
            if size < 0:
                return await receive()
            message = await next_message(receive)
            size += len(message.get("body", b""))
            if size > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
            if not message.get("more_body", False):
                size = -1
            return message

        return bounded

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        stages = self._house.stages
        try:
            if scope["path"] != "/v1/subscribe":
                raise NotFound(f"there is no WebSocket at {scope['path']}: use /v1/subscribe")
            if stages is None:
                raise Unavailable(STARTING)
            access = _holder(stages, scope)
        except BuswayError as error:
            await _refuse(error, scope, receive, send)
            return
        # uvicorn's send is a coroutine function
        await stages.subscribe(scope, receive, cast("RawSend", send), access)


def _holder(stages: Stages, scope: Scope) -> Access | Unauthorized:
    """Return who subscribes, or why nobody may: pages see close codes, not the status of a handshake."""
    try:
        return stages.gate.admit_subscriber(scope["headers"], scope["query_string"])
    except Unauthorized as refusal:
        return refusal


async def _refuse(error: BuswayError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the handshake itself with the problem (ASGI's Websocket Denial Response)."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.title})
        return

    async def denial(message: Message) -> None:
        await send({**message, "type": message["type"].replace("http.", "websocket.http.", 1)})

    await problems.response(error)({**scope, "type": "http"}, receive, denial)

"""The outermost ASGI application: checks access, then routes each request.

Publishing and subscribing are the hot paths. Our own server calls `publish` and `sockets` directly. Under
another ASGI server, `Front` calls the same endpoints. FastAPI serves everything else.
"""

from __future__ import annotations

import asyncio
import functools
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from busway.gateway.access import origins
from busway.gateway.access.origins import Origins
from busway.gateway.access.pending import settled
from busway.gateway.access.proxies import TrustedProxies
from busway.gateway.access.scopes import Access
from busway.gateway.access.sessions import Use
from busway.gateway.api import problems
from busway.gateway.api.bodies import Disconnected, check_coding, next_message, too_large
from busway.gateway.api.console import PREFIX as CONSOLE
from busway.gateway.api.hooks import PREFIX as HOOKS
from busway.gateway.api.publishing import PublishEndpoint
from busway.gateway.api.sessions import PATH as SESSION
from busway.gateway.api.stages import Gateway, Stages
from busway.gateway.api.subscribing import SubscribeEndpoint
from busway.gateway.door import asgi
from busway.gateway.door.deadlines import Pace, Times
from busway.gateway.errors import STARTING, BuswayError, NotFound, Unauthorized, Unavailable
from busway.gateway.limits import Share
from busway.gateway.subscribers.sse import ask_to_reconnect
from busway.gateway.subscribers.wires import RawSend

BODY_BYTES = 1_048_576  # of a request that carries no event
EVENT_STREAM = "/v1/subscribe/sse"
OF_WORKERS = frozenset({"/healthz", "/readyz", "/metrics"})
PUBLIC = frozenset({"/", "/healthz", "/readyz", "/docs", "/client.js", "/openapi.json", "/asyncapi.json"})


class Front:
    """Checks access and routes requests.

    Args:
        gateway: the gateway that has the running stages.
        rest: the application for everything else.
        max_body_bytes: maximum size of a request body.
        max_frame_bytes: maximum size of a client's WebSocket frame.
        allowed: other origins whose pages may use this gateway.
        proxies: whose headers about the client are believed. The door uses them.
        carries: as for `PublishEndpoint`.
    """

    def __init__(
        self,
        gateway: Gateway,
        rest: ASGIApp,
        max_body_bytes: int,
        max_frame_bytes: int,
        allowed: Origins,
        proxies: TrustedProxies,
        carries: frozenset[bytes] = frozenset(),
    ) -> None:
        self._gateway, self._rest = gateway, rest
        self._max_body_bytes, self._max_frame_bytes = max_body_bytes, max_frame_bytes
        self._allowed, self.proxies = allowed, proxies
        self.publish = PublishEndpoint(gateway, max_body_bytes, allowed, carries)
        self.sockets = SubscribeEndpoint(gateway, max_frame_bytes)
        self.bodies, self.answers = gateway.budgets.bodies, gateway.budgets.answers
        self.limits, self.times = gateway.limits, gateway.times

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            if scope["method"] == "POST" and scope["path"] == self.publish.path:
                await asgi.publish(self.publish, scope, receive, send)
            else:
                await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        stages = scope["busway.stages"] = self._gateway.stages
        origin = self._allowed.allowed(scope["headers"])
        if self._allowed.any:  # caches must not give one origin the answer to another
            send = origins.shared(send, origin)
        if origin is not None:
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
            scope = {**scope, "method": "GET"}  # the server drops the body (RFC 9110, section 9.3.2)
        path = scope["path"]
        public = path in PUBLIC or path.startswith(("/docs/", CONSOLE))
        streams = path == EVENT_STREAM and scope["method"] == "GET"
        if stages is None:
            if streams:
                await ask_to_reconnect(scope, cast("RawSend", send), STARTING)
                return
            if not public:
                raise Unavailable(STARTING)
        share = None if stages is None else await _let_in(stages, scope, streams=streams, public=public)
        check_coding(scope["headers"])
        if share is not None and share.rated:
            send = _showing(send, share)
            if not share.spend():
                await problems.response(share.too_fast())(scope, receive, send)
                return
        if streams and stages is not None:
            await stages.stream(scope, receive, cast("RawSend", send), scope["busway.access"], head=head)
            return
        body = _Body(receive, self._limit(path), share, self.times)
        try:
            await self._rest(scope, body.receive, send)
        finally:
            body.release()

    def _limit(self, path: str) -> int:
        """Return how large the body of a request may be. Tests of handlers and webhooks carry an event."""
        carries = path.endswith("/test") or path.startswith(HOOKS)
        return min(self._max_frame_bytes if carries else BODY_BYTES, self._max_body_bytes)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == self.sockets.path:
            await asgi.subscribe(self.sockets, scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})


def _use(scope: Scope, *, public: bool) -> Use:
    """Return what a request wants. Signing in and out changes nothing that a session has to protect."""
    if scope["method"] in {"GET", "OPTIONS"}:
        return Use.PAGE if public else Use.READ
    return Use.READ if scope["path"] == SESSION else Use.CHANGE


class _Body:
    """The body of a request: its size, its speed, and the memory that its key may have.

    Args:
        receive: the server's.
        limit: the most bytes that it may have.
        share: what the key uses, None if it has no limits.
        times: how long it may take.
    """

    def __init__(self, receive: Receive, limit: int, share: Share | None, times: Times) -> None:
        self._receive, self._limit, self._share, self._times = receive, limit, share, times
        self._pace = Pace(asyncio.get_running_loop().time(), times.body, times.least)
        self._size, self._ended = 0, False

    async def receive(self) -> Message:
        """Receive the next part, then what the server says of the client.

        Raises:
            TooLarge, RequestTimeout, TooManyRequests, Disconnected: it is not received completely.
        """
        if self._ended:
            return await self._receive()
        message = await next_message(self._receive, self._pace, self._times)
        size = len(message.get("body", b""))
        if self._size + size > self._limit:
            raise too_large(self._limit)
        if self._share is not None:
            self._share.check_bytes(size)
            self._share.bytes += size
        self._size += size
        self._ended = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Give its memory back."""
        if self._share is not None:
            self._share.bytes -= self._size


def _showing(send: Send, share: Share) -> Send:
    """Wrap `send` so that responses say how much of the rate is left."""

    @functools.wraps(send)  # code that needs the transport still finds it
    async def send_showing(message: Message) -> None:
        if message["type"] == "http.response.start":
            lines = [line.partition(b": ") for line in share.lines().splitlines()]
            more = [(name, value) for name, _, value in lines]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return send_showing


async def _let_in(stages: Stages, scope: Scope, *, streams: bool, public: bool) -> Share | None:
    """Set the access of a request. Return what its key uses, None if that has no limits.

    Raises:
        Unauthorized, Forbidden, Misdirected: it may not come in.
    """
    if scope["path"].startswith(HOOKS):  # these are admitted by their signature
        return None
    try:
        access = scope["busway.access"] = await _admit(stages, scope, _use(scope, public=public), streams)
    except Unauthorized:
        if not (public or scope["path"] == SESSION):
            raise
        return None
    return stages.limits.of_key(access.key)


async def _admit(stages: Stages, scope: Scope, use: Use, streams: bool) -> Access:
    """Return the access of a request. `streams`: a ticket may replace its key."""
    if not streams:
        return await settled(lambda: stages.gate.admit(scope["headers"], use))
    access = await settled(lambda: stages.gate.admit_subscriber(scope["headers"], scope["query_string"]))
    return await stages.gate.redeem(access) if isinstance(access, str) else access


class HealthFront:
    """What a node with the role `worker` serves: health checks and metrics.

    Args:
        front: serves them.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self.bodies, self.answers, self.proxies = front.bodies, front.answers, front.proxies
        self.limits, self.times = front.limits, front.times

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and scope["path"] not in OF_WORKERS:
            refusal = NotFound(
                f"this node has the role worker and serves only {', '.join(sorted(OF_WORKERS))}: "
                "send this to a node with the role all or gateway"
            )
            await problems.response(refusal)(scope, receive, send)
        else:
            await self._front(scope, receive, send)

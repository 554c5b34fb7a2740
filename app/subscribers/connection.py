"""One WebSocket: a session, its way to the hub, and everything that is sent on it, in order.

While the socket has room, frames go out at once. When it has none, a pump begins: a coroutine that
waits for room, then sends what is to be answered and takes lagging subscriptions through the
log, in turn, until all are at the head again. An idle socket has no pump.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from app.errors import BuswayError, Gone, Unavailable
from app.subscribers.eager import begin
from app.subscribers.hub import Hub
from app.subscribers.ring import Piece
from app.subscribers.session import Open, Session, Shut, Subscription

logger = logging.getLogger("busway.websocket")

STALL = 60.0  # seconds without progress after which a socket is cut
STALL_LOOKS = 12
FAREWELL = 2.0  # seconds that a close frame gets
PUBLISHES = 64  # publishes of one connection under way at once

Frame = dict[str, Any]
RawSend = Callable[[Frame], Coroutine[Any, Any, None]]


class Stalled(Exception):
    """The socket made no progress for `STALL` seconds."""


class Connection:
    """The hub's sink for one socket.

    Args:
        session: its protocol.
        hub: where results come from.
        send: the server's ASGI send; where it is uvicorn's own, its transport tells progress and can be cut.
        key: the number of the key it came with.
    """

    def __init__(self, session: Session, hub: Hub, send: RawSend, key: int | None) -> None:
        self.key = key
        self._session = session
        self._hub = hub
        self._send = send
        self._transport = getattr(getattr(send, "__self__", None), "transport", None)
        self._answers: deque[str] = deque()
        self._lagging: deque[Subscription] = deque()
        self._quiet_since: dict[Subscription, float] = {}
        self._pump: asyncio.Task[None] | None = None
        self._answered: asyncio.Future[None] | None = None
        self._closing: tuple[int, str] | None = None
        self._ended = False
        self._loop = asyncio.get_running_loop()

    async def open(self, effect: Open) -> None:
        """Begin a subscription where it asks to."""
        subscription = effect.subscription
        try:
            start = await self._hub.locate(effect.after)
        except BuswayError as problem:
            return self.answer(self._session.refused(subscription, problem))
        except Exception:
            logger.exception("a subscription cannot begin")
            refusal = Unavailable("the result log cannot be read now: subscribe again later")
            return self.answer(self._session.refused(subscription, refusal))
        text = self._session.opened(subscription, start)
        if text is None or self._ended:
            return None
        self.answer(text)
        self._hub.watch(subscription, self)
        if not self._hub.join(subscription, self):
            self.lag(subscription)
        return None

    def shut(self, effect: Shut) -> None:
        """End a subscription."""
        self._hub.leave(effect.subscription)
        self.answer(effect.text)

    def answer(self, text: str) -> None:
        """Send a frame that answers the client, before any further results."""
        if self._ended or self._closing:
            return
        if self._pump is None and not self._answers:
            self._write(text)
            return
        self._answers.append(text)

    async def room(self) -> None:
        """Wait until all answers went out: who does not read answers is not read from."""
        while self._answers and not self._ended:
            self._answered = self._loop.create_future()
            await self._answered

    def push(self, subscription: Subscription, piece: Piece) -> bool:
        """Send the piece now; False, and nothing is sent, if the socket is not free."""
        if self._pump is not None or self._ended or self._closing:
            return False
        text = self._session.deliver(subscription, piece)
        if text is not None:
            self._write(text)
        return True

    def lag(self, subscription: Subscription) -> None:
        """Take this subscription through the log until it can join the hub again."""
        if self._ended:
            return
        self._lagging.append(subscription)
        self._quiet_since[subscription] = self._loop.time()
        self._start(None)

    def close(self, code: int, reason: str, *, flush: bool) -> None:
        """Close; with `flush` after everything up to the head was sent. Anything else ends at once."""
        if self._ended or (self._closing and flush):
            return
        self._closing = (code, reason)
        if flush:
            self._start(None)
            return
        if self._pump is not None:
            self._pump.cancel()
        self._pump = self._loop.create_task(self._farewell(code, reason))

    def end(self) -> None:
        """Let go of everything: the socket is gone."""
        self._ended = True
        for subscription in self._session.end():
            self._hub.leave(subscription)
        self._hub.exit(self)
        self._quiet_since.clear()
        self._drop()
        if self._pump is not None:
            self._pump.cancel()

    def _write(self, text: str) -> None:
        try:
            rest = begin(self._send_text(text))
        except OSError:
            return  # the socket is gone: the receiving side is told and ends the connection
        if rest is not None:
            self._start(rest)

    async def _send_text(self, text: str) -> None:
        try:
            await self._send({"type": "websocket.send", "text": text})
        except RuntimeError as problem:  # what ASGI servers raise behind a close of their own
            raise ConnectionError("the socket is closed") from problem

    def _start(self, rest: Awaitable[None] | None) -> None:
        if self._pump is None:
            self._pump = self._loop.create_task(self._run(rest))

    async def _run(self, rest: Awaitable[None] | None) -> None:
        try:
            if rest is not None:
                await self._progress(rest)
            while not self._ended:
                if self._answers:
                    await self._put(self._answers.popleft())
                    self._release()
                elif self._lagging:
                    await self._follow(self._lagging.popleft())
                else:
                    break
            self._pump = None
        except Stalled:
            self._closing = (4408, "no progress for 60 s: read faster, and resume at your cursor")
        except OSError:
            self._closing = (1006, "")
            self._drop()
            return
        except Exception:
            logger.exception("a subscriber cannot be served")
            self._closing = (1011, "a fault of the gateway: resume at your cursor")
        if self._closing and not self._ended:
            await self._farewell(*self._closing)

    async def _follow(self, subscription: Subscription) -> None:
        if not subscription.open or self._hub.join(subscription, self):
            self._quiet_since.pop(subscription, None)
            return
        try:
            piece = await self._hub.read(subscription)
        except Gone as problem:
            self._quiet_since.pop(subscription, None)
            self._answers.append(self._session.refused(subscription, problem))
            return
        if not subscription.open:
            return
        self._lagging.append(subscription)
        now = self._loop.time()
        if piece is None:  # its cursor came from a commit that the hub is yet to be told of
            await asyncio.sleep(0.01)
            return
        quiet = now - self._quiet_since[subscription] < 1
        text = self._session.deliver(subscription, piece, quiet=quiet)
        if text is None:
            await asyncio.sleep(0)
            return
        self._quiet_since[subscription] = now
        await self._put(text)

    async def _put(self, text: str) -> None:
        rest = begin(self._send_text(text))
        if rest is not None:
            await self._progress(rest)
        else:
            await asyncio.sleep(0)  # a socket that always has room must not keep the loop

    async def _progress(self, rest: Awaitable[None]) -> None:
        sending = asyncio.ensure_future(rest)
        try:
            left, looks = self._unsent(), 0
            while not (await asyncio.wait({sending}, timeout=STALL / STALL_LOOKS))[0]:
                now_left = self._unsent()
                looks = looks + 1 if now_left >= left else 0
                left = now_left
                if looks >= STALL_LOOKS:
                    raise Stalled
            sending.result()
        finally:
            sending.cancel()

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def _drop(self) -> None:
        self._answers.clear()
        self._lagging.clear()
        self._release()

    async def _farewell(self, code: int, reason: str) -> None:
        self._drop()
        closing = self._send({"type": "websocket.close", "code": code, "reason": reason})
        try:
            await asyncio.wait_for(closing, FAREWELL)
        except (OSError, RuntimeError):
            return  # closed already, or no room: TimeoutError is an OSError
        finally:
            if self._unsent() and self._transport:
                self._transport.abort()

    def _release(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        self._answered = None

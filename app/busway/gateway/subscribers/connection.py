"""One connection: a session, its way to the hub, and everything that is sent on it, in order.

While the socket has buffer space, frames are written at once. Otherwise a pump starts: a coroutine that waits
for space, sends queued answers, and reads the log for lagging subscriptions in turn, until all are at the
head again. An idle socket has no pump.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence

from busway.gateway.access.scopes import Access
from busway.gateway.errors import BadCursor, BuswayError, Gone, Unavailable
from busway.gateway.limits import Share, hits
from busway.gateway.subscribers.durables import superseded
from busway.gateway.subscribers.frames import After
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.ring import Piece
from busway.gateway.subscribers.session import Ack, Open, Pong, Session, Start, Subscription, Unsubscribe
from busway.gateway.subscribers.sinks import Expiry
from busway.gateway.subscribers.wires import Wire, begin

logger = logging.getLogger("busway.websocket")

STALL_CHECKS = 12
CLOSE_TIMEOUT = 2.0  # seconds that a close frame gets
PUBLISHES = 64  # concurrent publishes of one connection


class _Ended(Exception):
    """The connection must close, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.close = (code, reason)


class Connection:
    """The hub's sink for one socket.

    Args:
        session: its protocol state.
        hub: the source of the results.
        wire: sends its text. If `wire.transport` is set, it reports progress and can be aborted.
        access: of the client.
        shares: what its key and its address use, if these have limits.

    Attributes:
        access: as above, or that of the token with which the client went on.
    """

    def __init__(
        self, session: Session, hub: Hub, wire: Wire, access: Access, shares: Sequence[Share] = ()
    ) -> None:
        self.access = access
        self._shares, self._counted = shares, 0
        self._session = session
        self._hub = hub
        self._wire = wire
        self._transport = wire.transport
        self._answers: deque[str] = deque()
        self._lagging: deque[Subscription] = deque()
        self._quiet_since: dict[Subscription, float] = {}
        self._pump: asyncio.Task[None] | None = None
        self._answered: asyncio.Future[None] | None = None
        self._closing: tuple[int, str] | None = None
        self._ended = False
        self._acknowledged = False
        self._loop = asyncio.get_running_loop()
        self._expiry = Expiry(self, hub.durables.clock)  # ends it with its access

    @property
    def idle(self) -> bool:
        """Whether nothing is left to send."""
        return self._pump is None

    async def open(self, effect: Open) -> None:
        """Resolve the start of a subscription, then begin it."""
        subscription = effect.subscription
        try:
            self.check_room(subscription)
            start = await self._locate(subscription, effect.after)
        except BuswayError as problem:
            return self._refuse(subscription, problem)
        except Exception:
            logger.exception("cannot begin a subscription")
            refusal = Unavailable("the result log cannot be read now: subscribe again later")
            return self._refuse(subscription, refusal)
        return self.begin(subscription, start)

    def check_room(self, subscription: Subscription) -> None:
        """Check that there is room for another subscription.

        Raises:
            Unavailable: the selections of all connections take too much memory.
            TooManyRequests: its key or its address has too many subscriptions.
        """
        self._count()
        for share in self._shares:
            share.check_subscriptions()
        self._hub.check_room(subscription.selection)

    def _count(self) -> None:
        count = len(self._session.subscriptions)
        for share in self._shares:
            share.subscriptions += count - self._counted
        self._counted = count

    def begin(self, subscription: Subscription, start: Start) -> None:
        """Begin a subscription at `start`, unless the connection is about to close."""
        if self._closing:  # answers are no longer sent, and `subscribed` must precede the results
            return
        text = self._session.opened(subscription, start)
        if text is None or self._ended:
            return
        self.answer(text)
        self._hub.watch(subscription, self)
        if not self._hub.join(subscription, self):
            self.lag(subscription)

    def unsubscribe(self, effect: Unsubscribe) -> None:
        """End a subscription."""
        self._leave(effect.subscription)
        self._count()
        self.answer(effect.text)

    def acknowledge(self, effect: Ack) -> None:
        """Store an acknowledgement, or send an error."""
        subscription, position = effect.subscription, effect.position
        self._acknowledged = True
        try:
            if self._hub.contradicts(position):
                raise BadCursor("the cursor names another result: acknowledge a cursor that you received")
            self._hub.durables.acknowledge(subscription, subscription.durable or "", position)
        except BuswayError as problem:
            self.unacknowledged(subscription, problem)

    def unacknowledged(self, subscription: Subscription, problem: BuswayError) -> None:
        """Send an error for a refused acknowledgement, unless the subscription has ended."""
        if subscription in self._session:
            self.answer(self._session.unacknowledged(subscription, problem))

    def superseded(self, subscription: Subscription) -> None:
        """End a subscription whose durable name another subscription took over."""
        self._hub.leave(subscription)
        self.answer(self._session.refused(subscription, superseded(subscription.durable or "")))
        self._count()

    async def pong(self, effect: Pong) -> None:
        """Answer a ping after the earlier acknowledgements are stored."""
        if self._acknowledged:
            self._acknowledged = False
            await self._hub.durables.settled()
        self.answer(effect.text)

    def renew(self, ref: str | int | None, access: Access) -> None:
        """Go on with another access of the same client. Subscriptions that it does not cover end."""
        text, ended = self._session.authenticated(ref, access)
        self.access = access
        self._expiry.renewed()
        for subscription, refusal in ended:
            self._leave(subscription)
            self.answer(refusal)
        self.answer(text)

    def answer(self, text: str) -> None:
        """Send an answer to the client, before any further results."""
        if self._ended or self._closing:
            return
        if self._pump is None and not self._answers:
            self._write(text)
            return
        self._answers.append(text)

    async def drain_answers(self) -> None:
        """Wait until all answers are sent: backpressure for clients that do not read them."""
        while self._answers and not self._ended:
            self._answered = self._loop.create_future()
            await self._answered

    def push(self, subscription: Subscription, piece: Piece) -> bool:
        """Send the piece now. Return False, and send nothing, if the socket is busy."""
        if self._pump is not None or self._ended or self._closing:
            return False
        text = self._session.deliver(subscription, piece)
        if text is not None and not self._wire.offer(text):
            self._write(text)
        return True

    def lag(self, subscription: Subscription) -> None:
        """Read the log for this subscription until it can join the hub again."""
        if self._ended:
            return
        self._lagging.append(subscription)
        self._quiet_since[subscription] = self._loop.time()
        self._start(None)

    def close(self, code: int, reason: str, *, flush: bool) -> None:
        """Close. With `flush`, first send everything up to the head; queued answers are dropped otherwise."""
        if self._ended or (self._closing and flush):
            return
        self._closing = (code, reason)
        if flush:
            self._start(None)
            return
        if self._pump is not None:
            self._pump.cancel()
        self._pump = self._loop.create_task(self._send_close(code, reason))

    def end(self) -> None:
        """Release everything. The socket is closed."""
        self._ended = True
        self._expiry.stop()
        for subscription in self._session.end():
            self._leave(subscription)
        self._count()
        self._hub.exit(self)
        self._quiet_since.clear()
        self._drop()
        pump, self._pump = self._pump, None  # the exception that ends it keeps what refers to this connection
        if pump is not None:
            pump.cancel()

    async def _locate(self, subscription: Subscription, after: After) -> Start:
        name = subscription.durable
        if name is None:
            return await self._hub.locate(after)
        durables, epoch, within = self._hub.durables, self._hub.epoch, subscription.selection.within
        if within:
            await durables.check_types(name, within)
        known = await durables.claim(subscription, name, self)
        if known is not None:
            return await self._hub.locate((epoch, known))
        start = await self._hub.locate(after)
        kept = await durables.begin(subscription, name, start.position, self.access)
        return start if kept == start.position else await self._hub.locate((epoch, kept))

    def _refuse(self, subscription: Subscription, problem: BuswayError) -> None:
        self._give_back(subscription)
        if subscription in self._session:
            self.answer(self._session.refused(subscription, problem))
        self._count()

    def _leave(self, subscription: Subscription) -> None:
        self._hub.leave(subscription)
        self._give_back(subscription)

    def _give_back(self, subscription: Subscription) -> None:
        if subscription.durable is not None:
            self._hub.durables.release(subscription, subscription.durable)

    def _write(self, text: str) -> None:
        try:
            rest = begin(self._wire.send(text))
        except OSError:
            return  # the socket is closed: the receiving side notices and ends the connection
        if rest is not None:
            self._start(rest)

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
        except _Ended as end:
            self._closing = end.close
        except OSError:
            self._closing = (1006, "")
            self._drop()
            return
        except Exception:
            logger.exception("cannot serve a subscriber")
            self._closing = (1011, "internal error: connect again with your cursor")
        if self._closing and not self._ended:
            await self._send_close(*self._closing)

    async def _follow(self, subscription: Subscription) -> None:
        if not subscription.open or self._hub.join(subscription, self):
            self._quiet_since.pop(subscription, None)
            return
        try:
            piece = await self._hub.read(subscription)
        except Gone as problem:
            self._give_back(subscription)
            text = self._session.refused(subscription, problem)
            self._count()
            if self._session.single:
                raise _Ended(1013, text) from None
            self._answers.append(text)
            return
        if not subscription.open:
            return
        self._lagging.append(subscription)
        now = self._loop.time()
        if piece is None:  # its cursor is from a commit that the hub has not received yet
            await asyncio.sleep(0.01)
            return
        quiet = now - self._quiet_since[subscription] < 1
        delivery = self._session.deliver(subscription, piece, quiet=quiet)
        if delivery is None:
            await asyncio.sleep(0)
            return
        self._quiet_since[subscription] = now
        await self._put(delivery)
        if self._hub.on_sent is not None and piece.count:
            self._hub.on_sent(piece.items, subscription.durable or subscription.id)

    async def _put(self, text: str) -> None:
        rest = begin(self._wire.send(text))
        if rest is not None:
            await self._progress(rest)
        else:
            await asyncio.sleep(0)  # a socket that always has space must not block the loop

    async def _progress(self, rest: Awaitable[None]) -> None:
        sending = asyncio.ensure_future(rest)
        try:
            left, looks, patience = self._unsent(), 0, self._hub.stall_timeout
            while not (await asyncio.wait({sending}, timeout=patience / STALL_CHECKS))[0]:
                now_left = self._unsent()
                looks = looks + 1 if now_left >= left else 0
                left = now_left
                if looks >= STALL_CHECKS:
                    hits["stalled"] += 1
                    why = f"no progress for {patience:g} s: read faster, connect again with your cursor"
                    raise _Ended(4408, why)
            sending.result()
        except asyncio.CancelledError as problem:
            # From Python 3.14 on, the frame of `asyncio.wait` refers to this task, which keeps the exception.
            problem.__traceback__ = None
            raise
        finally:
            if not sending.cancel() and not sending.cancelled():
                sending.exception()  # nobody waits for it any more

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def _drop(self) -> None:
        self._answers.clear()
        self._lagging.clear()
        self._release()

    async def _send_close(self, code: int, reason: str) -> None:
        self._drop()
        try:
            await asyncio.wait_for(self._wire.close(code, reason), CLOSE_TIMEOUT)
            await asyncio.sleep(0)  # writes that were corked in this iteration are sent
        except (OSError, RuntimeError):
            return  # already closed, or no buffer space: TimeoutError is an OSError
        finally:
            if self._unsent() and self._transport:
                self._transport.abort()

    def _release(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        self._answered = None

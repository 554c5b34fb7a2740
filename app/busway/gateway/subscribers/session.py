"""The subscribe protocol without I/O: one frame of the client in, one effect out. No asyncio, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from busway.contract.frames import (
    AckFrame,
    PublishedFrame,
    SubscribedFrame,
    UnsubscribedFrame,
    UnsubscribeFrame,
)
from busway.domain import cursor
from busway.domain.cursor import Position
from busway.gateway.access.scopes import Access
from busway.gateway.errors import BadCursor, BadRequest, BadSubscription, BuswayError, Forbidden
from busway.gateway.subscribers import frames, stream
from busway.gateway.subscribers.frames import After
from busway.gateway.subscribers.ring import Piece
from busway.gateway.subscribers.selection import Selection, select

MAX_SUBSCRIPTIONS = 1000


class Subscription:
    """An open subscription and its place in the log.

    Everything that it selects up to number `position` was handed over; `sent` is the last number
    whose cursor the client was given. `live`: the hub pushes to it. `durable` names it beyond the connection.
    """

    __slots__ = ("checked", "durable", "id", "live", "open", "position", "selection", "sent")

    def __init__(self, name: str, selection: Selection, durable: str | None = None) -> None:
        self.id = name
        self.selection = selection
        self.durable = durable
        self.position = 0
        self.sent = 0
        self.checked = 0  # what `sent` was when the hub last looked whether to send an empty frame
        self.open = False
        self.live = False


class Start(msgspec.Struct, frozen=True):
    """Where a subscription begins, whether it is where it was asked to, and the oldest place kept."""

    position: Position
    recovered: bool
    oldest: Position


class Send(msgspec.Struct, frozen=True):
    """Send this text frame."""

    text: str


class Open(msgspec.Struct, frozen=True):
    """Find where `after` is, then call `opened` or `refused`."""

    subscription: Subscription
    after: After


class Unsubscribe(msgspec.Struct, frozen=True):
    """Push no more to this subscription, then send the frame."""

    subscription: Subscription
    text: str


class Ack(msgspec.Struct, frozen=True):
    """Keep everything up to `position` as acknowledged; send something only if it is not taken."""

    subscription: Subscription
    position: Position


class Pong(msgspec.Struct, frozen=True):
    """Send this text frame once everything acknowledged before is kept."""

    text: str


class Publish(msgspec.Struct, frozen=True):
    """Store this event (JSON text), then send what `published` or `failed` return."""

    ref: str | int | None
    event: bytes


Effect = Send | Open | Unsubscribe | Ack | Pong | Publish


class Session:
    """One connection: its access and its subscriptions by id, each in order, without gap or repeat."""

    single = False
    """Whether the connection ends with its subscription."""

    def __init__(self, access: Access, epoch: str) -> None:
        self._access = access
        self._epoch = epoch
        self.subscriptions: dict[str, Subscription] = {}

    def __contains__(self, subscription: Subscription) -> bool:
        return self.subscriptions.get(subscription.id) is subscription

    def receive(self, text: str) -> Effect:
        """Take a text frame; whatever is wrong with it becomes an `error` frame."""
        frame: dict[str, Any] = {}
        try:
            frame = frames.read_object(text)
            return self._take(frame, text)
        except BuswayError as problem:
            return Send(frames.error(problem, name=frame.get("id"), ref=frame.get("ref")))

    def binary(self) -> Effect:
        """Take a binary frame: refused."""
        problem = BadRequest("that was a binary frame: send text frames, one JSON object each")
        return Send(frames.error(problem))

    def subscribe(self, fields: Mapping[str, Any]) -> Effect:
        """Open a subscription with the fields of a `subscribe` frame."""
        try:
            return self._subscribe(fields)
        except BuswayError as problem:
            return Send(frames.error(problem, name=fields.get("id")))

    def opened(self, subscription: Subscription, start: Start) -> str | None:
        """Begin a subscription; the frame goes out before its results. None: it was closed meanwhile."""
        if self.subscriptions.get(subscription.id) is not subscription or subscription.open:
            return None
        subscription.open = True
        subscription.position = subscription.sent = start.position.number
        frame = SubscribedFrame(
            id=subscription.id,
            cursor=cursor.encode(self._epoch, start.position),
            recovered=start.recovered,
            oldest=cursor.encode(self._epoch, start.oldest),
        )
        return self._subscribed_text(frame)

    def refused(self, subscription: Subscription, problem: BuswayError) -> str:
        """End a subscription that cannot begin or go on."""
        if self.subscriptions.get(subscription.id) is subscription:
            del self.subscriptions[subscription.id]
        subscription.open = False
        return frames.error(problem, name=subscription.id)

    def unacknowledged(self, subscription: Subscription, problem: BuswayError) -> str:
        """Tell that an acknowledgement was not taken; the subscription goes on."""
        return frames.error(problem, name=subscription.id)

    def deliver(self, subscription: Subscription, piece: Piece, *, quiet: bool = False) -> str | None:
        """Hand over the next piece; None if there is nothing to send because `quiet` keeps empty frames back.

        Raises:
            RuntimeError: the subscription is not open, or the piece does not follow on its place.
        """
        if not subscription.open or piece.after != subscription.position:
            raise RuntimeError(f"piece after {piece.after} for a subscription at {subscription.position}")
        subscription.position = piece.until.number
        if quiet and not piece.count:
            return None
        subscription.sent = piece.until.number
        return self._results_text(subscription, piece)

    def published(self, ref: str | int | None, receipt: Mapping[str, Any]) -> str:
        """Answer a publish with its receipt."""
        return frames.write(PublishedFrame(ref=ref, **receipt))

    def failed(self, ref: str | int | None, problem: BuswayError) -> str:
        """Answer a publish with why it failed."""
        return frames.error(problem, ref=ref)

    def end(self) -> list[Subscription]:
        """Close all subscriptions and return them."""
        ended = list(self.subscriptions.values())
        for subscription in ended:
            subscription.open = False
        self.subscriptions.clear()
        return ended

    def _subscribed_text(self, frame: SubscribedFrame) -> str:
        return frames.write(frame)

    def _results_text(self, subscription: Subscription, piece: Piece) -> str:
        return piece.frame(subscription.id)

    def _take(self, fields: dict[str, Any], text: str) -> Effect:
        if fields.get("op") == "subscribe":
            return self._subscribe(fields)
        if fields.get("op") == "publish":
            return self._publish(fields, text)
        frame = frames.read_frame(fields)
        if isinstance(frame, UnsubscribeFrame):
            return self._unsubscribe(frame.id)
        if isinstance(frame, AckFrame):
            return self._ack(frame)
        return Pong(frames.PONG)

    def _subscribe(self, fields: Mapping[str, Any]) -> Open:
        if not self._access.may("subscribe"):
            raise Forbidden("this key may not subscribe: use one with the scope 'subscribe'")
        frame = frames.read_subscription(fields)
        name = frame.id
        if name in self.subscriptions:
            raise BadSubscription(f"the id {name!r} is in use: choose another or unsubscribe it first")
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            limit = f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions"
            raise frames.TooMany(f"{limit}: unsubscribe one or open another connection")
        self._check_free(frame.durable)
        subscription = Subscription(name, select(frame), frame.durable)
        self.subscriptions[name] = subscription
        return Open(subscription, frames.read_after(frame.after))

    def _check_free(self, durable: str | None) -> None:
        for other in self.subscriptions.values():
            if durable is not None and other.durable == durable:
                raise BadSubscription(
                    f"the durable name {durable!r} is that of {other.id!r} on this connection"
                )

    def _unsubscribe(self, name: str) -> Effect:
        subscription = self._known(name)
        del self.subscriptions[subscription.id]
        subscription.open = False
        return Unsubscribe(subscription, frames.write(UnsubscribedFrame(id=subscription.id)))

    def _ack(self, frame: AckFrame) -> Effect:
        subscription = self._known(frame.id)
        if subscription.durable is None:
            raise BadSubscription(f"{subscription.id!r} is not durable: subscribe with a name in 'durable'")
        position = frames.read_position(frame.cursor, self._epoch)
        if not subscription.open or position.number > subscription.sent:
            raise BadCursor("that cursor is ahead of what this subscription was sent")
        return Ack(subscription, position)

    def _known(self, name: str) -> Subscription:
        subscription = self.subscriptions.get(name)
        if subscription is None:
            raise frames.UnknownSubscription(f"no subscription of this connection has the id {name!r}")
        return subscription

    def _publish(self, frame: dict[str, Any], text: str) -> Effect:
        ref = frames.read_ref(frame)
        if not self._access.may("publish"):
            raise Forbidden("this key may not publish: use one with the scope 'publish'")
        return Publish(ref, frames.read_event(frame, text))


class StreamSession(Session):
    """A connection that is one subscription, opened by its request and told as Server-Sent Events."""

    single = True

    def begin(self, fields: Mapping[str, Any]) -> Open:
        """Open the subscription.

        Raises:
            BadPattern, BadFilter, BadCursor, BadSubscription: a field is not valid.
            Forbidden: the key may not subscribe.
        """
        return self._subscribe(fields)

    def refused(self, subscription: Subscription, problem: BuswayError) -> str:
        """End the subscription; the text is the reason to close with."""
        super().refused(subscription, problem)
        return problem.detail

    def _subscribed_text(self, frame: SubscribedFrame) -> str:
        return stream.subscribed(frame.cursor, recovered=frame.recovered, oldest=frame.oldest)

    def _results_text(self, _: Subscription, piece: Piece) -> str:
        return piece.events()

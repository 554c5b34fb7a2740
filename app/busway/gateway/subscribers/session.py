"""The subscribe protocol without I/O: takes a frame of the client and returns an effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from busway.contract.frames import (
    AckFrame,
    AuthenticatedFrame,
    AuthenticateFrame,
    PublishedFrame,
    SubscribedFrame,
    UnsubscribedFrame,
    UnsubscribeFrame,
)
from busway.domain import cursor, times
from busway.domain.cursor import Position
from busway.gateway.access.scopes import Access
from busway.gateway.errors import BadCursor, BadRequest, BadSubscription, BuswayError, Forbidden
from busway.gateway.subscribers import frames, stream
from busway.gateway.subscribers.frames import After
from busway.gateway.subscribers.ring import Piece
from busway.gateway.subscribers.selection import Selection, select, size

MAX_SUBSCRIPTIONS = 1000
MAX_BYTES = 8 * 1024 * 1024  # memory for the selections of one connection


class Subscription:
    """A subscription and its position in the log.

    Attributes:
        durable: its durable name, or None.
        position: every selected result up to this number was handed over.
        sent: the last number whose cursor was sent to the client.
        checked: the value of `sent` at the last heartbeat of the hub.
        live: whether the hub pushes to it.
        since: when it began, `first`: after which result. Microseconds since 1970.
        live_since: since when the hub pushes to it, if it does.
        size: bytes of memory that its selection takes.
    """

    __slots__ = (
        "checked", "durable", "first", "id", "live", "live_since", "open", "position", "selection", "sent",
        "since", "size",
    )  # fmt: skip

    def __init__(self, name: str, selection: Selection, durable: str | None = None) -> None:
        self.id = name
        self.selection = selection
        self.size = size(selection)
        self.durable = durable
        self.position = 0
        self.sent = 0
        self.checked = 0
        self.first = self.since = self.live_since = 0
        self.open = False
        self.live = False


class Start(msgspec.Struct, frozen=True):
    """Where a subscription begins, whether that is where the client asked, and the oldest position kept."""

    position: Position
    recovered: bool
    oldest: Position


class Send(msgspec.Struct, frozen=True):
    """Send this text frame."""

    text: str


class Open(msgspec.Struct, frozen=True):
    """Resolve `after`, then call `opened` or `refused`."""

    subscription: Subscription
    after: After


class Unsubscribe(msgspec.Struct, frozen=True):
    """Stop pushing to this subscription, then send the frame."""

    subscription: Subscription
    text: str


class Ack(msgspec.Struct, frozen=True):
    """Store the acknowledgement up to `position`. Send a frame only if it is refused."""

    subscription: Subscription
    position: Position


class Pong(msgspec.Struct, frozen=True):
    """Send this text frame after all earlier acknowledgements are stored."""

    text: str


class Publish(msgspec.Struct, frozen=True):
    """Store this event (JSON text), then send the frame that `published` or `failed` returns."""

    ref: str | int | None
    event: bytes


class Authenticate(msgspec.Struct, frozen=True):
    """Check this token, then send the frame that `authenticated` or `failed` returns."""

    ref: str | int | None
    token: str


Effect = Send | Open | Unsubscribe | Ack | Pong | Publish | Authenticate


class Session:
    """The state of one connection: its access and its subscriptions by id.

    Args:
        access: what the client may do.
        epoch: of the log.
        cloudevents: all items are CloudEvents, also if a subscription does not ask for them.
    """

    single = False
    """Whether the connection ends with its subscription."""

    def __init__(self, access: Access, epoch: str, *, cloudevents: bool = False) -> None:
        self._access = access
        self._epoch = epoch
        self._cloudevents = cloudevents
        self.subscriptions: dict[str, Subscription] = {}

    def __contains__(self, subscription: Subscription) -> bool:
        return self.subscriptions.get(subscription.id) is subscription

    def receive(self, text: str) -> Effect:
        """Process a text frame. An invalid frame gives an `error` frame."""
        frame: dict[str, Any] = {}
        try:
            frame = frames.read_object(text)
            return self._take(frame, text)
        except BuswayError as problem:
            return Send(frames.error(problem, name=frame.get("id"), ref=frame.get("ref")))

    def binary(self) -> Effect:
        """Refuse a binary frame."""
        problem = BadRequest("binary frames are not supported: send text frames, one JSON object each")
        return Send(frames.error(problem))

    def subscribe(self, fields: Mapping[str, Any]) -> Effect:
        """Open a subscription with the fields of a `subscribe` frame."""
        try:
            return self._subscribe(fields)
        except BuswayError as problem:
            return Send(frames.error(problem, name=fields.get("id")))

    def opened(self, subscription: Subscription, start: Start) -> str | None:
        """Begin a subscription and return the frame to send before its results. None: it has been closed."""
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
        """End a subscription that cannot begin or continue."""
        if self.subscriptions.get(subscription.id) is subscription:
            del self.subscriptions[subscription.id]
        subscription.open = False
        return frames.error(problem, name=subscription.id)

    def unacknowledged(self, subscription: Subscription, problem: BuswayError) -> str:
        """Return the frame for a refused acknowledgement. The subscription continues."""
        return frames.error(problem, name=subscription.id)

    def deliver(self, subscription: Subscription, piece: Piece, *, quiet: bool = False) -> str | None:
        """Hand over the next piece and return its text. With `quiet`, return None for an empty piece.

        Raises:
            RuntimeError: the subscription is not open, or the piece does not follow its position.
        """
        if not subscription.open or piece.after != subscription.position:
            raise RuntimeError(f"piece after {piece.after} for a subscription at {subscription.position}")
        subscription.position = piece.until.number
        if quiet and not piece.count:
            return None
        subscription.sent = piece.until.number
        return self._results_text(subscription, piece)

    def published(self, ref: str | int | None, receipt: Mapping[str, Any]) -> str:
        """Return the answer to a publish: its receipt."""
        return frames.write(PublishedFrame(ref=ref, **receipt))

    def failed(self, ref: str | int | None, problem: BuswayError) -> str:
        """Return the answer to a failed publish."""
        return frames.error(problem, ref=ref)

    def authenticated(
        self, ref: str | int | None, access: Access
    ) -> tuple[str, list[tuple[Subscription, str]]]:
        """Go on with another access of the same client.

        Returns:
            the answer, and each subscription that ends because the access does not cover it, with the frame
            that says so.
        """
        self._access = access
        ended = [each for each in self.subscriptions.values() if not _covers(access, each.selection.within)]
        problem = Forbidden("the new token does not allow all of this subscription: subscribe again")
        refusals = [(each, self.refused(each, problem)) for each in ended]
        expires_at = None if access.until is None else times.to_text(access.until)
        return frames.write(AuthenticatedFrame(ref=ref, expires_at=expires_at)), refusals

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
        if isinstance(frame, AuthenticateFrame):
            return Authenticate(frames.echo(frame.ref), frame.token)
        return Pong(frames.PONG)

    def _subscribe(self, fields: Mapping[str, Any]) -> Open:
        if not self._access.may("subscribe"):
            raise Forbidden("this API key may not subscribe: use one with the scope 'subscribe'")
        frame = frames.read_subscription(fields)
        name = frame.id
        if name in self.subscriptions:
            raise BadSubscription(f"the id {name!r} is in use: use another id or unsubscribe it first")
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            limit = f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions"
            raise frames.TooMany(f"{limit}: unsubscribe one or open another connection")
        self._check_free(frame.durable)
        cloudevents, within = self._cloudevents or frame.format is not None, self._access.types
        selection = select(frame, cloudevents=cloudevents, within=within)
        subscription = Subscription(name, selection, frame.durable)
        taken = sum(other.size for other in self.subscriptions.values())
        if taken and taken + subscription.size > MAX_BYTES:
            raise frames.TooMany(
                "the subscriptions of this connection have too many types, names and comparisons of filters: "
                "unsubscribe one or open another connection"
            )
        self.subscriptions[name] = subscription
        return Open(subscription, frames.read_after(frame.after))

    def _check_free(self, durable: str | None) -> None:
        for other in self.subscriptions.values():
            if durable is not None and other.durable == durable:
                raise BadSubscription(
                    f"the subscription {other.id!r} of this connection uses the durable name {durable!r}: "
                    "use another one"
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
            raise BadCursor(
                "the cursor is ahead of the results sent to this subscription: acknowledge a received one"
            )
        return Ack(subscription, position)

    def _known(self, name: str) -> Subscription:
        subscription = self.subscriptions.get(name)
        if subscription is None:
            raise frames.UnknownSubscription(f"this connection has no subscription with the id {name!r}")
        return subscription

    def _publish(self, frame: dict[str, Any], text: str) -> Effect:
        ref = frames.read_ref(frame)
        if not self._access.may("publish"):
            raise Forbidden("this API key may not publish: use one with the scope 'publish'")
        return Publish(ref, frames.read_event(frame, text))


def _covers(access: Access, within: tuple[str, ...]) -> bool:
    """Return whether a subscription within these type patterns, or all types, may go on with an access."""
    return access.may("subscribe") and (not access.types or (bool(within) and {*within} <= {*access.types}))


class StreamSession(Session):
    """A connection with one subscription, which its request opens. It is sent as Server-Sent Events."""

    single = True

    def begin(self, fields: Mapping[str, Any]) -> Open:
        """Open the subscription.

        Raises:
            BadPattern, BadFilter, BadCursor, BadSubscription: a field is invalid.
            Forbidden: the key may not subscribe.
        """
        return self._subscribe(fields)

    def refused(self, subscription: Subscription, problem: BuswayError) -> str:
        """End the subscription and return the reason to close with."""
        super().refused(subscription, problem)
        return problem.detail

    def _subscribed_text(self, frame: SubscribedFrame) -> str:
        return stream.subscribed(frame.cursor, recovered=frame.recovered, oldest=frame.oldest)

    def _results_text(self, _: Subscription, piece: Piece) -> str:
        return piece.events()

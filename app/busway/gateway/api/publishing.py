"""POST /v1/events, the hot path: only the door is between the socket and ingest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from busway.contract.events import ReceiptList
from busway.domain.event import NewEvent
from busway.domain.pattern import Matcher
from busway.gateway.access import gate
from busway.gateway.access.gate import check_scope
from busway.gateway.access.origins import Origins, sharing
from busway.gateway.access.pending import KeysPending
from busway.gateway.api import asking, uploading
from busway.gateway.api.bodies import check_coding, too_large
from busway.gateway.api.stages import Gateway, Stages
from busway.gateway.api.uploading import UploadIntake
from busway.gateway.door.cycle import late_body
from busway.gateway.door.port import Answer, Head, Hurry, Intake, Respond, header_line, problem
from busway.gateway.errors import STARTING, BuswayError, Unavailable
from busway.gateway.ingest.codecs.choosing import choose
from busway.gateway.ingest.codecs.plain import PLAIN
from busway.gateway.ingest.publisher import receipt
from busway.gateway.limits import Share
from busway.gateway.store.port.once import Once
from busway.gateway.store.port.operations import StoredEvent

log = logging.getLogger("busway.api")

_LOOKS_AT = (
    frozenset({b"content-type", b"content-encoding", b"ce-specversion"})
    | gate.ADMISSION_HEADERS
    | uploading.HEADERS
)

_encode = msgspec.json.Encoder().encode


class _Admitted:
    """What `admit` found out about a head. Heads that agree in everything that matters share one.

    Attributes:
        codec: reads the body.
        allowed: which event types the key may publish. None: all.
        edition: of the keys. None: the next request is checked again.
        until: when the key or token expires, in microseconds since 1970. None: never.
        pending: the key that signed the token is being read: the head is admitted when that has ended.
        rated: what the key uses, if its requests are limited. None: they are not.
    """

    __slots__ = ("allowed", "codec", "edition", "pending", "rated", "until")

    def __init__(self) -> None:
        self.codec = PLAIN
        self.allowed: Matcher | None = None
        self.edition: object = None
        self.until: int | None = None
        self.pending: KeysPending | None = None
        self.rated: Share | None = None


class _Waiter(msgspec.Struct, eq=False):
    """A request that waits for the commit of its events. `many`: the body is an array."""

    endpoint: PublishEndpoint
    head: Head
    respond: Respond
    events: list[NewEvent] = []
    many: bool = False

    def accepted(self, events: list[NewEvent], many: bool) -> None:
        """Keep the events for the receipts."""
        self.events, self.many = events, many

    def done(self) -> bool:
        """Never done: a disconnected client gets no response."""
        return False

    def set_result(self, stored: list[StoredEvent]) -> None:
        """Answer with the receipts."""
        events = self.events
        if self.many:
            body = _encode(ReceiptList(list(map(receipt, events, stored))))
        else:
            body = _encode(receipt(events[0], stored[0]))
        lines = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        self.respond(self.endpoint.answer(self.head, 202, lines, body, len(events) if self.many else 1))

    def set_exception(self, fault: BaseException) -> None:
        """Answer with an error."""
        self.endpoint.refuse(self.head, self.respond, fault)


class PublishEndpoint:
    """Stores events. An `Endpoint` of the door.

    Args:
        gateway: the gateway that has the running stages.
        max_body_bytes: maximum size of a request body.
        allowed: other origins whose pages may use this gateway.
        carries: other headers that it reads and that may differ from request to request.
    """

    path = "/v1/events"
    looks_at = _LOOKS_AT

    def __init__(
        self,
        gateway: Gateway,
        max_body_bytes: int,
        allowed: Origins,
        carries: frozenset[bytes] = frozenset(),
    ) -> None:
        self.asks, self.carries = asking.HEADERS, asking.HEADERS | carries
        self._gateway, self.max_body, self._allowed = gateway, max_body_bytes, allowed
        self._taking: set[asyncio.Task[None]] = set()
        self.idle, self.least = gateway.times.body, gateway.times.least

    def admit(self, head: Head) -> Answer | None:
        """Refuse a request that may not publish, or has unsupported headers."""
        stages = self._gateway.stages
        if stages is None:
            return self._refusal(head, Unavailable(STARTING))
        admission = stages.gate
        admitted: Any = head.admitted
        if admitted is None:
            admitted = head.admitted = _Admitted()
        elif admitted.edition is admission.edition and (
            admitted.until is None or admission.clock() < admitted.until
        ):
            rated = admitted.rated
            return None if rated is None or rated.spend() else self._refusal(head, rated.too_fast())
        try:
            access = admission.admit(head.headers)
            head.share = share = stages.limits.of_key(access.key)
            if share is not None and not share.spend():
                raise share.too_fast()  # noqa: TRY301 - as the other reasons
            check_scope(access, "publish")
            codec = stages.choose_codec(head.headers)
            if codec is None:
                asking.check_upload(head.headers)
                uploading.producer(head.headers)
            check_coding(head.headers)
            admitted.pending = None
        except KeysPending as fault:
            return self._admit_later(head, admitted, fault)
        except Exception as fault:
            head.admitted = None  # so that the door does not remember it
            return self._refusal(head, fault)
        if codec is None:
            head.streams, head.admitted = True, None
            return None
        admitted.codec, admitted.allowed = codec, access.allowed
        admitted.rated = share if share is not None and share.rated else None
        admitted.edition, admitted.until = admission.edition, access.until
        return None

    def _admit_later(self, head: Head, admitted: _Admitted, pending: KeysPending) -> Answer | None:
        """Admit a head once its body is there. Not that of NDJSON: its body may have no end."""
        if choose(head.headers) is None:
            head.admitted = None
            return self._refusal(head, pending)
        admitted.pending, admitted.edition = pending, None
        return None

    def take(self, head: Head, body: bytes, respond: Respond) -> Hurry | None:
        """Store the events of a body, then answer with their receipts."""
        stages = self._gateway.stages
        if stages is None:
            self.refuse(head, respond, Unavailable(STARTING))
            return None
        if head.asks is None:
            head.asks = any(name in self.asks for name, _ in head.headers)
        admitted: Any = head.admitted
        try:
            if admitted is None:  # another request with this head was refused while this body arrived
                return self._take_again(head, body, respond, None)
            if admitted.pending is not None:
                self._take_later(admitted.pending, head, body, respond)
                return None
            if head.asks:
                return self._ask(stages, head, body, respond)
            codec, allowed = admitted.codec, admitted.allowed
            waiter = _Waiter(self, head, respond)
            stages.publisher.submit(body, waiter, None, codec, head.headers, allowed)
        except Exception as fault:
            self.refuse(head, respond, fault)
        return None

    def _take_again(
        self, head: Head, body: bytes, respond: Respond, waited: KeysPending | None
    ) -> Hurry | None:
        """Admit a head again, and take the body if it may be. `waited`: for what that was done before."""
        alone = Head(head.headers)
        answer = self.admit(alone)
        admitted: Any = alone.admitted
        if answer is None and waited is not None and admitted.pending is not None:
            answer = self._refusal(alone, waited)
        if answer is None:
            return self.take(alone, body, respond)
        respond(answer)
        return None

    def _take_later(self, pending: KeysPending, head: Head, body: bytes, respond: Respond) -> None:
        """Take a body once the key that signed the token of its head has been read."""

        async def take() -> None:
            await pending.wait()
            self._take_again(head, body, respond, pending)

        taking = asyncio.ensure_future(take())
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)

    def _ask(self, stages: Stages, head: Head, body: bytes, respond: Respond) -> Hurry:
        """Store the events of a request that asks for more than their receipts."""

        def answer(status: int, lines: bytes, body: bytes) -> None:
            lines += b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            respond(self.answer(head, status, lines, body))

        access = stages.gate.admit(head.headers)
        key = asking.read_key(head.headers)
        wait = asking.read_wait(head.headers, access)
        waiter = asking.Asking(stages, wait, answer, partial(self.refuse, head, respond), access)
        admitted: Any = head.admitted
        if key is None:
            stages.publisher.submit(body, waiter, None, admitted.codec, head.headers, access.allowed)
        else:
            once = Once(owner=access.key or 0, key=key, now=stages.clock(), most=asking.MOST_KEYS)
            stages.publisher.submit_once(body, waiter, once, admitted.codec, head.headers, access.allowed)
        return waiter.hurry

    def open(self, head: Head, respond: Respond, unread: Callable[[int], None]) -> Intake:
        """Store the events of NDJSON as its lines arrive."""
        stages: Any = self._gateway.stages
        return UploadIntake(stages, head, partial(self.answer, head), respond, unread)

    def too_large(self, head: Head) -> Answer:
        """Refuse a body over the limit."""
        return self._refusal(head, too_large(self.max_body))

    def too_slow(self, head: Head) -> Answer:
        """Refuse a body that did not come in time."""
        return self._refusal(head, late_body(self._gateway.times))

    def refuse(self, head: Head, respond: Respond, fault: BaseException) -> None:
        """Answer with an error."""
        respond(self._refusal(head, fault))

    def _refusal(self, head: Head, fault: BaseException) -> Answer:
        if not isinstance(fault, BuswayError):
            log.error("publishing failed", exc_info=fault)
            fault = BuswayError("internal error: publishing failed, see the gateway's log")
        found = problem(fault)
        return self.answer(head, found.status, found.lines, found.body)

    def answer(self, head: Head, status: int, lines: bytes, body: bytes, counts: int = 1) -> Answer:
        """Build an answer. Pages of allowed origins get CORS headers.

        `counts`: as how many requests its request counts.
        """
        origin = self._allowed.allowed(head.headers)
        if origin is not None:
            lines += b"".join(map(header_line, sharing(origin)))
        share = head.share
        if share is not None:
            if counts > 1:
                share.charge(counts - 1)
            lines += share.lines()
        return Answer(status, lines, body, counts)

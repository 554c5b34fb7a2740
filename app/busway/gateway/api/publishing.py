"""POST /v1/events, the hot path: only the door is between the socket and ingest."""

from __future__ import annotations

import logging

import msgspec

from busway.contract.events import ReceiptList
from busway.domain.event import NewEvent
from busway.gateway.access import gate
from busway.gateway.access.gate import check_scope
from busway.gateway.access.origins import Origins, sharing
from busway.gateway.api.bodies import IDLE, too_large, too_slow
from busway.gateway.api.stages import Gateway
from busway.gateway.door.port import Answer, Head, Headers, Respond, header_line, problem
from busway.gateway.errors import STARTING, BadRequest, BuswayError, Unavailable, UnsupportedMediaType
from busway.gateway.ingest.publisher import receipt
from busway.gateway.store.port.operations import StoredEvent

log = logging.getLogger("busway.api")

_JSON = b"application/json"
_REFUSED = {
    b"idempotency-key": "Idempotency-Key is not supported yet: set the event's `id` to avoid duplicates",
    b"prefer": "Prefer is not supported yet: subscribe to the results at /v1/subscribe",
}

_LOOKS_AT = (
    frozenset(_REFUSED) | {b"content-type", b"content-encoding", b"ce-specversion"} | gate.ADMISSION_HEADERS
)

_encode = msgspec.json.Encoder().encode


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
        self.respond(self.endpoint.answer(self.head, 202, lines, body))

    def set_exception(self, fault: BaseException) -> None:
        """Answer with an error."""
        self.endpoint.refuse(self.head, self.respond, fault)


class PublishEndpoint:
    """Stores events. An `Endpoint` of the door.

    Args:
        gateway: the gateway that has the running stages.
        max_body_bytes: maximum size of a request body.
        allowed: other origins whose pages may use this gateway.
    """

    path = "/v1/events"
    looks_at = _LOOKS_AT
    idle = IDLE

    def __init__(self, gateway: Gateway, max_body_bytes: int, allowed: Origins) -> None:
        self._gateway, self.max_body, self._allowed = gateway, max_body_bytes, allowed

    def admit(self, head: Head) -> Answer | None:
        """Refuse a request that may not publish, or has unsupported headers."""
        stages = self._gateway.stages
        if stages is None:
            return self._refusal(head, Unavailable(STARTING))
        admission = stages.gate
        if head.admitted is admission.edition:
            return None
        try:
            access = check_scope(admission.admit(head.headers), "publish")
            _check_headers(head.headers)
        except Exception as fault:
            return self._refusal(head, fault)
        if admission.lasts(access):
            head.admitted = admission.edition
        return None

    def take(self, head: Head, body: bytes, respond: Respond) -> None:
        """Store the events of a body, then answer with their receipts."""
        stages = self._gateway.stages
        if stages is None:
            self.refuse(head, respond, Unavailable(STARTING))
            return
        waiter = _Waiter(self, head, respond)
        try:
            stages.publisher.submit(body, waiter)
        except Exception as fault:
            self.refuse(head, respond, fault)

    def too_large(self, head: Head) -> Answer:
        """Refuse a body over the limit."""
        return self._refusal(head, too_large(self.max_body))

    def too_slow(self, head: Head) -> Answer:
        """Refuse a body that paused for too long."""
        return self._refusal(head, too_slow())

    def refuse(self, head: Head, respond: Respond, fault: BaseException) -> None:
        """Answer with an error."""
        respond(self._refusal(head, fault))

    def _refusal(self, head: Head, fault: BaseException) -> Answer:
        if not isinstance(fault, BuswayError):
            log.error("publishing failed", exc_info=fault)
            fault = BuswayError("internal error: publishing failed, see the gateway's log")
        found = problem(fault)
        return self.answer(head, found.status, found.lines, found.body)

    def answer(self, head: Head, status: int, lines: bytes, body: bytes) -> Answer:
        """Build an answer. Pages of allowed origins get CORS headers."""
        origin = self._allowed.allowed(head.headers)
        if origin is not None:
            lines += b"".join(map(header_line, sharing(origin)))
        return Answer(status, lines, body)


def _check_headers(headers: Headers) -> None:
    media_type = b""
    for name, value in headers:
        if name == b"content-type":
            media_type = value
        elif name == b"ce-specversion":
            raise UnsupportedMediaType("CloudEvents binary mode is not supported yet: send application/json")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType(
                "compressed bodies are not supported: send it without Content-Encoding"
            )
        elif name in _REFUSED:
            raise BadRequest(_REFUSED[name])
    if media_type != _JSON and media_type.partition(b";")[0].strip().lower() != _JSON:
        shown = media_type.decode("latin-1") or "no Content-Type"
        raise UnsupportedMediaType(f"send Content-Type: application/json, not {shown}")

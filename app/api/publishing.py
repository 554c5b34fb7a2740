"""POST /v1/events: the hot path, with nothing between the socket and ingest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from app.api import problems
from app.api.access import check_scope
from app.api.bodies import IDLE, too_large, too_slow
from app.api.direct import Answer, Headers, Respond
from app.api.origins import Origins, sharing
from app.api.stages import Stages
from app.errors import STARTING, BadRequest, BuswayError, Unavailable, UnsupportedMediaType
from app.ingest.publisher import EventReceipt, Submission

log = logging.getLogger("busway.api")

_JSON = b"application/json"
_REFUSED = {
    b"idempotency-key": "Idempotency-Key is not built yet: give the event an id, a second one is a duplicate",
    b"prefer": "Prefer is not built yet: subscribe to the results at /v1/subscribe",
}

_encode = msgspec.json.Encoder().encode


class Items(msgspec.Struct):
    """The answer to an array of events."""

    items: list[EventReceipt]


class PublishEndpoint:
    """Takes events, as a `Direct` of the HTTP protocol.

    Args:
        stages: returns the running stages, None while the gateway starts.
        max_body_bytes: the most bytes of one request body.
        allowed: whose pages may use this gateway beside its own.
    """

    path = "/v1/events"
    idle = IDLE

    def __init__(self, stages: Callable[[], Stages | None], max_body_bytes: int, allowed: Origins) -> None:
        self._stages, self.max_body, self._allowed = stages, max_body_bytes, allowed

    def admit(self, headers: Headers) -> Answer | None:
        """Answer who may not publish here, or not like this."""
        try:
            check_scope(self._open().gate.admit(headers), "publish")
            _check_headers(headers)
        except Exception as problem:
            return self._refusal(headers, problem)
        return None

    def take(self, headers: Headers, body: bytes, respond: Respond) -> None:
        """Store the events of a body, then answer with their receipts."""
        try:
            submission = self._open().publisher.submit(body)
        except Exception as problem:
            respond(self._refusal(headers, problem))
            return
        submission.stored.add_done_callback(partial(self._stored, headers, submission, respond))

    def too_large(self, headers: Headers) -> Answer:
        """Refuse a body over the limit."""
        return self._refusal(headers, too_large(self.max_body))

    def too_slow(self, headers: Headers) -> Answer:
        """Refuse a body that stands still."""
        return self._refusal(headers, too_slow())

    def _open(self) -> Stages:
        stages = self._stages()
        if stages is None:
            raise Unavailable(STARTING)
        return stages

    def _stored(
        self, headers: Headers, submission: Submission, respond: Respond, stored: asyncio.Future[Any]
    ) -> None:
        problem = stored.exception()
        if problem is not None:
            respond(self._refusal(headers, problem))
            return
        receipts = submission.receipts()
        body = _encode(Items(receipts) if submission.many else receipts[0])
        respond(self._answer(headers, 202, [(b"content-type", _JSON), _length(body)], body))

    def _refusal(self, headers: Headers, problem: BaseException) -> Answer:
        if not isinstance(problem, BuswayError):
            log.error("publishing failed", exc_info=problem)
            problem = BuswayError("publishing failed: the gateway's log says why")
        told = problems.response(problem)
        return self._answer(headers, told.status_code, told.raw_headers, bytes(told.body))

    def _answer(self, headers: Headers, status: int, own: Headers, body: bytes) -> Answer:
        origin = self._allowed.allowed(headers)
        return Answer(status, own if origin is None else [*own, *sharing(origin)], body)


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


def _check_headers(headers: Headers) -> None:
    media_type = b""
    for name, value in headers:
        if name == b"content-type":
            media_type = value
        elif name == b"ce-specversion":
            raise UnsupportedMediaType("CloudEvents binary mode is not built yet: send application/json")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("bodies are taken as they are: send it without Content-Encoding")
        elif name in _REFUSED:
            raise BadRequest(_REFUSED[name])
    if media_type != _JSON and media_type.partition(b";")[0].strip().lower() != _JSON:
        shown = media_type.decode("latin-1") or "no Content-Type"
        raise UnsupportedMediaType(f"send Content-Type: application/json, not {shown}")

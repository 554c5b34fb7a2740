"""NDJSON at POST /v1/events: headers and answers of an upload, which `ingest/upload.py` carries out."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial

import msgspec

from busway.contract.uploads import PRODUCER_ID, UploadResult
from busway.gateway.access.gate import check_scope
from busway.gateway.api.stages import Stages
from busway.gateway.api.uploads import stored_id
from busway.gateway.door.port import Answer, Head, Headers, Respond, problem
from busway.gateway.errors import BadRequest, BuswayError, Conflict, RequestTimeout, Unavailable
from busway.gateway.ingest.upload import Parts, Upload
from busway.gateway.limits import pace, part_of

log = logging.getLogger("busway.api")

ID, SEQ = b"producer-id", b"producer-seq"
HEADERS = frozenset({ID, SEQ})
_ID = re.compile(PRODUCER_ID.encode())
_SEQ = re.compile(rb"[0-9]{1,15}")
_OF_OTHERS = {b"idempotency-key": "Idempotency-Key", b"prefer": "Prefer"}
_encode = msgspec.json.Encoder().encode
Finish = Callable[[int, bytes, bytes], Answer]
"""Makes an answer of status, header lines and body."""


def producer(headers: Headers) -> tuple[str | None, int]:
    """Return the producer id of an upload, and the number of its first line.

    Raises:
        BadRequest: the headers are malformed, or for other bodies.
    """
    for name, _ in headers:
        if name in _OF_OTHERS:
            raise BadRequest(f"{_OF_OTHERS[name]} is not for NDJSON: send a Producer-Id, and send it again")
    found = [(name, value) for name, value in headers if name in HEADERS]
    given = dict(found)
    if len(given) < len(found):
        raise BadRequest("Producer-Id or Producer-Seq appears twice: send each once")
    id_, seq = given.get(ID), given.get(SEQ, b"0")
    if id_ is None:
        if SEQ in given:
            raise BadRequest("Producer-Seq needs a Producer-Id: send both, or none")
        return None, 0
    if not _ID.fullmatch(id_):
        raise BadRequest("Producer-Id must have 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', '~' and '-'")
    if not _SEQ.fullmatch(seq):
        raise BadRequest("Producer-Seq must be the number of the first line, counted from 0")
    return id_.decode(), int(seq)


class UploadIntake:
    """The body of one upload. An `Intake` of the door.

    Args:
        stages: of the gateway.
        head: of the request.
        finish: makes answers.
        respond: sends the answer.
        unread: as for `Upload`.
    """

    least = 0
    counted = True

    def __init__(
        self,
        stages: Stages,
        head: Head,
        finish: Finish,
        respond: Respond,
        unread: Callable[[int], None],
    ) -> None:
        self._finish, self._respond = finish, respond
        self.idle = stages.times.upload
        headers, shares = head.headers, [share for share in (head.share, head.address) if share is not None]
        self._producer, first = producer(headers)
        access = stages.gate.admit(headers)
        stored = None if self._producer is None else stored_id(access, self._producer)
        parts = Parts(
            stages.publisher,
            stages.commits,
            stages.reader,
            stages.registry,
            stages.clock,
            stages.settings.max_event_bytes,
            part_of(stages.bodies, head.share),
            lambda: check_scope(stages.gate.admit(headers), "publish"),
            access.allowed,
            partial(pace, shares),
        )
        self._upload = Upload(parts, stored, first, unread, self._done)
        self.add, self.whole, self.disconnect = self._upload.add, self._upload.end, self._upload.abandon

    def too_slow(self) -> Answer:
        """Return the answer for an upload that stood still."""
        self._upload.abandon()
        late = RequestTimeout(f"no data of the upload arrived for {self.idle:g} s: send what is left")
        return self._answer(self._upload.result, late)

    def end_with_response(self) -> None:
        """End the upload: the server stops."""
        self._upload.fail(Unavailable("the gateway is stopping: try again after its restart"))

    def _done(self, result: UploadResult, fault: BaseException | None) -> None:
        self._respond(self._answer(result, fault))

    def _answer(self, result: UploadResult, fault: BaseException | None) -> Answer:
        lines = b"producer-seq: %d\r\n" % result.lines if self._producer is not None else b""
        if fault is None:
            body = _encode(result)
            lines += b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            return self._finish(202, lines, body)
        if not isinstance(fault, BuswayError):
            log.error("an upload failed", exc_info=fault)
            fault = BuswayError("internal error: the upload failed, see the gateway's log")
        if not isinstance(fault, Conflict):  # that says where to go on
            again = "send it again with this Producer-Id" if self._producer else "send the others again"
            fault.detail = f"{fault.detail}; {result.lines} lines are taken: {again}"
        found = problem(fault, result)
        return self._finish(found.status, lines + found.lines, found.body)

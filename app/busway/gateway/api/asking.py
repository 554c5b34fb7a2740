"""What a publisher may ask for by headers: `Idempotency-Key`, and `Prefer: wait` for the results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from busway.contract.events import EventOutcome, PendingReceipt, Receipt, ReceiptList
from busway.domain import cursor
from busway.domain.event import NewEvent
from busway.gateway.access.scopes import Access
from busway.gateway.api.stages import Stages
from busway.gateway.errors import BadRequest, BuswayError, Unavailable
from busway.gateway.ingest.idempotency import other_request
from busway.gateway.ingest.publisher import receipt
from busway.gateway.store.port.once import NotStored
from busway.gateway.store.port.operations import StoredEvent
from busway.gateway.store.port.reader import Outcomes
from busway.gateway.subscribers.encoding import encode_item
from busway.gateway.subscribers.waits import Wait

IDEMPOTENCY_KEY, PREFER = b"idempotency-key", b"prefer"
HEADERS = frozenset({IDEMPOTENCY_KEY, PREFER})
MOST_KEYS = 10_000_000  # idempotency keys of one API key in 24 hours
LONGEST_WAIT = 60  # seconds
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_PREFERENCE = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_WAIT = re.compile(rb'\s*wait\s*=\s*("?)([0-9]{1,9})\1\s*(?:;.*)?', re.IGNORECASE | re.DOTALL)
_NAME = re.compile(rb"\s*([^\s=;]*)")

encode = msgspec.json.Encoder().encode
Headers = Iterable[tuple[bytes, bytes]]
Respond = Callable[[int, bytes, bytes], None]
"""Sends an answer: its status, its own header lines, and its body, which is JSON."""
Refuse = Callable[[BaseException], None]


def read_key(headers: Headers) -> str | None:
    """Return the idempotency key of a request, None if it has none.

    Raises:
        BadRequest: it is malformed, or there are several.
    """
    found = [value for name, value in headers if name == IDEMPOTENCY_KEY]
    if not found:
        return None
    if len(found) > 1 or not _KEY.fullmatch(found[0]):
        raise BadRequest(
            "Idempotency-Key must be 1 to 255 visible ASCII characters, and be sent once: send a UUID"
        )
    return found[0].decode()


def check_upload(headers: Headers) -> None:
    """Check that an upload of NDJSON has no idempotency key.

    Raises:
        BadRequest: it has one.
    """
    if any(name == IDEMPOTENCY_KEY for name, _ in headers):
        raise BadRequest(
            "Idempotency-Key does not apply to NDJSON, which has no limit: send Producer-Id and Producer-Seq"
        )


def read_wait(headers: Headers, access: Access) -> int | None:
    """Return the seconds that a request prefers to wait (RFC 7240), None if it does not or may not.

    Preferences that are unknown or malformed are ignored. So is this one without the scope for results.
    """
    if not access.may("subscribe"):
        return None
    for value in (value for name, value in headers if name == PREFER):
        for preference in _PREFERENCE.findall(value):
            name = _NAME.match(preference)
            if name is not None and name[1].lower() == b"wait":  # the first one counts
                found = _WAIT.fullmatch(preference)
                return None if found is None else min(int(found[2]), LONGEST_WAIT)
    return None


class Asking:
    """A publication that asks for more than a receipt. It receives the reply of the store.

    Args:
        stages: the running gateway.
        wait: seconds that the publisher waits for results, None if it does not.
        respond: sends the answer.
        refuse: sends an error.
        access: of the request.
    """

    __slots__ = (
        "_access", "_events", "_hurried", "_latest", "_many", "_refuse", "_respond", "_stages", "_wait",
        "_waiting",
    )  # fmt: skip

    def __init__(
        self, stages: Stages, wait: int | None, respond: Respond, refuse: Refuse, access: Access
    ) -> None:
        self._access = access
        self._stages, self._wait, self._respond, self._refuse = stages, wait, respond, refuse
        self._latest = stages.hub.latest  # all results of a new event come after it
        self._events: list[NewEvent] = []
        self._many = self._hurried = False
        self._waiting: Wait | None = None

    def accepted(self, events: list[NewEvent], many: bool) -> None:
        """Keep the events for the receipts."""
        self._events, self._many = events, many

    def done(self) -> bool:
        """Never done: a disconnected client gets no response."""
        return False

    def set_result(self, stored: list[StoredEvent] | NotStored) -> None:
        """Answer with the receipts, or wait for the results."""
        events, self._events = self._events, []
        if isinstance(stored, list):
            receipts = list(map(receipt, events, stored))
        elif stored.receipts is not None:
            receipts = [Receipt(*kept) for kept in stored.receipts]
        else:
            self._refuse(_refusal(stored))
            return
        if self._many:
            self._respond(202, b"", encode(ReceiptList(receipts)))
        elif self._wait is None:
            self._respond(202, b"", encode(receipts[0]))
        else:
            fresh = isinstance(stored, list) and not receipts[0].duplicate
            self._begin(receipts[0], self._wait, fresh=fresh)

    def set_exception(self, fault: BaseException) -> None:
        """Answer with an error."""
        self._refuse(fault)

    def hurry(self) -> None:
        """The client sends no more, or is gone: answer as soon as the event is stored."""
        self._hurried = True
        if self._waiting is not None:
            self._waiting.finish()

    def _begin(self, one: Receipt, seconds: int, *, fresh: bool) -> None:
        applied = b"preference-applied: wait=%d\r\n" % seconds
        stages = self._stages

        def ended(found: Outcomes | None) -> None:
            # A duplicate may have the (source, id) of an event whose type the key may not read. And the key
            # may have been revoked meanwhile.
            visible = found is not None and all(self._access.sees(each.event.type) for each in found.results)
            if found is None or not (visible and stages.gate.holds(self._access)):
                at = cursor.encode(stages.hub.epoch, self._latest)
                self._respond(202, applied, encode(PendingReceipt(**msgspec.structs.asdict(one), cursor=at)))
                return
            items = [msgspec.Raw(encode_item(result, stages.hub.epoch)) for result in found.results]
            outcome = EventOutcome(one, items, found.truncated or msgspec.UNSET)  # type: ignore[arg-type]
            self._respond(200, applied, encode(outcome))
            if stages.hub.on_sent is not None:
                stages.hub.on_sent([bytes(item) for item in items], None)

        runs = one.runs if fresh else None
        self._waiting = stages.waits.events.begin(one.seq, runs, 0 if self._hurried else seconds, ended)


def _refusal(refused: NotStored) -> BuswayError:
    if not refused.full:
        return other_request()
    return Unavailable(
        f"this API key has sent {MOST_KEYS} Idempotency-Keys in 24 hours: send no more of them, but set the "
        "`id` of each event",
        retry_after=3600,
    )

"""Check what children send. Handler code may have written it, or changed what the child's code uses."""

from __future__ import annotations

import msgspec

from busway.domain.handler import check_fields
from busway.gateway.executors.port import Partial
from busway.gateway.executors.python.host.attempt import SentAttempt
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.protocol import FromWorker, Loaded

_SMALL = 1024  # bytes of frames without values
_SLACK = 64 * 1024  # bytes around a value
_REPORTS = 2 * 1024 * 1024  # bytes of logs, errors and small values in one frame
_PARTIALS = 1024  # partials that are not stored yet, more than a worker sends without credit
_DECLARED = {"name", "target", "events"}
_PARTIAL, _ENDED = int(FromWorker.PARTIAL), int(FromWorker.ENDED)

INVALID = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no such frame."""


class ProtocolError(Exception):
    """The worker sent what no worker sends in this state."""


class FrameLimits(msgspec.Struct, frozen=True):
    """The largest bodies of frames, in bytes."""

    partial: int
    ended: int

    def of(self, kind: int, *, running: bool) -> int:
        """Return the limit for a kind of frame. `running`: the worker has attempts."""
        if running and kind == _ENDED:
            return self.ended
        return self.partial if running and kind == _PARTIAL else _SMALL


def frame_limits(max_result_bytes: int, max_event_bytes: int) -> FrameLimits:
    """Return the limits that follow from those of values."""
    published = wire.published_limit(max_result_bytes, max_event_bytes)
    return FrameLimits(max_result_bytes + _SLACK, max_result_bytes + published + _REPORTS)


def partial(attempt: SentAttempt, body: bytes) -> Partial:
    """Return the report of a partial.

    Raises:
        ProtocolError: it is not the next one, or the worker sent too many that are not stored yet.
    """
    piece = wire.decode_piece(body)
    if piece.index != attempt.received:
        raise ProtocolError(f"partial {piece.index} followed {attempt.received} partials")
    attempt.received += 1
    if attempt.received - attempt.credited > _PARTIALS:
        raise ProtocolError(f"{_PARTIALS} partials are not stored yet, and another one came")
    return Partial(
        token=attempt.assignment.token,
        index=piece.index,
        data=piece.data,
        binary=piece.binary,
        time=piece.time,
    )


def loaded(body: bytes) -> Loaded:
    """Return what the zygote says of the handlers folder.

    Raises:
        ValueError, MsgspecError: it is invalid.
    """
    found = wire.decode_loaded(body)
    for declaration in (declaration for file in found.files for declaration in file.declarations):
        if not declaration.fields.keys() >= _DECLARED or declaration.fields["name"] != declaration.name:
            raise ValueError(f"the declaration of {declaration.name!r} lacks fields")
        check_fields(declaration.fields)
    return found


def unstarted(attempt: SentAttempt) -> None:
    """Check that the worker may report that it did not start an attempt.

    Raises:
        ProtocolError: it had to start it.
    """
    if not (attempt.cancelled or attempt.recall_requested or attempt.given_up):
        raise ProtocolError("an attempt was skipped that was neither cancelled nor taken back")

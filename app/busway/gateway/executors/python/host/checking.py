"""Check what children send. Handler code may have written it, or changed what the child's code uses."""

from __future__ import annotations

import msgspec

from busway.domain.handler import check_fields
from busway.domain.run import Error, Outcome
from busway.domain.text import is_json
from busway.gateway.executors.port import Ended, Partial
from busway.gateway.executors.python.host.attempt import Clocks, SentAttempt
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.protocol import FromWorker, Loaded

_SMALL = 1024  # bytes of frames without values
_SLACK = 64 * 1024  # bytes around a value
_REPORTS = 2 * 1024 * 1024  # bytes of logs, errors and small values in one frame
_PARTIALS = 1024  # partials that are not stored yet, more than a worker sends without credit
_DECLARED = {"name", "target", "events"}
_ERROR = 128 * 1024  # characters of an error's texts; a worker cuts them earlier
_SKEW = 1_000_000  # microseconds by which the clock may change without being noticed
_NULL = b"null"  # the value of most handlers
_NO_ATTRIBUTES = {"type", "data", "data_base64", "specversion"}
_NOT_ITS_BUSINESS = "an attempt is said to be lost, cancelled or lingering: only the gateway knows that"
_SUCCEEDED, _FAILED = Outcome.SUCCEEDED, Outcome.FAILED  # enum members are slow to look up
_PARTIAL, _ENDED = int(FromWorker.PARTIAL), int(FromWorker.ENDED)

INVALID = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no such frame."""


class ProtocolError(Exception):
    """The worker sent what no worker sends in this state."""


class FrameLimits(msgspec.Struct, frozen=True):
    """The largest value of an attempt, and the largest bodies of frames, in bytes."""

    value: int
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
    return FrameLimits(max_result_bytes, max_result_bytes + _SLACK, max_result_bytes + published + _REPORTS)


def partial(attempt: SentAttempt, body: bytes, now: Clocks, limits: FrameLimits) -> Partial:
    """Return the report of a partial.

    Raises:
        ProtocolError: it is not the next one, is not JSON, or too many are not stored yet.
    """
    piece = wire.decode_piece(body)
    if piece.index != attempt.received:
        raise ProtocolError(f"partial {piece.index} followed {attempt.received} partials")
    attempt.received += 1
    if attempt.received - attempt.credited > _PARTIALS:
        raise ProtocolError(f"{_PARTIALS} partials are not stored yet, and another one came")
    if (fault := _fault_of_value(piece.data, piece.binary, limits)) is not None:
        raise ProtocolError(f"partial {piece.index} {fault}")
    since_sent = (now.mono - attempt.sent_at) // 1000 + _SKEW
    time = piece.time if -_SKEW <= now.wall - piece.time <= since_sent else now.wall
    return Partial(
        token=attempt.assignment.token, index=piece.index, data=piece.data, binary=piece.binary, time=time
    )


def ended(report: Ended, attempt: SentAttempt, now: Clocks, worker: int | None, limits: FrameLimits) -> None:
    """Turn the report of an attempt into one that the gateway accepts.

    Times and durations that cannot be true are corrected. A value that cannot be stored fails the attempt.

    Raises:
        ProtocolError: a worker does not report this.
    """
    outcome = report.outcome
    since_sent = (now.mono - attempt.sent_at) // 1000
    wall = now.wall
    if (
        not 0 <= wall - report.finished_at <= wall - report.started_at <= since_sent
        or report.wall_time * 1e6 > since_sent
    ):
        _correct(report, since_sent, wall)
    if worker is not None:  # the report may arrive before the zygote's
        report.worker = worker
    if attempt.peak:
        report.peak_memory = max(report.peak_memory or 0, attempt.peak)
    if report.lingers or report.alone or report.keeps:
        raise ProtocolError(_NOT_ITS_BUSINESS)
    if outcome is _SUCCEEDED:
        if (report.data != _NULL or report.published) and (fault := _fault_of(report, limits)) is not None:
            _refuse(report, fault)
    elif outcome is not _FAILED:
        raise ProtocolError(_NOT_ITS_BUSINESS)
    elif report.error is not None:
        report.error = _shortened(report.error)


def _correct(report: Ended, since_sent: int, now: int) -> None:
    """Correct times that handler code or a jump of the clock has spoilt. Times in microseconds."""
    report.wall_time = min(report.wall_time, since_sent / 1e6)
    report.starved = min(report.starved, report.wall_time)
    if report.cpu_time is not None:
        report.cpu_time = min(report.cpu_time, report.wall_time)
    if not 0 <= now - report.finished_at <= since_sent:  # otherwise a retry would wait for another time
        report.finished_at = now
    report.started_at = max(report.finished_at - round(report.wall_time * 1e6), now - since_sent)


def _refuse(report: Ended, fault: str) -> None:
    """Let an attempt fail because its values cannot be stored."""
    report.outcome, report.data, report.binary, report.published = Outcome.FAILED, None, False, []
    report.error = Error("InvalidReport", f"the worker reported what cannot be stored: {fault}")


def _fault_of_value(data: bytes, binary: bool, limits: FrameLimits) -> str | None:
    """Return why a value cannot be stored, None if it can."""
    if len(data) > limits.value:
        return f"has {len(data)} bytes, allowed are {limits.value}"
    return None if binary or is_json(data) else "is not JSON"


def _fault_of(report: Ended, limits: FrameLimits) -> str | None:
    """Return why the values of an attempt cannot be stored, None if they can."""
    if report.data is not None:
        fault = _fault_of_value(report.data, report.binary, limits)
        if fault is not None:
            return f"the final value {fault}"
    for event in report.published:
        if not event.attributes.keys().isdisjoint(_NO_ATTRIBUTES):
            return f"an event of type {event.type[:255]!r} has its data in an attribute"
        if event.data is not None and not event.binary and not is_json(event.data):
            return f"the data of an event of type {event.type[:255]!r} is not JSON"
    return None


def _shortened(error: Error) -> Error:
    if len(error.type) + len(error.message) + len(error.traceback or "") <= _ERROR:
        return error
    trace = None if error.traceback is None else error.traceback[:_ERROR]
    return Error(error.type[:_ERROR], error.message[:_ERROR], trace)


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

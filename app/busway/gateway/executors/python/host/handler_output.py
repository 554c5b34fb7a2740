"""Show the output of handlers in the gateway's log as it comes.

Handlers that write nothing cost nothing, because the gateway checks the shared page anyway. Nothing waits for
the log: lines over the limit are left out and counted. The attempt always keeps its output.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from busway.domain.trace import named_trace
from busway.gateway.executors.port import Assignment
from busway.gateway.executors.python.host.attempt import SentAttempt
from busway.gateway.log_limit import OUTPUT, LinesOfHandlers

logger = logging.getLogger(OUTPUT)

_EACH, _TOGETHER = 100, 500  # lines a second
_LINE = 4096  # bytes of a line that are shown
_OF_LOGGING = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_LEVELS = logging.getLevelNamesMapping()


class HandlerOutput:
    """Writes the lines of all attempts to the log, with handler, run and attempt."""

    def __init__(self) -> None:
        self._lines = LinesOfHandlers(_EACH, _TOGETHER, _say_left_out)

    def look(self, attempts: Iterable[SentAttempt]) -> None:
        """Show what running attempts have written since the last look."""
        for attempt in attempts:
            if attempt.started():
                self._look(attempt)

    def _look(self, attempt: SentAttempt) -> None:
        written, shown = attempt.page.size_printed(attempt.seat), attempt.shown
        if written != shown:
            attempt.shown = written
            if written > shown:  # otherwise handler code has changed the page
                self._show(attempt, attempt.page.printed_between(attempt.seat, shown, written))

    def ended(self, attempt: SentAttempt, log: str | None) -> None:
        """Show what has not been shown of an attempt that ended. `log`: all its output, None if unknown."""
        raw = b"" if log is None else log.encode()
        if attempt.shown < len(raw):
            self._show(attempt, raw[attempt.shown :])
            attempt.shown = len(raw)
        else:
            self._look(attempt)
        if attempt.unfinished:
            self._show(attempt, b"\n")

    def all_ended(self, attempts: Iterable[SentAttempt]) -> None:
        """Show what has not been shown of attempts that ended without a report of their own."""
        for attempt in attempts:
            if attempt.started():
                self.ended(attempt, None)

    def _show(self, attempt: SentAttempt, raw: bytes) -> None:
        handler = attempt.assignment.handler
        whole, end, attempt.unfinished = (attempt.unfinished + raw).rpartition(b"\n")
        if len(attempt.unfinished) > _LINE:
            whole, end, attempt.unfinished = whole + end + attempt.unfinished, b"\n", b""
        if not end:
            return
        free = max(0, self._lines.free(handler))
        lines = whole.split(b"\n", free)
        if len(lines) > free:
            self._lines.leave_out(handler, lines.pop().count(b"\n") + 1)
        self._lines.passed(handler, len(lines))
        level = logging.INFO
        for line in lines:
            level = _write(attempt.assignment, line, level)


def _write(assignment: Assignment, raw: bytes, before: int) -> int:
    """Log a line of output. Return its level; `before` is that of the line before it."""
    # What a terminal would show of a progress bar that overwrites itself.
    line = raw[:_LINE].decode(errors="backslashreplace").rstrip("\r").rpartition("\r")[2]
    if form := _OF_LOGGING.match(line):
        level = _LEVELS[form[1]]
    else:  # an indented line belongs to the record before it
        level = before if line.startswith("    ") else logging.INFO
    if logger.isEnabledFor(level):
        logger.log(level, "%s", line, extra=_fields(assignment))
    return level


def _fields(assignment: Assignment) -> dict[str, str | int]:
    event = assignment.event
    fields: dict[str, str | int] = {
        "handler": assignment.handler,
        "run": assignment.run,
        "attempt": assignment.attempt,
        "seq": event.seq,
        "type": event.type,
        "event_id": event.id,
    }
    traced = named_trace(event.attributes)
    return fields if traced is None else {**fields, "trace_id": traced}


def _say_left_out(handler: str, lines: int) -> None:
    logger.warning(
        "… %d lines of output were left out: the run has them, up to 64 KiB",
        lines,
        extra={"handler": handler, "run": None, "left_out": lines},
    )

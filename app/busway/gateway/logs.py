"""Logs on standard error: readable text on a terminal, JSON lines otherwise."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import sys
import sysconfig
import time
from datetime import UTC, datetime
from typing import Any

from busway.gateway import log_limit, streams
from busway.gateway.errors import BuswayError

log = logging.getLogger("busway")

_FIELDS = (
    "handler", "run", "attempt", "max_attempts", "outcome", "state", "next_attempt_in", "seq", "type",
    "event_id", "trace_id", "error", "traceback", "output", "left_out", "action", "object", "actor",
    "address",
)  # fmt: skip
_EARLY = 1000  # records before the format is known


def hold() -> None:
    """Keep log records until `configure` says how they look. Call it once."""
    handler = logging.handlers.MemoryHandler(_EARLY, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logging.getLogger().handlers = [handler]


def configure(form: str = "auto", level: str = "info") -> None:
    """Write logs to standard error, first those that were held.

    Args:
        form: `auto` is `text` on a terminal and `json` otherwise.
        level: the least level of the gateway's own records and of what handlers write.
    """
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    text = terminal if form == "auto" else form == "text"
    colors = terminal and not os.environ.get("NO_COLOR")
    handler.setFormatter(TextFormatter(colors=colors) if text else JsonFormatter())
    handler.addFilter(log_limit.limit)
    handler.addFilter(_explained)
    root, ours = logging.getLogger(), logging.getLogger("busway")
    held = root.handlers
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    ours.setLevel(level.upper())
    logging.captureWarnings(True)
    for early in held:
        if isinstance(early, logging.handlers.MemoryHandler):
            for record in early.buffer:
                if record.levelno >= logging.getLogger(record.name).getEffectiveLevel():
                    root.handle(record)
    queue = streams.log()
    if queue is not None:
        queue.report = _report


def _explained(record: logging.LogRecord) -> bool:
    """Replace the traceback of an error that says what is wrong, such as a database that is away."""
    problem = record.exc_info and record.exc_info[1]
    if isinstance(problem, BuswayError):
        record.msg, record.args = f"{record.getMessage()}: {problem.detail}", ()
        record.exc_info = None
    return True


def _report(dropped: int) -> None:
    log.warning("%d log lines were dropped: standard error was not read, or could not be written", dropped)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `event` (the message), `level`, `logger`, `timestamp` and more by its kind."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON, without a line end."""
        given = vars(record)
        line: dict[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        line |= {name: given[name] for name in _FIELDS if name in given}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        known = {name: _encodable(value) for name, value in line.items()}
        return json.dumps(known, separators=(",", ":"))  # in ASCII: standard error may have any encoding


def _encodable(value: Any) -> Any:
    """Return a value without lone surrogates, which many programs that read JSON refuse."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


_COLORS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}
_INDENT = "    "
_FIRST, _LAST = 15, 45  # lines of a long record


class TextFormatter(logging.Formatter):
    """Lines for people: time, level and message, then the traceback, indented.

    Args:
        colors: the level is colored.
    """

    def __init__(self, *, colors: bool) -> None:
        super().__init__()
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, without control characters and without a line end."""
        message = record.getMessage()
        handler: str | None = vars(record).get("handler")
        if record.name == log_limit.OUTPUT:
            run = vars(record)["run"]
            where = handler if run is None else f"{handler} run {run}" if run else f"{handler} test"
            message = f"{where} | {message.removeprefix(f'{record.levelname} ')}"
        level = f"{record.levelname:<7}"
        if self._colors and record.levelname in _COLORS:
            level = f"\x1b[{_COLORS[record.levelname]}m{level}\x1b[0m"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        first, *more = plain(message).split("\n")
        for below in (
            vars(record).get("traceback"),
            record.exc_info and self.formatException(record.exc_info),
        ):
            if below:
                more += plain(collapsed(below)).rstrip("\n").split("\n")
        if len(more) > _FIRST + _LAST:
            more[_FIRST:-_LAST] = [f"… {len(more) - _FIRST - _LAST} lines …"]
        return "\n".join([f"{when} {level} {first}", *(_INDENT + line for line in more)])


_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colors, movements of the cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # the window's title, links
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Return text that changes nothing on a terminal but to appear there. Lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], _SEQUENCES.sub("", text))


_FRAME = re.compile(r'  File "(.+)", line \d+')
_PACKAGE = re.compile(r"/(?:site|dist)-packages/([^/\"]+)")
_STANDARD = tuple({sysconfig.get_path("stdlib") + "/", sysconfig.get_path("platstdlib") + "/"})
_KEPT = 2  # frames of libraries one after another that are shown


def collapsed(trace: str) -> str:
    """Return a traceback in which many frames of libraries one after another are one line.

    The last frame of a traceback stays: it says where the exception was raised.
    """
    done: list[str] = []
    frames: list[tuple[str, list[str]]] = []  # of libraries: the name of the library, and the lines of each

    def finish(*, last: bool) -> None:
        hidden = frames[: len(frames) - last] if len(frames) > _KEPT else []
        if hidden:
            names = ", ".join(dict.fromkeys(name for name, _ in hidden))
            done.append(f"  … {len(hidden)} frames of {names} …")
        for _, lines in frames[len(hidden) :]:
            done.extend(lines)
        frames.clear()

    inside = False
    for line in trace.split("\n"):
        if frame := _FRAME.match(line):
            inside = (library := _library(frame[1])) is not None
            if library is not None:
                frames.append((library, [line]))
                continue
            finish(last=False)
        elif inside and line.startswith("  "):
            frames[-1][1].append(line)
            continue
        elif frames:
            finish(last=True)
            inside = False
        done.append(line)
    finish(last=True)
    return "\n".join(done)


def _library(path: str) -> str | None:
    if found := _PACKAGE.search(path):
        return found[1].removesuffix(".py")
    return "Python's library" if path.startswith(_STANDARD) else None

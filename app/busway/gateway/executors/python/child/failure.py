"""Convert an exception of user code to an `Error`, whatever its class and its attributes do.

Attributes of such an object may raise, lie or be of any type. So they are read as Python itself stores them,
past properties and metaclasses, and what has to call user code is guarded.
"""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path
from types import TracebackType

from busway.domain.classes import class_name, stored
from busway.domain.jsonvalue import NotEncodable
from busway.domain.run import Error
from busway.gateway.executors.python.child import confining, masking
from busway.handlers import Fail, Retry
from busway.payloads import InvalidData

_OURS = (str(Path(__file__).parents[4]) + os.sep, "<frozen ")
_IMPORTLIB = str(Path("importlib") / "__init__.py")
_MESSAGE_LIMIT = 8 * 1024
_TRACEBACK_LIMIT = 64 * 1024
_EDGE = 8 * 1024  # characters
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})

_traceback_of = stored(BaseException, "__traceback__")
_cause_of = stored(BaseException, "__cause__")
_errno_of = stored(OSError, "errno")


def describe(problem: BaseException) -> Error:
    """Return an exception as an `Error`: type name, message, and traceback of the user's frames."""
    name = clean(class_name(type(problem)))
    try:
        if issubclass(type(problem), MemoryError):
            traceback.clear_frames(_traceback_of(problem))  # their variables hold the memory
        return Error(name, _message(problem), _traceback(problem))
    except BaseException:  # memory or stack ran out here, too
        return Error(name, "<it cannot be described>")


def summary(problem: BaseException) -> str:
    """Return the type and message of an exception in one line."""
    error = describe(problem)
    return f"{error.type}: {error.message}"


def delay_of(problem: BaseException) -> float | None:
    """Return the delay in seconds that an exception requests, None if it is no valid `Retry` with a delay."""
    if not issubclass(type(problem), Retry):
        return None
    try:
        return Retry(problem.after).after  # type: ignore[attr-defined] # mypy does not narrow by the class
    except BaseException:  # handler code replaced it with an invalid value
        return None


def is_final(problem: BaseException) -> bool:
    """Return whether no later attempt can succeed: the handler said so, or a value is invalid."""
    return issubclass(type(problem), (Fail, InvalidData, NotEncodable))


def is_exhaustion(problem: BaseException) -> bool:
    """Return whether an exception says that the process has no file descriptors left."""
    if not issubclass(type(problem), OSError):
        return False
    number = _errno_of(problem)
    return type(number) is int and number in _NO_DESCRIPTORS


def clean(text: str, limit: int = _MESSAGE_LIMIT) -> str:
    """Return text that can be encoded as UTF-8, shortened in the middle if it is longer than `limit`."""
    text = str.__str__(text)  # a subclass may have methods of its own
    left_out, half = len(text) - limit, limit // 2
    if left_out > 0:  # before it is copied, because it may be huge
        # A secret at the cut is masked as a whole before the rest is cut off.
        start, end = (
            masking.masked(text[: half + _EDGE])[:half],
            masking.masked(text[-half - _EDGE :])[-half:],
        )
        text = f"{start}\n… {left_out} characters left out …\n{end}"
    return masking.masked(text).encode("utf-8", "backslashreplace").decode()


def _message(problem: BaseException) -> str:
    try:
        text = clean(str(problem))
        number = _errno_of(problem) if issubclass(type(problem), OSError) else None
        return text + confining.cause(number, text, _traceback_of(problem))
    except BaseException as worse:
        return f"<its __str__ raised {clean(class_name(type(worse)))}>"


def _traceback(problem: BaseException) -> str | None:
    frames = _frames(problem)
    try:
        if frames is None and _cause_of(problem) is None and not issubclass(type(problem), SyntaxError):
            return None
        described = traceback.TracebackException(type(problem), problem, frames, compact=True)
        _leave_ours_out(described)
        return clean("".join(described.format()), _TRACEBACK_LIMIT)
    except BaseException as worse:
        lines = _plain_lines(problem, frames, worse)
    return clean("".join(lines), _TRACEBACK_LIMIT)


def _plain_lines(problem: BaseException, frames: TracebackType | None, worse: BaseException) -> list[str]:
    """Format the exception with as few calls of its methods as possible.

    Python 3.15 imports modules again to suggest names, which fails as the first import did.
    """
    last = f"{class_name(type(problem))}: {_message(problem)}\n"
    try:
        above = ["Traceback (most recent call last):\n", *traceback.format_tb(frames)]
    except BaseException:
        above = [f"<the traceback cannot be formatted: {class_name(type(worse))}>\n"]
    return [*above, last, *_notes(problem)]


def _notes(problem: BaseException) -> list[str]:
    try:
        return [f"{note}\n" for note in getattr(problem, "__notes__", ())]
    except BaseException:
        return []


def _leave_ours_out(described: traceback.TracebackException | None) -> None:
    """Remove our frames, and those of Python's import, from an exception and from what caused it."""
    waiting, seen = [described], set[int]()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.stack[:] = [frame for frame in each.stack if not _is_ours(frame.filename)]
        waiting += [each.__cause__, each.__context__, *(each.exceptions or ())]


def _frames(problem: BaseException) -> TracebackType | None:
    frames: TracebackType | None = _traceback_of(problem)
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS) or filename.endswith(_IMPORTLIB)

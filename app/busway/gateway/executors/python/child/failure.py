"""Convert an exception of user code to an `Error`, even if its methods raise."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from busway.domain.run import Error

_OURS = (str(Path(__file__).parents[1]), "<frozen importlib", "<frozen runpy")
_IMPORTLIB = str(Path("importlib") / "__init__.py")
_MESSAGE_LIMIT = 8 * 1024
_TRACEBACK_LIMIT = 64 * 1024


def describe(problem: BaseException) -> Error:
    """Return an exception as an `Error`: type name, message, and traceback of the user's frames."""
    return Error(clean(type(problem).__name__), _message(problem), _traceback(problem))


def clean(text: str, limit: int = _MESSAGE_LIMIT) -> str:
    """Return text that can be encoded as UTF-8, shortened in the middle if it is longer than `limit`."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n… {len(text) - limit} characters left out …\n{text[-limit // 2 :]}"


def _message(problem: BaseException) -> str:
    try:
        return clean(str(problem))
    except BaseException as worse:
        return f"<its __str__ raised {type(worse).__name__}>"


def _traceback(problem: BaseException) -> str | None:
    frames = _strip(problem.__traceback__)
    try:
        if frames is None and not isinstance(problem, SyntaxError):
            return None
        lines = traceback.format_exception(type(problem), problem, frames)
    except BaseException as worse:
        lines = _plain_lines(problem, frames, worse)
    return clean("".join(lines), _TRACEBACK_LIMIT)


def _plain_lines(problem: BaseException, frames: TracebackType | None, worse: BaseException) -> list[str]:
    """Format the exception without calling its methods.

    Python 3.15 imports modules again to suggest names, which fails as the first import did.
    """
    try:
        notes = [f"{note}\n" for note in getattr(problem, "__notes__", ())]
        last = f"{type(problem).__name__}: {_message(problem)}\n"
        return ["Traceback (most recent call last):\n", *traceback.format_tb(frames), last, *notes]
    except BaseException:
        return [f"<the traceback cannot be formatted: {type(worse).__name__}>"]


def _strip(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS) or filename.endswith(_IMPORTLIB)

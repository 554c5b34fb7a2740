"""Read what faulthandler wrote about a worker: the stack that belongs to one attempt."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

_OURS = (str(Path(__file__).parent), "<frozen importlib", '"<string>"')
_CURRENT = re.compile(r"^Current thread .*$", re.MULTILINE)
_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]+)", re.MULTILINE)
_MOST = 16 * 1024


def of_thread(dump: str, thread: int) -> str | None:
    """Return the user frames of a thread in a dump, None if there are none.

    Args:
        dump: as faulthandler wrote it; the newest dump is the last.
        thread: its ident.
    """
    starts = [*_THREAD.finditer(dump)]
    ends = [start.start() for start in starts[1:]] + [len(dump)]
    found = None
    for start, end in zip(starts, ends, strict=False):
        if int(start[1], 16) == thread:
            found = dump[start.start() : end]
    return None if found is None else _user_frames(found)


def newest(dump: str) -> str | None:
    """Return the user frames of the thread that was running when the newest dump was written."""
    starts = [*_CURRENT.finditer(dump)]
    return _user_frames(dump[starts[-1].end() :].partition("\n\n")[0]) if starts else None


def _user_frames(stack: str) -> str | None:
    # The innermost frames may be ours (ctx.progress), then come the user's, then what called them.
    frames = [line for line in stack.splitlines() if line.startswith("  ")]
    own = itertools.takewhile(_is_theirs, itertools.dropwhile(lambda line: not _is_theirs(line), frames))
    lines = list(own)
    if not lines:
        return None
    return "\n".join(["Python stack (most recent call first):", *lines])[:_MOST]


def _is_theirs(line: str) -> bool:
    return not any(ours in line for ours in _OURS)

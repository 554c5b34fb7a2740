"""Get the Python stacks of a child: on a signal, faulthandler writes them to the child's page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from busway.gateway.executors.python.wire.slots import Page

_LOOK = 0.015  # seconds between two checks
_TIMEOUT = 2.0  # seconds; a stopped child writes nothing


def when_written(
    loop: asyncio.AbstractEventLoop, page: Page, ask: Callable[[], None], then: Callable[[], None]
) -> None:
    """Call `ask`, which signals the child, then call `then` when the stacks are written or the time is over.

    If they are broken off, ask again. The page may be closed when `then` is called.
    """
    page.make_room()
    before = page.dump_size()
    end = loop.time() + _TIMEOUT

    def look(seen: int) -> None:
        nonlocal before
        size = before if page.closed else page.dump_size()
        written = size == seen and size > before
        if page.closed or loop.time() >= end or (written and not page.broken_off(before)):
            then()
            return
        if written:
            before = size
            ask()
        loop.call_later(_LOOK, look, size)

    ask()
    loop.call_later(_LOOK, look, before)

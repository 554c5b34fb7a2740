"""Stacks of a child: faulthandler writes them into its page when it gets a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from busway.gateway.executors.python.wire.slots import Page

_LOOK = 0.015  # seconds between two looks at what is written
_PATIENCE = 2.0  # seconds that it may take; a stopped child writes nothing


def when_written(
    loop: asyncio.AbstractEventLoop, page: Page, ask: Callable[[], None], then: Callable[[], None]
) -> None:
    """Call `ask`, which signals the child, and `then` when its stacks are written or take too long.

    `then` may come after the page was closed.
    """
    before = page.dump_size()
    end = loop.time() + _PATIENCE

    def look(seen: int) -> None:
        size = before if page.closed else page.dump_size()
        if page.closed or (size == seen and size > before) or loop.time() >= end:
            then()
        else:
            loop.call_later(_LOOK, look, size)

    ask()
    loop.call_later(_LOOK, look, before)

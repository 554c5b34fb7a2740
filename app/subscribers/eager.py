"""Run a coroutine at once as far as it goes without waiting, and only then hand it to a task.

A send to a socket that has room never waits, so that pushing a result to a thousand sockets takes
no task and no turn of the loop for any of them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any


def begin(coroutine: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Run `coroutine` until it waits; return what is left of it, None if it ended.

    Raises:
        Whatever it raised.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return _rest(coroutine, awaited)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    while True:
        step: Callable[[], Any]
        try:
            step = functools.partial(coroutine.send, (yield awaited))
        except BaseException as problem:
            step = functools.partial(coroutine.throw, problem)
        try:
            awaited = step()
        except StopIteration:
            return

"""Work of the API that takes long and is done once, so that no request holds the event loop with it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Scope

from busway.gateway.errors import BuswayError

Value = TypeVar("Value")
_SWITCH_WITHIN = 0.0005  # seconds that the event loop waits for the interpreter while something is prepared
_NOWHERE = "/v1/nowhere"


class Prepared(Generic[Value]):
    """A value that is made in a thread when the first request wants it, and kept.

    Args:
        make: makes it. It is called by one thread at a time, and again only if it raised.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._made: list[Value] = []

    async def get(self) -> Value:
        """Return the value."""
        if not self._made:
            await asyncio.to_thread(self._prepare)
        return self._made[0]

    def _prepare(self) -> None:
        # One lock for all: however many clients ask at the same time, one thread computes beside the loop.
        with _preparing:
            if self._made:
                return
            # With the usual 5 ms, the loop would wait so long at each of its turns.
            usual = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_WITHIN)
            try:
                self._made.append(self._make())
            finally:
                sys.setswitchinterval(usual)


_preparing = threading.Lock()


async def prepare_routes(app: ASGIApp) -> None:
    """Have FastAPI and what it uses do at the start what else the first requests would wait for.

    FastAPI builds its routes when it first looks at them, which takes tens of milliseconds.

    Args:
        app: has `/healthz`, and no route for `/v1/nowhere`.

    Raises:
        BuswayError: it answers something else.
    """
    await run_in_threadpool(int)  # anyio imports its part for asyncio
    for path, expected in (("/healthz", 200), (_NOWHERE, 404)):
        status = await _ask(app, path)
        if status != expected:
            raise BuswayError(f"the application answered {status} to a request for {path}")


async def _ask(app: ASGIApp, path: str) -> int:
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    return status

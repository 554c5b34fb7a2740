"""What an accepted connection has before it has a request."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from busway.gateway.door.flow import Flow
from busway.gateway.door.holding import Holding
from busway.gateway.door.port import header_line


class Accepted(asyncio.Protocol):
    """A connection, as uvicorn makes it.

    Args:
        config: of uvicorn. server_state: what the server shares among connections.
        app_state: of the application's lifespan.
    """

    __slots__ = (
        "_app", "_app_state", "_config", "_shared", "_state", "default_headers", "flow", "half_closed",
        "holding", "loop", "transport",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.loop = _loop or asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.flow: Flow
        self.half_closed = False
        self.default_headers = b""
        self._shared: list[tuple[bytes, bytes]] | None = None  # what `default_headers` was made of
        self._config, self._state, self._app_state = config, server_state, app_state
        self._app: Any = config.loaded_app
        self.holding = Holding(self._app)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _refresh_headers(self) -> None:
        self._shared = self._state.default_headers
        self.default_headers = b"".join(map(header_line, self._shared))

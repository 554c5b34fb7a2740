"""Looks up the addresses of hosts in threads of its own: a name server that is silent holds nobody else."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from busway.domain.weburl import Address, read_address

Lookup = Callable[..., list[tuple[Any, ...]]]
"""`socket.getaddrinfo`."""

_THREADS = 8  # of each kind
_QUICK = 1.0  # seconds
_MOST_QUICK = 10_000  # names
_MOST = 16  # addresses of one name


class NotFound(Exception):
    """A name has no address. The message says why."""


class Resolver:
    """Looks up names. Those who ask for the same name at once share one lookup; no address is kept.

    Names that were found quickly the last time have threads of their own. So however many names have silent
    servers, they delay only names that are new.

    Args:
        lookup: as `socket.getaddrinfo`.
    """

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_THREADS, "resolver")
        self._quick_threads = ThreadPoolExecutor(_THREADS, "quick-resolver")
        self._quick: dict[str, None] = {}  # names that were found quickly, those found last at the end
        self._under_way: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a name, in the order in which to try them.

        Raises:
            NotFound: it has none.
        """
        key = host, port
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.get_running_loop().create_task(self._ask(host, port))
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: tuple[str, int], task: asyncio.Task[list[Address]]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # nobody may wait for it any more

    async def _ask(self, host: str, port: int) -> list[Address]:
        loop, threads = asyncio.get_running_loop(), self._threads
        if host in self._quick:
            threads = self._quick_threads
        try:
            found, seconds = await loop.run_in_executor(threads, self._find, host, port)
        except (OSError, UnicodeError) as problem:
            self._quick.pop(host, None)
            raise NotFound(f"the name {host} has no address: {problem}") from None
        self._quick.pop(host, None)
        if seconds < _QUICK:
            self._quick[host] = None
            if len(self._quick) > _MOST_QUICK:
                del self._quick[next(iter(self._quick))]
        return [read_address(str(entry[4][0])) for entry in found][:_MOST]

    def _find(self, host: str, port: int) -> tuple[list[tuple[Any, ...]], float]:
        began = time.monotonic()
        found = self._lookup(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        return found, time.monotonic() - began

    def close(self) -> None:
        """Wait for no thread: a lookup cannot be cancelled."""
        for threads in (self._threads, self._quick_threads):
            threads.shutdown(wait=False, cancel_futures=True)

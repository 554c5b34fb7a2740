"""Keeps the handlers in step with handler code: of this node's folder, and of the other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import msgspec

from busway.gateway.dispatch.changes import HandlerChanges
from busway.gateway.dispatch.registry import Registry, broken_files, code_digest, fault_of, not_loaded
from busway.gateway.executors.port import Catalog, Workers
from busway.gateway.handler_files import HandlerFiles
from busway.gateway.nodes.port import Nodes
from busway.gateway.settings import Settings
from busway.gateway.store.port.cell import Offer
from busway.gateway.store.port.commits import Commits, Committed, Outdated
from busway.gateway.store.port.reader import Reader

log = logging.getLogger("busway")

AGAIN = 1.0  # seconds between attempts to declare handlers that could not be stored
NOT_STORED = "the source of handlers could not be stored; trying again"
PATIENCE = 20.0  # seconds that a node waits for the leader; a frozen one is replaced in 11

_encode_catalog = msgspec.msgpack.Encoder().encode
_decode_catalog = msgspec.msgpack.Decoder(Catalog).decode


class HandlerCode:
    """Loads, offers and declares handler code.

    Each node offers the code of its own folder to the others. The leader declares the handlers of the current
    code of all nodes.

    Args:
        settings: the settings.
        nodes: the nodes of the cell.
        registry: gets the targets that can be run.
        changes: stores what the code declares.
        workers: run the code.
        used: is called after the current code of the nodes has changed.
        commits, reader: the store, which gets the source.
    """

    def __init__(
        self,
        settings: Settings,
        nodes: Nodes,
        registry: Registry,
        changes: HandlerChanges,
        workers: Workers,
        used: Callable[[], None],
        commits: Commits,
        reader: Reader,
    ) -> None:
        self._settings, self._nodes, self._registry = settings, nodes, registry
        self._changes, self._workers, self._used = changes, workers, used
        folders = [settings.handlers, settings.app_dir]
        self._files = HandlerFiles(folders, commits, reader, nodes.clock)
        self._adopted, self._changed = asyncio.Event(), asyncio.Event()

    def adopt(self, catalogs: list[bytes], later: list[bytes]) -> None:
        """Use the handler code of all nodes. The leader declares it soon.

        `later`: code that appeared later. No node has it now.
        """
        self._registry.adopt(list(map(_decode_catalog, catalogs)), list(map(_decode_catalog, later)))
        self._used()
        self._adopted.set()

    def load(self, catalog: Catalog) -> None:
        """Use the handler code of this node's folder."""
        self._registry.load([], _without_source(catalog))
        self._files.take(catalog)
        for broken in broken_files(catalog):
            log.error("%s, its handlers wait\n%s", fault_of(broken.file, catalog), broken.error)
        for left_out in not_loaded(catalog):
            log.warning("not loaded: %s: %s", left_out.file, left_out.error)

    def offer(self, catalog: Catalog) -> None:
        """Tell the other nodes what this one can run."""
        settings = self._settings
        if not settings.has_workers:
            self._nodes.offer(Offer())
            return
        self._nodes.offer(
            Offer(
                processes=settings.workers,
                threads=settings.threads,
                deliveries=settings.max_deliveries,
                targets=[target.target for file in catalog for target in file.targets],
                code=code_digest(catalog),
                catalog=_encode_catalog(_without_source(catalog)),
            )
        )

    async def declare(self) -> None:
        """Store the handlers that the current code declares, if it is known."""
        declared = not self._nodes.knows_code
        while not declared:
            with contextlib.suppress(Outdated):  # another node changed handlers meanwhile
                await self._changes.declare(self._registry.catalog)
                declared = True
            await self._nodes.current()

    async def follow_folder(self) -> None:
        """Declare the handlers of changed files before an attempt runs their code. Never returns."""
        while True:
            catalog = await self._workers.renewed()

            async def take(catalog: Catalog = catalog) -> None:
                self.load(catalog)
                await self.store()
                self.offer(catalog)
                await self._nodes.shared()
                if self._nodes.leads:
                    await self.declare()
                else:
                    await self.declared()

            await keep_trying(take, "the changed handler files could not be declared; trying again")
            self._workers.take_over()

    async def declared(self) -> None:
        """Wait until the leader has declared this node's code, if it is the current one.

        Before that, events do not start its handlers, and attempts do not name its revisions.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                while not self._registry.is_declared():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("the leader has not declared the handlers of this node in %.0f s", PATIENCE)

    def committed(self, change: Committed) -> None:
        """Notice handlers that the leader has declared. A listener of commits, behind the dispatcher's."""
        if change.handlers:
            self._changed.set()
            self._files.declared(change.handlers)

    async def store(self) -> None:
        """Store the source of this node's folder, before revisions name it: soon it may be overwritten.

        If that fails, code without its source is better than no code. `follow_files` tries again.
        """
        try:
            await self._files.store()
        except Exception:
            log.exception(NOT_STORED)

    async def follow_files(self) -> None:
        """Store the source of what was imported or declared. Never returns."""
        while True:
            await self._files.due()
            await keep_trying(self._files.store, NOT_STORED)

    async def follow_nodes(self) -> None:
        """While this node leads, declare the handlers when nodes offer other code. Never returns."""

        async def take() -> None:
            if self._nodes.leads:
                await self.declare()

        while True:
            await self._adopted.wait()
            self._adopted.clear()
            await keep_trying(take, "the handlers could not be declared; trying again")


def _without_source(catalog: Catalog) -> Catalog:
    return [msgspec.structs.replace(file, source=b"") for file in catalog]


async def keep_trying(what: Callable[[], Awaitable[None]], trouble: str) -> None:
    """Await what the function returns, again after each failure, which is logged with `trouble`."""
    while True:
        try:
            return await what()
        except Exception:
            log.exception(trouble)
            await asyncio.sleep(AGAIN)

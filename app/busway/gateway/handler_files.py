"""Stores the source of handler code, so that revisions can be read and compared later."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from busway.domain.handler import Handler
from busway.gateway.executors.port import Catalog, HandlerFile
from busway.gateway.store.port.code import MAX_SOURCE, SEEN_EVERY, CodeFile, SaveCode
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.reader import Reader

BATCH = 1 << 19  # bytes of source in one operation
LARGEST = 64 << 20  # bytes of a file whose digest is computed


class HandlerFiles:
    """Stores each version of the files with handlers once, after its import.

    What is stored is the content that the import read, which comes with the catalog. Of a file without it,
    the content of now is stored if it has the digest that was reported after the import. Workers may have
    fewer rights than the gateway: they must not make it store, and show, a file that they cannot read.

    Args:
        folders: where the files are: the handlers folder, and the root of the user's project.
        commits, reader: the store.
        clock: microseconds since 1970.
    """

    def __init__(
        self, folders: list[Path], commits: Commits, reader: Reader, clock: Callable[[], int]
    ) -> None:
        self._folders, self._commits, self._reader, self._clock = folders, commits, reader, clock
        self._catalog: Catalog = []
        self._declared: dict[int, str] = {}  # digests that handlers had last
        self._due = asyncio.Event()

    def take(self, catalog: Catalog) -> None:
        """Remember what was imported. `store` stores it."""
        self._catalog = [file for file in catalog if file.digest and file.targets]
        self.again()

    def declared(self, handlers: list[Handler]) -> None:
        """Notice that handlers were declared: what only old revisions had may have been removed."""
        new = {handler.id: handler.file_digest for handler in handlers}
        digests = {digest for id_, digest in new.items() if self._declared.get(id_) != digest}
        self._declared |= new
        if any(file.digest in digests for file in self._catalog):
            self.again()

    def again(self) -> None:
        """Let `due` return."""
        self._due.set()

    async def due(self) -> None:
        """Wait until there may be something that is not stored."""
        await self._due.wait()
        self._due.clear()

    async def store(self) -> None:
        """Store the files that are not stored yet. A restart with the same files writes nothing."""
        current = {file.digest: file for file in self._catalog}
        if not current:
            return
        known, now = await self._reader.code_digests(), self._clock()
        # What was not seen for long may be removed at any moment.
        new = [file for digest, file in current.items() if known.get(digest, 0) <= now - SEEN_EVERY]
        if not new:
            return
        batch: list[CodeFile] = []
        for file in new:
            found = await asyncio.to_thread(self._read, file)
            batch += [] if found is None else [found]
            if sum(len(each.text or "") for each in batch) >= BATCH:
                await self._commits.change(SaveCode(files=batch, current=[], now=now))
                batch = []
        await self._commits.change(SaveCode(files=batch, current=[*current], now=now))

    def _read(self, file: HandlerFile) -> CodeFile | None:
        """Return a file as it was imported, None if that is not known and it has changed since."""
        for content in self._found(file):
            if hashlib.sha256(content).hexdigest() == file.digest:
                return CodeFile(file.digest, len(content), _text(content))
        return None

    def _found(self, file: HandlerFile) -> Iterator[bytes]:
        if file.source:
            yield file.source
        for folder in self._folders:
            with contextlib.suppress(OSError):
                yield _content(folder / file.file)


def _content(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    with os.fdopen(descriptor, "rb") as opened:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
            raise OSError("not a regular file of a usual size")
        return opened.read(LARGEST)


def _text(content: bytes) -> str | None:
    """Return the text of a source file, None if it is too long."""
    if len(content) > MAX_SOURCE:
        return None
    try:
        text = importlib.util.decode_source(content)  # with the encoding that it declares
    except (SyntaxError, UnicodeError):
        return None
    return None if "\0" in text else text

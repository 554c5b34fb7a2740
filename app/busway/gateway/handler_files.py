"""Stores the source of handler code, so that revisions can be read and compared later."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from busway.domain.times import SECOND
from busway.gateway.executors.port import Catalog, HandlerFile
from busway.gateway.store.port.code import MAX_SOURCE, CodeFile, SaveCode
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.reader import Reader

BATCH = 1 << 19  # bytes of source in one operation
SEEN_EVERY = 86_400 * SECOND  # between records that a node still has its files
LARGEST = 64 << 20  # bytes of a file whose digest is computed


class HandlerFiles:
    """Stores each version of the files with handlers once, after its import.

    A file is stored only if it has the digest that the worker reported after the import. Workers may
    have fewer rights than the gateway: they must not make it store, and show, a file that they cannot read.

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
        self._changed = asyncio.Event()

    def take(self, catalog: Catalog) -> None:
        """Remember what was imported. `store` stores it."""
        self._catalog = [file for file in catalog if file.digest and file.targets]
        self._changed.set()

    async def changed(self) -> None:
        """Wait until something was imported that is not stored yet."""
        await self._changed.wait()
        self._changed.clear()

    async def store(self) -> None:
        """Store the files that are not stored yet. A restart with the same files writes nothing."""
        current = {file.digest: file for file in self._catalog}
        if not current:
            return
        known, now = await self._reader.code_digests(), self._clock()
        new = [file for digest, file in current.items() if digest not in known]
        if not new and all(known[digest] > now - SEEN_EVERY for digest in current):
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
        """Return a file as it was imported, None if it has changed since."""
        for path in self._places(file):
            try:
                content = _content(path)
            except OSError:
                continue
            if hashlib.sha256(content).hexdigest() == file.digest:
                return CodeFile(file.digest, len(content), _text(content))
        return None

    def _places(self, file: HandlerFile) -> Iterator[Path]:
        for folder in self._folders:
            yield folder / file.file


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

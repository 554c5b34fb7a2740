"""The content of the database file: detects that something other than a checkpoint has changed it.

A program that copies another file over it (`cp`, `rsync --inplace`) keeps its name and inode. SQLite does not
notice that: pages of both files would be mixed, and events that were acknowledged would be gone.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

SETTLED_AFTER = 1.0  # seconds without a change; then the copy over the file is probably complete
# As SQLite's file format describes them.
_INDEX = struct.Struct("=I12x8s56xI28xI")  # of the index of the log
_FRAME = struct.Struct(">I20x")  # what stands before each page in the log
_INDEX_AT = 16
_FIRST_FRAME = 32


class Log(NamedTuple):
    """How far the write-ahead log is checkpointed.

    Attributes:
        frames: the pages in it.
        salt: changes when it begins again, which it does when all of it is in the database.
        done: the pages that are in the database.
        begun: those that a checkpoint has begun to write there.
    """

    frames: int = 0
    salt: bytes = b""
    done: int = 0
    begun: int = 0

    @property
    def lacking(self) -> int:
        """The pages that are not in the database."""
        return self.frames - self.done


class DatabaseContent:
    """What the database file has since the last checkpoint.

    Only between `__init__` and `close` may this process have connections to the database: closing a
    descriptor of a file drops the locks that SQLite has on it.

    Args:
        path: the database file, which a connection of this process has open.
        head_page: the number of the page that each commit changes.
        page_size: bytes of a page.
    """

    def __init__(self, path: Path, head_page: int, page_size: int) -> None:
        self._pages, self._size = (1, head_page), page_size
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._frames = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._shared = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC)
        self._index = mmap.mmap(self._shared, _INDEX_AT + _INDEX.size, access=mmap.ACCESS_READ)
        self._foreign = False
        self.record()

    def record(self) -> None:
        """Remember the content: a checkpoint has written it."""
        self._stamp, self._log = self._find_stamp(), self.find_log()
        self._content, self._recorded = self._read(), self._log
        self._lacked = False  # the log had pages since that this process has not checkpointed
        self._changing: tuple[int, int] | None = None
        self._since = 0.0

    def checkpointed(self, pages: int, written: int) -> None:
        """Remember the content after a checkpoint of this process, if it is what the log has.

        Otherwise another program has written while the checkpoint was running. That is not looked for if the
        log has begun again since, or another program has begun a checkpoint.

        Args:
            pages: the pages in the log, as the checkpoint knows it.
            written: those that are in the database, negative if that is not known.
        """
        log, since = self.find_log(), self._recorded
        if log[1:] == (self._log.salt, written, written):
            logged = self._read_log(since.done if since.salt == log.salt else 0, log.done)
            found = self._read()
            if log[1:] == self.find_log()[1:]:
                for now, before, new in zip(found, self._content, logged, strict=True):
                    if now != (new or before) and (written == pages or now != before):
                        self._foreign = True
                        return
        self.record()

    def changed(self) -> bool:
        """Return whether something other than a checkpoint has changed the content."""
        stamp, log = self._find_stamp(), self.find_log()
        if not self._foreign:
            if stamp == self._stamp:
                self._log = log
                return False
            if self._checkpointed(log):  # by another program, which SQLite allows
                self.record()
                return False
            if stamp[0] == self._stamp[0] and self._same():  # touched, or a copy of itself
                self.record()
                return False
        if stamp != self._changing:
            self._changing, self._since = stamp, time.monotonic()
        return True

    @property
    def settled(self) -> bool:
        """Whether the content that `changed` found has been there for a while."""
        return self._changing is not None and time.monotonic() - self._since >= SETTLED_AFTER

    def close(self) -> None:
        """Close the descriptors."""
        self._index.close()
        for descriptor in (self._file, self._frames, self._shared):
            os.close(descriptor)

    def _checkpointed(self, now: Log) -> bool:
        """Return whether there was a checkpoint since the last look, or one that is still running."""
        before = self._log
        if now.salt == before.salt:
            return now.begun > before.begun or now.done > before.done or now.done < now.begun
        return now.begun > 0 or before.lacking > 0 or self._lacked

    def _same(self) -> bool:
        """Return whether the pages are as they were, on disk too."""
        if self._read() != self._content:
            return False
        try:
            os.fsync(self._file)
        except OSError:
            return False
        return True

    def _find_stamp(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def look(self) -> int:
        """Return how many pages of the log the database lacks. Called after each batch."""
        frames, salt, done, _ = _INDEX.unpack_from(self._index, _INDEX_AT)
        if frames > done and salt == self._log.salt:
            self._lacked = True
        return int(frames - done)

    def find_log(self) -> Log:
        """Return how far the log is checkpointed now."""
        return Log(*_INDEX.unpack_from(self._index, _INDEX_AT))

    def _read(self) -> list[bytes]:
        return [os.pread(self._file, self._size, self._size * (number - 1)) for number in self._pages]

    def _read_log(self, since: int, done: int) -> list[bytes]:
        """Return the pages as the log has them between two places. Empty: not there."""
        found, step = dict.fromkeys(self._pages, b""), _FRAME.size + self._size
        for frame in reversed(range(since, done)):
            at = _FIRST_FRAME + step * frame
            (number,) = _FRAME.unpack(os.pread(self._frames, _FRAME.size, at).ljust(_FRAME.size, b"\0"))
            if found.get(number) == b"":
                found[number] = os.pread(self._frames, self._size, at + _FRAME.size)
                if all(found.values()):
                    break
        return list(found.values())

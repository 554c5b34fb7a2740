"""The files of an open database: detects that a path no longer names the file that is open, or its content.

SQLite does not notice it: it writes on to a file that was removed, renamed, replaced or overwritten.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.group.frames import FileId
from busway.gateway.store.sqlite.content import DatabaseContent, Log

CHECK_EVERY = 0.5  # seconds; a reply to a batch must not rest on an older check
_ENDINGS = ("", "-wal", "-shm")
_ADVICE = "put the same file back, or stop the gateway"


class FilesChanged(Unusable):
    """A file is not where it was, or is not the one that was expected."""


class DatabaseFiles:
    """The database, its write-ahead log, and the index of that log.

    Args:
        path: the database file.
        known: the three files as another process had them open. None if there was none.

    Attributes:
        known: the three files, in the order database, log, index.
    """

    def __init__(self, path: Path, known: list[FileId] | None) -> None:
        self._path = path
        self._paths = [f"{path}{ending}" for ending in _ENDINGS]
        self.known = known or []
        self._checked = 0.0
        self._content: DatabaseContent | None = None
        self._kept = ""  # where the log of an overwritten database is

    def verify(self) -> None:
        """Check the paths before the database is opened.

        Raises:
            FilesChanged: a path does not name the file that it named before.
        """
        why = self.problem()
        if why is not None:
            raise FilesChanged(why)

    def opened(self, head_page: int, page_size: int) -> None:
        """Record the files that a connection of this process has opened.

        Args:
            head_page: the number of the page that each commit changes.
            page_size: bytes of a page.

        Raises:
            FilesChanged: a path names another file than the open one.
        """
        ours = _open_files()
        self.known = [_identify(path) for path in self._paths]
        for path, file in zip(self._paths, self.known, strict=True):
            if file not in ours:
                raise FilesChanged(f"{path!r} (--database-url) changed while it was opened: {_ADVICE}")
        self._content = DatabaseContent(self._path, head_page, page_size)
        self._checked = time.monotonic()

    def closed(self) -> None:
        """Close what `opened` has opened: all connections of this process are closed."""
        if self._content is not None:
            self._content.close()
            self._content = None

    @property
    def log(self) -> Log:
        """How far the write-ahead log is checkpointed."""
        return Log() if self._content is None else self._content.find_log()

    @property
    def lacking(self) -> int:
        """The pages of the write-ahead log that are not in the database."""
        return 0 if self._content is None else self._content.look()

    def checkpointed(self, pages: int, written: int) -> None:
        """Record the content of the database: this process has checkpointed, or tried to.

        Args:
            pages: the pages in the log, as the checkpoint knows it.
            written: those that are in the database, negative if that is not known.
        """
        if self._content is not None:
            self._content.checkpointed(pages, written)

    @property
    def overwritten(self) -> bool:
        """Whether another program has written something else into the database file."""
        return bool(self._kept) or (self._content is not None and self._content.changed())

    def problem(self) -> str | None:
        """Return which file is not where it was, or was overwritten, and what to do. None if all is well.

        When another program has finished to overwrite the database, its log is put aside: the next gateway
        must not take it for the log of what the file has now.
        """
        self._checked = time.monotonic()
        if self.overwritten:
            return self._overwritten()
        for path, file in zip(self._paths, self.known, strict=False):
            try:
                found = _identify(path)
            except FilesChanged as problem:
                return str(problem)
            if found != file:
                return (
                    f"another file is in the place of the database file {path!r} (--database-url): {_ADVICE}"
                )
        return None

    def put_aside(self) -> None:
        """Rename the log of an overwritten database, and remove its index.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self._kept:
            kept = f"{self._paths[1]}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            os.rename(self._paths[1], kept)  # noqa: PTH104 - these paths are text
            self._kept = kept
            with contextlib.suppress(OSError):
                os.unlink(self._paths[2])  # noqa: PTH108 - as above

    def _overwritten(self) -> str:
        what = f"another program has overwritten the database file {self._paths[0]!r} (--database-url)"
        if not self._kept and not (self._content is not None and self._content.settled):
            return f"{what}: nothing is written until it is as it was, or the gateway is restarted"
        try:
            self.put_aside()
        except OSError as problem:
            return f"{what}: stop the gateway, and remove {self._paths[1]!r} ({problem.strerror})"
        return (
            f"{what}: restart the gateway to continue with what the file has now. "
            f"What only the old write-ahead log has is kept in {self._kept!r}"
        )

    @property
    def checked(self) -> bool:
        """Whether the last check is recent enough."""
        return time.monotonic() - self._checked <= CHECK_EVERY


def has_open_log(path: Path) -> bool:
    """Return whether the write-ahead log of a database is one that this process has open."""
    try:
        return _identify(f"{path}-wal") in _open_files()
    except FilesChanged:
        return False


def _identify(path: str) -> FileId:
    try:
        found = os.stat(path)  # noqa: PTH116 - up to thousands of times a second
    except FileNotFoundError:
        raise FilesChanged(
            f"the database file {path!r} (--database-url) was removed or renamed: {_ADVICE}"
        ) from None
    except OSError as problem:
        raise FilesChanged(
            f"the database file {path!r} (--database-url) cannot be reached ({problem.strerror}): "
            "let the gateway's user use its folder again, or stop the gateway"
        ) from None
    return found.st_dev, found.st_ino


def _open_files() -> set[FileId]:
    """Return the open files of this process. It closes none of them: SQLite would lose its locks."""
    found: set[FileId] = set()
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names suffice
        try:
            about = os.fstat(int(descriptor))
        except OSError:
            continue  # it was that of the directory
        found.add((about.st_dev, about.st_ino))
    return found

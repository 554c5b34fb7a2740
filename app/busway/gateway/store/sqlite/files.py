"""The files of an open database: detects that a path no longer names the file that is open.

SQLite does not notice it: it writes on to a file that was removed, renamed or replaced.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.group.frames import FileId

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
        self._paths = [f"{path}{ending}" for ending in _ENDINGS]
        self.known = known or []
        self._checked = 0.0

    def verify(self) -> None:
        """Check the paths before the database is opened.

        Raises:
            FilesChanged: a path does not name the file that it named before.
        """
        why = self.problem()
        if why is not None:
            raise FilesChanged(why)

    def opened(self) -> None:
        """Record the files that a connection of this process has opened.

        Raises:
            FilesChanged: a path names another file than the open one.
        """
        ours = _open_files()
        self.known = [_identify(path) for path in self._paths]
        for path, file in zip(self._paths, self.known, strict=True):
            if file not in ours:
                raise FilesChanged(f"{path!r} (--database-url) changed while it was opened: {_ADVICE}")
        self._checked = time.monotonic()

    def problem(self) -> str | None:
        """Return which file is not where it was, and what to do. None if all are in their places."""
        self._checked = time.monotonic()
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

    def recent_problem(self) -> str | None:
        """Return as `problem`, but None without a check if the last one is recent enough."""
        return self.problem() if time.monotonic() - self._checked > CHECK_EVERY else None


def _identify(path: str) -> FileId:
    try:
        found = os.stat(path)  # noqa: PTH116 - up to thousands of times a second
    except FileNotFoundError:
        raise FilesChanged(
            f"the database file {path!r} (--database-url) was removed or renamed: {_ADVICE}"
        ) from None
    except OSError as problem:
        raise FilesChanged(
            f"the database file {path!r} (--database-url) cannot be reached ({problem.strerror}): {_ADVICE}"
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

"""Detect whether the files that handler code was imported from have changed."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import NamedTuple

from busway.gateway.executors.python.wire.folder import walk

_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
Stamp = dict[str, tuple[int, int, int]]
"""Modification time in nanoseconds, size and inode of each Python file, by path."""


class Snapshot(NamedTuple):
    """A snapshot to compare with `Watched`. `entered`: the directories of the project that it covers."""

    entered: frozenset[str]
    files: Stamp
    project: Stamp


class Watched:
    """The files of the handlers folder, and the files of the user's project that imports may have found.

    The latter are the modules and packages in each directory that an import searched. So a new module counts,
    and so does one whose import failed.

    `files`: the folder when this object was created, paths relative. `project`: each directory when imports
    entered it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._entered: frozenset[str] = frozenset()
        self.files = _tree(self._folder)
        self.project: Stamp = {}

    def enter(self, directory: str) -> None:
        """Watch a directory of the project from its present state, if it can be listed."""
        with contextlib.suppress(OSError):
            self.project |= _level(directory)
            self._entered |= {directory}

    def snapshot(self) -> Snapshot:
        """Return the present state. Safe in another thread.

        Raises:
            OSError: there are no descriptors or no memory to list a folder.
        """
        entered = self._entered
        project: Stamp = {}
        for directory in entered:
            project |= _level(directory)
        return Snapshot(entered, _tree(self._folder), project)

    def changed(self, now: Snapshot) -> bool:
        """Return whether a file differs from what was imported. False if `now` covers other directories."""
        return now.entered == self._entered and (now.files, now.project) != (self.files, self.project)


def _tree(folder: str) -> Stamp:
    found: Stamp = {}
    for path, entry in walk(folder):
        try:
            found[path] = _stamp(entry.stat())
        except OSError as problem:  # an editor is replacing it
            if problem.errno in _SCARCE:
                raise
    return found


def _level(directory: str) -> Stamp:
    found: Stamp = {}
    for entry in _entries(directory):
        try:
            if entry.is_dir():
                package = f"{entry.path}/__init__.py"
                found[package] = _stamp(os.stat(package))  # noqa: PTH116 - thousands, four times a second
            elif entry.name.endswith(".py"):
                found[entry.path] = _stamp(entry.stat())
        except OSError:  # not a package, or an editor is replacing it
            continue
    return found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """List a folder without hidden files and caches. Return nothing if it is missing or not readable.

    Raises:
        OSError: there are no descriptors or no memory to list it.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError as problem:
        if problem.errno in _SCARCE:
            raise
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__pycache__"]


def _stamp(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_mtime_ns, about.st_size, about.st_ino

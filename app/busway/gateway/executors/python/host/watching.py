"""Whether the files that handler code was imported from are still the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Stamp = dict[str, tuple[int, int, int]]
"""Of each Python file, by its path: when it was changed, size, inode."""


class Look(NamedTuple):
    """What `Watched` would hold now; `entered` are the directories of the project that it looked at."""

    entered: frozenset[str]
    files: Stamp
    project: Stamp


class Watched:
    """The files of the handlers folder and those of the user's project that imports may have found.

    The latter are the modules and packages in each directory that an import searched. So a module that is
    added counts, and one whose import failed.

    `files` is the stamp of the folder as it was when this was made, its paths relative; `project`
    that of each directory as it was when imports entered it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._entered: frozenset[str] = frozenset()
        self.files: Stamp = dict(_tree(self._folder, ""))
        self.project: Stamp = {}

    def enter(self, directory: str) -> None:
        """Watch a directory of the project, from how it is now."""
        self._entered |= {directory}
        self.project |= _level(directory)

    def look(self) -> Look:
        """Return what there is now; safe in another thread."""
        entered = self._entered
        project: Stamp = {}
        for directory in entered:
            project |= _level(directory)
        return Look(entered, dict(_tree(self._folder, "")), project)

    def changed(self, now: Look) -> bool:
        """Return whether something differs from what was imported; False for a look at fewer directories."""
        return now.entered == self._entered and (now.files, now.project) != (self.files, self.project)


def _tree(folder: str, prefix: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for entry in _entries(folder):
        try:
            if entry.is_dir():
                yield from _tree(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".py"):
                yield prefix + entry.name, _stamp(entry.stat())
        except OSError:  # an editor replaces it just now
            continue


def _level(directory: str) -> Stamp:
    found: Stamp = {}
    for entry in _entries(directory):
        try:
            if entry.is_dir():
                package = f"{entry.path}/__init__.py"
                found[package] = _stamp(os.stat(package))  # noqa: PTH116 - thousands, four times a second
            elif entry.name.endswith(".py"):
                found[entry.path] = _stamp(entry.stat())
        except OSError:  # no package, or replaced just now
            continue
    return found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """List a folder without hidden files and caches; nothing if it went away or is not readable."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__pycache__"]


def _stamp(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_mtime_ns, about.st_size, about.st_ino

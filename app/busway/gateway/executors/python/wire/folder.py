"""The files of the handlers folder. Gateway and zygote walk it in the same way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "tests", "test"})
"""Folders whose files are never handler code. Hidden folders and virtual environments are skipped, too."""

MOST = 20_000  # files and folders
DEEPEST = 32  # folders in one another
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_INIT = "__init__.py"

File = tuple[str, os.DirEntry[str]]
"""The path of a file below the folder, with `/`, and its entry."""


def _ignore(_path: str, _why: str) -> None:
    pass


def walk(folder: str, refused: Callable[[str, str], None] = _ignore) -> Iterator[File]:
    """Return the Python files of a folder and the folders in it, in the order in which they are loaded.

    `__init__.py` comes first in its folder, then the other files by name, then the folders by name. Links to
    folders are followed at the end, and each folder is walked once.

    Args:
        folder: an absolute path. A folder that is missing has no files.
        refused: called with each folder whose files are left out, and why, unless it is always skipped.

    Raises:
        OSError: there are no descriptors or no memory to list a folder.
    """
    walking = _Walk(refused)
    waiting = [(folder, "")]
    while waiting:
        yield from walking.below(*waiting.pop(0))
        waiting += walking.links
        walking.links.clear()


class _Walk:
    def __init__(self, refused: Callable[[str, str], None]) -> None:
        self._refused = refused
        self._seen: dict[tuple[int, int], str] = {}
        self._left = MOST
        self.links: list[tuple[str, str]] = []

    def below(self, folder: str, prefix: str) -> Iterator[File]:
        """Return the files of a folder, with `prefix` before their names, and note the links to folders."""
        try:
            entries = sorted(self._list(folder, prefix or "."), key=lambda entry: entry.name)
        except OSError as problem:
            if problem.errno in _SCARCE:
                raise
            if prefix or problem.errno != errno.ENOENT:
                self._refused(prefix or ".", f"the folder cannot be read: {problem.strerror}")
            return
        except _LeftOut as problem:
            self._refused(prefix or ".", str(problem))
            return
        for entry in sorted(entries, key=lambda entry: entry.name != _INIT):
            if entry.name.endswith(".py") and _is(entry, os.DirEntry.is_file):
                yield prefix + entry.name, entry
        for entry in entries:
            if entry.name in SKIPPED or not _is(entry, os.DirEntry.is_dir):
                continue
            if entry.is_symlink():
                self.links.append((entry.path, f"{prefix}{entry.name}/"))
            else:
                yield from self.below(entry.path, f"{prefix}{entry.name}/")

    def _list(self, folder: str, prefix: str) -> list[os.DirEntry[str]]:
        if self._left < 0:
            return []
        about = os.stat(folder)  # noqa: PTH116 - many, four times a second
        earlier = self._seen.setdefault((about.st_dev, about.st_ino), prefix)
        if earlier != prefix:
            raise _LeftOut(f"the folder is a link to {earlier}, which is loaded already")
        if prefix.count("/") > DEEPEST:
            raise _LeftOut(f"the folder is more than {DEEPEST} folders deep")
        entries: list[os.DirEntry[str]] = []
        with os.scandir(folder) as found:
            for entry in found:
                self._left -= 1
                if self._left < 0:
                    raise _LeftOut(f"the handlers folder has more than {MOST} files and folders")
                if entry.name == "pyvenv.cfg":
                    return []
                if not entry.name.startswith("."):
                    entries.append(entry)
        return entries


class _LeftOut(Exception):
    """The files of a folder are left out. The message says why."""


def _is(entry: os.DirEntry[str], what: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return what(entry)
    except OSError as problem:  # an editor is replacing it, or a link leads to itself
        if problem.errno in _SCARCE:
            raise
        return False

"""Whether the files of the handlers folder are still those that were imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

Stamp = dict[str, tuple[int, int, int]]
"""Of each Python file below the folder, by its path in it: when it was changed, size, inode."""


def stamp(folder: Path) -> Stamp:
    """Take the stamp of a folder; hidden folders and caches are left out."""
    return dict(_stamps(str(folder), ""))


def _stamps(folder: str, prefix: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # it went away, or was never readable
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        try:
            if entry.is_dir():
                yield from _stamps(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".py"):
                about = entry.stat()
                yield prefix + entry.name, (about.st_mtime_ns, about.st_size, about.st_ino)
        except OSError:  # an editor replaces it just now
            continue

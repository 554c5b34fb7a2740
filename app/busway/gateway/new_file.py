"""Write a new file that appears under its name when it is complete and on disk."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from busway.gateway.errors import BadSettings


@contextlib.contextmanager
def new_file(target: Path, mode: int) -> Iterator[Path]:
    """Provide an empty file beside the target. At the end it is synced and gets the target's name.

    If the body raises, nothing is left of it.

    Args:
        target: the new file.
        mode: its permissions.

    Raises:
        BadSettings: `target` exists, or its folder does not.
        OSError: it cannot be written.
    """
    check_new(target)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        yield partial
        _sync(partial, os.O_RDWR)
        _name(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def check_new(file: Path) -> None:
    """Check that a file can be created.

    Raises:
        BadSettings: it exists, or its folder does not.
    """
    if not file.parent.is_dir():
        raise BadSettings(f"there is no folder {str(file.parent)!r}: create it, or choose another file")
    if os.path.lexists(file):
        raise _exists(file)


def _name(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)  # unlike a rename, it replaces nothing
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without hard links
        check_new(target)
        partial.rename(target)


def _exists(file: Path) -> BadSettings:
    return BadSettings(f"{str(file)!r} exists already: remove it, or choose another file")


def _sync(path: Path, flags: int) -> None:
    opened = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

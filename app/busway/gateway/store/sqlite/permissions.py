"""The files of a database: whether this process can use them, and their permissions."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path

from busway.gateway.errors import BadSettings

MODE = 0o600
"""Permissions of new files. SQLite gives `-wal` and `-shm` those of the database."""

_ROOM = 64 << 10  # bytes
_BESIDE = (".lock", "-wal", "-shm")


def check(path: Path) -> Path:
    """Return the resolved path of a database that this process can use, or can create.

    Raises:
        BadSettings: it cannot. The message says why, and who owns the file if that is the reason.
    """
    try:
        real = path.resolve()
        about = _stat(real)
    except (RuntimeError, OSError) as problem:  # a loop of links was a RuntimeError before Python 3.13
        why = getattr(problem, "strerror", None) or "its symbolic links form a loop"
        raise BadSettings(f"cannot use the database {str(path)!r}: {why}") from None
    if about is not None and not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "not a regular file"
        raise BadSettings(f"cannot use the database {str(path)!r}: it is {kind}")
    _check_folder(path, real.parent)
    for file in (real, *(real.with_name(real.name + end) for end in _BESIDE)):
        found = _stat(file)
        if found is not None and not os.access(file, os.R_OK | os.W_OK):
            raise BadSettings(f"cannot use the database {str(path)!r}: {_belongs(file, found)}")
    return real


def create(path: Path) -> None:
    """Create an empty database file, unless it exists.

    Raises:
        OSError: it cannot be created.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE))


def is_full(folder: Path) -> bool:
    """Return whether the disk has no room for the files that SQLite needs to open a database."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < _ROOM


def _check_folder(path: Path, folder: Path) -> None:
    found = _stat(folder)
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise BadSettings(
            f"cannot use the database {str(path)!r}: there is no folder {str(folder)!r}, create it"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadSettings(f"cannot use the database {str(path)!r}: {_belongs(folder, found)}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _belongs(path: Path, found: os.stat_result) -> str:
    """Say who owns a file that this process may not write."""
    owner, user = _name(found.st_uid), _name(os.geteuid())
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{str(path)!r} is on a read-only file system"
    return (
        f"{str(path)!r} belongs to {owner}, and {user} may not write it: change its owner or its permissions"
    )


def _name(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name!r}"
    except KeyError:
        return f"the user with the number {uid}"

"""One gateway per database: the lock that it holds while it runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from contextlib import ExitStack
from pathlib import Path

from busway.gateway.errors import BadSettings
from busway.gateway.store.sqlite import permissions

_BYTE = 1 << 62  # the byte to lock: far behind the end of the database, and the bytes that SQLite locks
_SHARED = 0x40000002, 510  # what SQLite locks in the file while a connection is open: first byte, bytes
_HELD = {errno.EAGAIN, errno.EACCES}


class Lock:
    """Keeps other gateways from the database, until `release` or the end of the process."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened

    def release(self) -> None:
        """Release the lock.

        No SQLite connection of this process may be open: closing a descriptor of the database drops the locks
        that SQLite has in this process.
        """
        self._opened.close()


def lock(path: Path) -> Lock:
    """Lock the database, which is created if it does not exist.

    There are two locks: one of the file itself, whatever its name is, and one of a file beside it. The second
    is for the write-ahead log, which belongs to the name: a new file of that name must not get the old log.

    Raises:
        BadSettings: another gateway holds a lock, or a file cannot be opened or locked.
    """
    path = permissions.check(path)
    with ExitStack() as opened:
        beside = _open(path.with_name(path.name + ".lock"), "lock file", opened)
        try:
            fcntl.flock(beside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            raise _refusal(path, problem, os.pread(beside, 20, 0)) from None
        database = _open(path, "database", opened)
        try:
            _lock_bytes(database, fcntl.F_WRLCK, _BYTE, 1)
        except OSError as problem:
            raise _refusal(path, problem) from None
        with contextlib.suppress(OSError):  # a full disk: the number is only for the message
            os.ftruncate(beside, 0)
            os.pwrite(beside, f"{os.getpid()}\n".encode(), 0)
        return Lock(opened.pop_all())


def keep_content(path: Path) -> None:
    """Let no connection of this process checkpoint into the database when it is the last one that closes.

    It holds until the end of the process.
    """
    with contextlib.suppress(OSError):
        _lock_bytes(os.open(path, os.O_RDONLY | os.O_CLOEXEC), fcntl.F_RDLCK, *_SHARED)


def _lock_bytes(descriptor: int, kind: int, first: int, size: int) -> None:
    """Lock bytes of the open file. This ends with the file, not with any descriptor as SQLite's locks do."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", kind, os.SEEK_SET, first, size, 0))


def owner(path: Path) -> str:
    """Return which process has locked the database, as `process 17`. Empty if none has. Changes nothing."""
    try:
        beside = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(beside, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return f"process {os.pread(beside, 20, 0).decode(errors='replace').strip() or 'unknown'}"
    finally:
        os.close(beside)
    return ""


def _open(path: Path, what: str, opened: ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, permissions.MODE)
    except OSError as problem:
        raise BadSettings(f"cannot open the {what} {str(path)!r}: {problem.strerror}") from None
    opened.callback(os.close, descriptor)
    return descriptor


def _refusal(path: Path, problem: OSError, owner: bytes = b"") -> BadSettings:
    if problem.errno not in _HELD:
        return BadSettings(f"cannot lock the database {str(path)!r}: {problem.strerror}")
    who = owner.decode(errors="replace").strip() or "unknown"
    return BadSettings(
        f"another gateway (process {who}) uses the database {str(path)!r}: "
        "stop it, or choose another file with --database-url"
    )

"""Apply the operator's limits to a process with handler code, and name them in errors that they cause."""

from __future__ import annotations

import errno
import os
import pwd
import resource
from types import TracebackType

from busway.gateway.executors.port import WorkerLimits


class _Applied:
    limits = WorkerLimits()


def confine(limits: WorkerLimits) -> None:
    """Apply the limits that forks inherit. Call it before handler code is imported.

    Raises:
        OSError: the system refused.
        KeyError: there is no such user.
    """
    _Applied.limits = limits
    if limits.nice:
        os.nice(limits.nice)
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_NOFILE, limits.open_files)
    if limits.user:
        user = pwd.getpwnam(limits.user)
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)


def limit_processes(limits: WorkerLimits) -> None:
    """Apply the limit of processes to this worker. The zygote must not have it: it has to start workers.

    Raises:
        OSError: the system refused.
    """
    _Applied.limits = limits
    _limit(resource.RLIMIT_NPROC, limits.processes)


def _limit(which: int, most: int | None) -> None:
    if most is not None:
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def cause(number: int | None, message: str, frames: TracebackType | None) -> str:
    """Return which limit may have caused an error, to put behind its message. Empty if none did.

    Args:
        number: the `errno` of an `OSError`, None if it is another one.
        message: its message.
        frames: its traceback.
    """
    limits = _Applied.limits
    if number == errno.EFBIG and limits.file_bytes is not None:
        return f" (--worker-file-bytes lets handlers write files of at most {limits.file_bytes} bytes)"
    if number == errno.EMFILE and limits.open_files is not None:
        return f" (--worker-open-files lets a worker have {limits.open_files} files open)"
    starts = number == errno.EAGAIN and _forks(frames)
    if limits.processes is not None and (starts or message == "can't start new thread"):
        return (
            f" (--worker-processes lets the user of handlers have {limits.processes} processes and threads)"
        )
    return ""


def _forks(frames: TracebackType | None) -> bool:
    """Return whether the innermost function starts a process, or is in a module that does."""
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    code = None if frames is None else frames.tb_frame.f_code
    return code is not None and not {"fork", "_fork_exec", "fork_exec", "posix_spawn"}.isdisjoint(
        code.co_names
    )

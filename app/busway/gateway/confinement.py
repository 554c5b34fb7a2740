"""Check whether this process can confine the processes that run handler code, as the settings say."""

from __future__ import annotations

import os
import pwd
import resource

from busway.gateway.executors.port import WorkerLimits

_OF_EACH = 6  # processes and threads of the two workers that each of `--workers` may have
_OTHERS = 8  # zygote and the threads of the thread host
_PAGE_OF_SEAT, _PAGE = 32_768, 1 << 20  # bytes of memory that workers share with the gateway, which is a file


def fault(limits: WorkerLimits, workers: int, threads: int) -> tuple[str, str] | None:
    """Return the setting that cannot be applied, and why. None: all can."""
    checks = {
        "worker_user": _fault_of_user(limits),
        "worker_open_files": _fault_of_open_files(limits),
        "worker_file_bytes": _fault_of_file_bytes(limits, threads),
        "worker_processes": _fault_of_processes(limits, workers, threads),
    }
    return next(((name, why) for name, why in checks.items() if why), None)


def _fault_of_user(limits: WorkerLimits) -> str | None:
    if not limits.user:
        return None
    if os.geteuid() != 0:
        return "only a gateway that runs as root can run handlers as another user: remove it"
    try:
        pwd.getpwnam(limits.user)
    except (KeyError, ValueError):
        return f"there is no user {limits.user!r} on this machine"
    return None


def _fault_of_open_files(limits: WorkerLimits) -> str | None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limits.open_files is None or hard == resource.RLIM_INFINITY or limits.open_files <= hard:
        return None
    return f"must be at most {hard}, the limit of this process (`ulimit -Hn`)"


def _fault_of_file_bytes(limits: WorkerLimits, threads: int) -> str | None:
    least = threads * _PAGE_OF_SEAT + _PAGE
    if limits.file_bytes is None or limits.file_bytes >= least:
        return None
    return f"must be at least {least}, which workers need with {threads} threads"


def _fault_of_processes(limits: WorkerLimits, workers: int, threads: int) -> str | None:
    if limits.processes is None:
        return None
    if os.geteuid() == 0 and not limits.user:
        return "Linux does not limit the processes of root: set --worker-user, too"
    least = 2 * (_OF_EACH * workers + threads + _OTHERS)
    if limits.processes >= least:
        return None
    return (
        f"must be at least {least}, which workers need with {workers} processes and {threads} threads while "
        "new code takes over"
    )

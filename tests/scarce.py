"""System calls that fail as they do when descriptors, memory or processes are out.

Only the edge to the system is replaced: the functions of the standard library that the code under test calls.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

CALLS: dict[str, tuple[Any, str]] = {
    "socketpair": (socket, "socketpair"),
    "pipe": (os, "pipe"),
    "memfd_create": (os, "memfd_create"),
    "ftruncate": (os, "ftruncate"),
    "mmap": (mmap, "mmap"),
    "Popen": (subprocess, "Popen"),
    "pidfd_open": (os, "pidfd_open"),
    "send_fds": (socket, "send_fds"),
}
ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS)


class Scarce:
    """Counts the calls, and fails some of them. `made`: their names, in order."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self._fails: Callable[[int], bool] = lambda number: False
        self._error = errno.EMFILE

    def fail(self, fails: Callable[[int], bool], error: int = errno.EMFILE) -> None:
        """Fail the calls of these numbers from now on, counted from 0."""
        self.made, self._fails, self._error = [], fails, error

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*arguments: Any, **options: Any) -> Any:
            number = len(self.made)
            self.made.append(name)
            if self._fails(number):
                raise OSError(self._error, os.strerror(self._error))
            return call(*arguments, **options)

        return calling


@contextlib.contextmanager
def scarce() -> Iterator[Scarce]:
    """Count the calls of this process, which the test fails by number."""
    made = Scarce()
    with contextlib.ExitStack() as stack:
        for name, (module, attribute) in CALLS.items():
            call = made.wrap(name, getattr(module, attribute))
            stack.enter_context(mock.patch.object(module, attribute, call))
        yield made


def seeded() -> random.Random:
    """Chance with a seed that is printed, and taken from `BUSWAY_TEST_SEED`."""
    value = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print(f"BUSWAY_TEST_SEED={value}")
    return random.Random(value)


@contextlib.contextmanager
def room_for(pid: int, more: int) -> Iterator[None]:
    """Let a process open only so many descriptors in addition."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    free = [number for number in range(len(used) + more + 1) if number not in used]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[more], before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

"""System calls that fail as they do when descriptors, memory or processes are out.

Only the edge to the system is replaced: the functions of the standard library that the code under test calls.
"""

from __future__ import annotations

import asyncio.selector_events
import contextlib
import errno
import mmap
import os
import random
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

_LOOP = asyncio.selector_events.BaseSelectorEventLoop
CALLS: dict[str, tuple[Any, str]] = {
    "socketpair": (socket, "socketpair"),
    "pipe": (os, "pipe"),
    "memfd_create": (os, "memfd_create"),
    "ftruncate": (os, "ftruncate"),
    "mmap": (mmap, "mmap"),
    "Popen": (subprocess, "Popen"),
    "pidfd_open": (os, "pidfd_open"),
    "send_fds": (socket, "send_fds"),
    "add_reader": (_LOOP, "add_reader"),
}
STREAM: dict[str, tuple[Any, str]] = {
    "recv": (socket.socket, "recv"),
    "recv_fds": (socket, "recv_fds"),
    "send": (socket.socket, "send"),
    "sendall": (socket.socket, "sendall"),
    "add_reader": (_LOOP, "add_reader"),
    "add_writer": (_LOOP, "add_writer"),
}
MEMORY = (errno.ENOMEM, errno.ENOBUFS)  # how calls on open sockets fail
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
            if sys._getframe(1).f_globals["__name__"].startswith("asyncio."):
                return call(*arguments, **options)  # the event loop's own
            number = len(self.made)
            self.made.append(name)
            if self._fails(number):
                raise OSError(self._error, os.strerror(self._error))
            return call(*arguments, **options)

        return calling


@contextlib.contextmanager
def scarce(calls: dict[str, tuple[Any, str]] = CALLS) -> Iterator[Scarce]:
    """Count these calls of the gateway in this process, which the test fails by number."""
    made = Scarce()
    with contextlib.ExitStack() as stack:
        for name, (module, attribute) in calls.items():
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


_IN_CHILDREN = """
import os, socket, sys

_FOLDER = {folder!r}
_CALLS = dict(
    fork=os, posix_spawn=os, pidfd_open=os, dup2=os,
    send_fds=socket, recv_fds=socket, send=socket.socket, recv=socket.socket,
)
_PROGRAMS = [name for name in ("zygote", "committer") if any(a.endswith("." + name) for a in sys.orig_argv)]
_main, _seen, _count, _busy = os.getpid(), None, 0, False


def _check(name):
    global _seen, _count
    try:
        with open(_FOLDER + "/plan") as file:
            plan = file.read()
    except OSError:
        return
    pid = os.getpid()
    if (pid, plan) != _seen:
        _seen, _count = (pid, plan), 0
    _, program, call, first, last, error = plan.split()
    if call not in ("any", name) or program != (_PROGRAMS[0] if pid == _main else "worker"):
        return
    number, _count = _count, _count + 1
    with open(_FOLDER + "/made", "a") as file:
        file.write(name + "\\n")
    if int(first) <= number < int(last):
        raise OSError(int(error), os.strerror(int(error)))


def _wrap(name, call):
    def calling(*arguments, **options):
        global _busy
        if not _busy:
            _busy = True
            try:
                _check(name)
            finally:
                _busy = False
        return call(*arguments, **options)

    return calling


for _name, _where in _CALLS.items() if _PROGRAMS else ():
    setattr(_where, _name, _wrap(_name, getattr(_where, _name)))
"""


class Children:
    """Fails calls of the zygote, its workers and the committer, also by number.

    It is their `sitecustomize`. Create it before they start.
    """

    def __init__(self, folder: Path, environment: Callable[[str, str], None]) -> None:
        self._folder, self._plans = folder, 0
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_IN_CHILDREN.format(folder=str(folder)))
        environment("PYTHONPATH", str(folder))

    def fail(
        self, program: str, first: int = 0, last: int = 1 << 60, error: int = 0, call: str = "any"
    ) -> None:
        """Count the calls of a program from now on, from 0, and fail those from `first` until before `last`.

        `program`: `zygote`, `committer` or `worker`, where each process counts its own.
        """
        self._plans += 1
        (self._folder / "made").unlink(missing_ok=True)
        new = self._folder / "new"
        new.write_text(f"{self._plans} {program} {call} {first} {last} {error}")
        new.replace(self._folder / "plan")

    def count(self, program: str) -> None:
        """Count the calls of a program, and fail none."""
        self.fail(program, 0, 0)

    def made(self) -> list[str]:
        """Return the calls that were made since."""
        made = self._folder / "made"
        return made.read_text().split() if made.exists() else []


def errors_of(call: str) -> tuple[int, ...]:
    """Return how a call can fail when resources are out."""
    if call in {"fork", "posix_spawn"}:
        return (errno.EAGAIN, errno.ENOMEM)
    if call in {"pidfd_open", "dup2"}:
        return (errno.EMFILE, errno.ENOMEM)
    return (errno.ETOOMANYREFS, *MEMORY) if call == "send_fds" else MEMORY

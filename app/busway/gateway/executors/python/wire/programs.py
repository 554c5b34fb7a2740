"""Start child programs: with this Python, our code, and nothing from the current directory."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

_ROOT = str(Path(__file__).resolve().parents[5])

# Our root is on the path only while our packages are imported: files beside them must not hide a library
# from handler code. Later, submodules are found through their package.
_START = """
import sys
root, module = sys.argv.pop(1), sys.argv.pop(1)
added = root not in sys.path
if added:
    sys.path.insert(0, root)
import busway.gateway.executors, busway.domain
if added:
    sys.path.remove(root)
import importlib
importlib.import_module(module).main()
"""


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs `main()` of one of our modules in a new interpreter."""
    return [sys.executable, "-P", "-c", _START, _ROOT, module, *arguments]


_PR_SET_CHILD_SUBREAPER = 36
_exit, _getpid, _killpg = os._exit, os.getpid, os.killpg  # handler code may replace those of the module


def watch(descriptor: int) -> int:
    """Kill the caller's process group when the pipe closes. Return a descriptor to keep open.

    The caller must lead its process group. A fork of it must call this again for its own group.
    """
    # Opened again, because the owner that gets the signal belongs to the open file, which forks share.
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_RDONLY | os.O_NONBLOCK | os.O_ASYNC)
    poll = select.poll()
    poll.register(own, 0)
    if poll.poll(0):  # it closed before it was watched
        os.killpg(os.getpid(), signal.SIGKILL)
    return own


def end_group() -> NoReturn:
    """Kill the caller's process group, because the gateway has ended.

    `watch` does the same, but only while the caller lives, and the caller may notice first.
    """
    with contextlib.suppress(OSError):  # the caller is a fork, and leads no group
        _killpg(_getpid(), signal.SIGKILL)
    _exit(0)


def become_subreaper() -> None:
    """Become the parent of descendants whose parent dies.

    Raises:
        OSError: the kernel refused.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children() -> set[int]:
    """Return the pids of this process's children, including dead ones. Empty if Linux does not list them."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
                found.update(map(int, (thread / "children").read_text().split()))
    return found

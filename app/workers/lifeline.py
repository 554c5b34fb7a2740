"""A pipe whose one writing end the gateway holds: when it is gone, the kernel kills who watches it.

A worker that is stuck in user code, even in C with the interpreter locked, does not read its socket
and would outlive a gateway and a zygote that were killed together. So each asks the kernel to send
SIGKILL to its whole process group when the pipe ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal

_PR_SET_CHILD_SUBREAPER = 36


def watch(descriptor: int) -> int:
    """Have the caller's process group killed when the pipe ends; return a descriptor to keep open.

    The caller must lead its process group. A fork of it must watch again for its own group.
    """
    # Opened anew because the owner to be signalled belongs to the open file, which forks share.
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_RDONLY | os.O_NONBLOCK | os.O_ASYNC)
    poll = select.poll()
    poll.register(own, 0)
    if poll.poll(0):  # it ended before it was watched
        os.killpg(os.getpid(), signal.SIGKILL)
    return own


def become_subreaper() -> None:
    """Adopt whatever descendants are left without a parent.

    Raises:
        OSError: the kernel refused.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

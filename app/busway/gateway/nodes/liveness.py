"""Which nodes are gone.

A node raises the counter in its row every two seconds. It is gone for a reader that saw the counter unchanged
for ten seconds of the reader's own clock, counted only while reads succeed. So clocks that differ, and
outages of the database, take no node for gone. A process of this machine that has ended is gone at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from busway.gateway.store.port.cell import NodeRow

BEAT = 2.0  # seconds between two renewals
GONE_AFTER = 10.0  # seconds without one
LEASE = 9.5  # seconds after a renewal was sent: when others may take this node for gone, nothing must overlap
_STEP = 2.0  # seconds that count at most between two reads
_PROCESSES = Path("/proc")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def own_row(name: str, role: str, version: str, now: int) -> NodeRow:
    """Return the row of this process. `now`: microseconds since 1970."""
    pid = os.getpid()
    return NodeRow(
        id=0,
        name=name,
        version=version,
        beat=0,
        boot=_boot(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        pid_started=started(pid) or 0,
        processes=0,
        threads=0,
        targets=[],
        opened_at=now,
        role=role,
    )


class Liveness:
    """What one reader knows of the other nodes' lives."""

    def __init__(self) -> None:
        self._silent: dict[int, tuple[int, float]] = {}  # by node: its counter, seconds since it changed
        self._read_at: float | None = None

    def read(self, nodes: list[NodeRow], now: float) -> None:
        """Record a read of all open rows. `now`: seconds of a monotonic clock."""
        passed = 0.0 if self._read_at is None else min(now - self._read_at, _STEP)
        self._read_at = now
        before, self._silent = self._silent, {}
        for node in nodes:
            beat, silent = before.get(node.id, (-1, 0.0))
            self._silent[node.id] = (node.beat, silent + passed if beat == node.beat else 0.0)

    def failed(self) -> None:
        """Record that a read failed: the time until the next one does not count."""
        self._read_at = None

    def is_gone(self, node: NodeRow) -> bool:
        """Return whether a node is gone."""
        return self._silent.get(node.id, (0, 0.0))[1] >= GONE_AFTER or _has_ended(node)


def _has_ended(node: NodeRow) -> bool:
    """Return whether it is known that the process of a node has ended."""
    if not node.pid_started or (node.boot, node.pid_namespace) != (_boot(), _pid_namespace()):
        return False
    try:
        os.kill(node.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    found = started(node.pid)
    return found is not None and found != node.pid_started


def started(pid: int) -> int | None:
    """Return when a process started, in ticks since the start of the machine.

    0: it has ended, and its parent does not know yet. None: it cannot be read, as with `hidepid`.
    """
    try:
        stat = (_PROCESSES / f"{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return 0 if state in {"Z", "X"} else int(fields[18])


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> int:
    try:
        return _PID_NAMESPACE.stat().st_ino
    except OSError:
        return 0

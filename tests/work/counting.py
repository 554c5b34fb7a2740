"""Three ways to count what a real gateway does for the same script: inside Python, by strace, by callgrind.

What a gateway does at its start and for its first events is not counted. Of several blocks of events the
cheapest counts, so that what a timer does now and then does not, and a busy machine does least.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.work.figures import AT_ONCE, ONE_BY_ONE, Figure
from tests.work.gateway import observed
from tests.work.traffic import traffic

Found = dict[Figure, float]
Tally = Counter[tuple[str, str]]
"""How much of which (kind of process, unit)."""

WARM, BLOCKS, BLOCK = 20, 6, 20  # events one by one: before any is counted, then so many blocks of so many
BATCHES, BATCH = 3, 1000  # requests after a first one, and events in each
REST = 0.02  # seconds that follow a delivery until all that belongs to it is done

PROCESSES = ("gateway", "committer", "worker")
_INSIDE = Path(__file__).parent / "inside"
_IN_PYTHON = ("bytecode instructions", "Python calls", "C calls", "encodings", "decodings")
_PAGE_FIELDS = (*_IN_PYTHON, "SQL statements", "commits")  # the order of `inside/sitecustomize.py`
# Next to nothing of an event of many, and as much more as a busy machine makes groups smaller.
_PER_BATCH = {(process, unit) for process in ("committer", "worker") for unit in ("encodings", "decodings")}
# Locks within a process and where malloc finds room are chance, and how often a process waits is how busy the
# machine is; Python 3.11 asks for `getpid` with each `get_running_loop`, later ones do not.
_WAITS = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"}
_MEMORY = {"mmap", "munmap", "mremap", "mprotect", "madvise", "brk"}
_NOT_COUNTED = {"futex", "sched_yield", "getpid", *_MEMORY, *_WAITS}
_CALLS = {
    "sends": {"write", "writev", "sendto", "sendmsg", "sendmmsg"},
    "receives": {"read", "readv", "recvfrom", "recvmsg", "recvmmsg"},
    "file writes": {"pwrite64", "pwritev", "pwritev2"},
    "syncs": {"fsync", "fdatasync", "sync_file_range", "msync"},
}
_LINE = re.compile(r"(\d+) +(\w+)\(")  # of strace: a call begins; where it resumes there is `<... `

# A committer under callgrind; the gateway starts all other programs as always.
_SHIM = """#!/bin/sh
case "$*" in *busway.gateway.store.committer*)
  exec valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file="{folder}/callgrind" \\
    --vgdb-prefix="{folder}/vgdb" --log-file=/dev/null "{python}" "$@" ;;
esac
exec "{python}" "$@"
"""


def counted_inside(folder: Path) -> Found:
    """Count what Python code does, and what it has SQLite do."""
    pages = folder / "pages"
    pages.mkdir()
    environment = {"COUNTED": str(pages), "PYTHONPATH": str(_INSIDE)}
    with observed(folder, environment=environment) as gateway, traffic(gateway.url) as script:

        def tally() -> Tally:
            return _pages(pages) + _log_pages(gateway.database)

        script.one_by_one(WARM)
        single = _blocks(script.one_by_one, tally, BLOCKS, BLOCK)
        script.at_once(BATCH)
        batch = _blocks(script.at_once, tally, BATCHES, BATCH)
    python = [(process, unit) for process in PROCESSES for unit in _IN_PYTHON]
    store = [("committer", unit) for unit in ("SQL statements", "commits", "log pages")]
    grouped = [what for what in python if what not in _PER_BATCH]
    return _figures(ONE_BY_ONE, single, [*python, ("gateway", "SQL statements"), *store]) | _figures(
        AT_ONCE, batch, [*grouped, *store]
    )


def counted_system_calls(folder: Path) -> Found:
    """Count system calls."""
    log = folder / "strace"
    # -D: the gateway stays our child, strace does not become its parent.
    prefix = ("strace", "-D", "-f", "-qq", "-s", "0", "-e", "signal=none", "-o", str(log))
    with observed(folder, prefix) as gateway, traffic(gateway.url) as script:
        script.one_by_one(WARM)
        kinds = gateway.threads()
        tally: Tally = Counter()
        with log.open(encoding="utf-8", errors="replace") as lines:

            def so_far() -> Tally:
                tally.update(_system_calls(lines, kinds))
                return tally.copy()

            found = _blocks(script.one_by_one, so_far, BLOCKS, BLOCK)
    units = [(process, unit) for process in PROCESSES for unit in ("sends", "receives", "system calls")]
    return _figures(ONE_BY_ONE, found, [*units, ("committer", "file writes"), ("committer", "syncs")])


def counted_instructions(folder: Path) -> Found:
    """Count the committer's machine instructions; callgrind does not know what the gateway asks of Linux."""
    shim = folder / "python"
    shim.write_text(_SHIM.format(folder=folder, python=sys.executable), encoding="utf-8")
    shim.chmod(0o755)
    environment = {"COUNTED_PYTHON": str(shim), "PYTHONPATH": str(_INSIDE)}
    with observed(folder, environment=environment) as gateway, traffic(gateway.url) as script:
        committer = next(task for task, kind in gateway.threads().items() if kind == "committer")

        def tell(*words: str) -> None:
            prefix = f"--vgdb-prefix={folder}/vgdb"
            subprocess.run(["vgdb", prefix, f"--pid={committer}", *words], check=True, capture_output=True)

        script.one_by_one(WARM)
        tell("instrumentation", "on")
        counts: list[float] = []
        for step, events in (
            (script.one_by_one, WARM),
            (script.one_by_one, BLOCKS * BLOCK),
            (script.at_once, BATCH),
            (script.at_once, BATCH),
        ):
            step(events)
            time.sleep(REST)
            tell("dump")
            counts.append(_callgrind(folder / f"callgrind.{len(counts) + 1}") / events)
    found = {ONE_BY_ONE: counts[1], AT_ONCE: counts[3]}
    return {Figure(script, "committer", "machine instructions"): count for script, count in found.items()}


COUNTERS: dict[str, Callable[[Path], Found]] = {
    "inside Python": counted_inside,
    "by strace": counted_system_calls,
    "by callgrind": counted_instructions,
}


def _blocks(step: Callable[[int], None], tally: Callable[[], Tally], blocks: int, events: int) -> list[Tally]:
    """Return what each block took."""
    before, found = tally(), list[Tally]()
    for _ in range(blocks):
        step(events)
        time.sleep(REST)
        after = tally()
        found.append(Counter({what: after[what] - before[what] for what in after}))
        before = after
    return found


def _figures(script: str, blocks: list[Tally], wanted: Iterable[tuple[str, str]]) -> Found:
    events = BLOCK if script == ONE_BY_ONE else BATCH
    return {Figure(script, *what): min(b[what] for b in blocks) / events for what in wanted}


def _pages(folder: Path) -> Tally:
    found: Tally = Counter()
    for page in folder.iterdir():
        figures = struct.unpack(f"{len(_PAGE_FIELDS)}Q", page.read_bytes())
        process = page.name.partition("-")[0]
        found.update({(process, unit): n for unit, n in zip(_PAGE_FIELDS, figures, strict=True)})
    return found


def _log_pages(database: Path) -> Tally:
    """How many pages the write-ahead log holds: `mxFrame` in the header of its index."""
    index = database.with_name(database.name + "-shm").read_bytes()
    return Counter({("committer", "log pages"): struct.unpack_from("I", index, 16)[0]})


def _system_calls(lines: Iterable[str], kinds: dict[int, str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        begins = _LINE.match(line)
        if begins is None or begins[2] in _NOT_COUNTED:
            continue
        process = kinds.get(int(begins[1]), "other")
        yield process, "system calls"
        yield from ((process, unit) for unit, names in _CALLS.items() if begins[2] in names)


def _callgrind(dump: Path) -> int:
    totals = re.search(r"^totals: (\d+)$", dump.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    assert totals, f"callgrind wrote no totals into {dump.name}"
    return int(totals[1])

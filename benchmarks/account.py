"""The account: the CPU time of an event, by process and by part of the process.

There are two loads: during the first, the processes' CPU clocks are read; during the second, py-spy samples,
which itself takes time. The microseconds of a part are its share of the samples times the process's CPU time.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks import running
from benchmarks.load import Counter, stored, wrk
from benchmarks.report import Record, one_line
from benchmarks.row import Missing, Say

NAME = "account"
SECONDS = 8.0  # of each load
SPY_SECONDS, SPY_RATE = 5.0, 250  # samples a second
FRAME = re.compile(r"\((\S+?):\d+\)$")
PARTS = (
    ("HTTP", ("busway/gateway/api/", "busway/gateway/access/", "busway/gateway/door/", "uvicorn/")),
    ("ingest", ("busway/gateway/ingest/",)),
    ("store", ("busway/gateway/store/",)),
    ("dispatch", ("busway/gateway/dispatch/",)),
    ("executors", ("busway/gateway/executors/",)),
    ("attempts", ("busway/gateway/attempts/",)),
    ("subscribers", ("busway/gateway/subscribers/",)),
    ("channel", ("busway/gateway/channel.py",)),
    ("event loop", ("asyncio/", "busway/gateway/server.py")),
)


def take(say: Say, effort: float) -> Record:
    """Return the account.

    Raises:
        Missing: the load generator cannot be installed.
    """
    with running.busway() as gateway, contextlib.closing(Counter(gateway.url)) as counter:
        wrk(gateway.url + "/v1/events", 2)
        processes = _processes(gateway.process.pid)
        made = _clocks(gateway.url, counter, processes, SECONDS * effort)
        say(f"{NAME}: the clocks of {', '.join(processes)} were read")
        totals = {name: sum(clock.values()) for name, clock in made["processes"].items()}
        try:
            samples = _samples(gateway.url, processes, effort)
        except Missing as why:
            return made | {"parts_missing": str(why)}
        say(f"{NAME}: py-spy has sampled")
    parts = {name: _shared(tally, totals[name]) for name, tally in samples.items()}
    return made | {"parts": parts}


def _processes(gateway: int) -> dict[str, list[psutil.Process]]:
    """Return the gateway's processes by name."""
    whole = psutil.Process(gateway)
    found: dict[str, list[psutil.Process]] = {"gateway": [whole], "committer": [], "workers": []}
    for child in whole.children(recursive=True):
        committer = "busway.gateway.store.committer" in child.cmdline()
        found["committer" if committer else "workers"].append(child)
    return found


def _clocks(url: str, counter: Counter, processes: dict[str, list[psutil.Process]], seconds: float) -> Record:
    """Read the processes' CPU clocks before and after a load; return microseconds per event."""
    before, began, published = _read(processes), time.monotonic(), stored(url)
    wrk(url + "/v1/events", seconds)
    counter.settle(stored(url))
    total = stored(url)  # includes events that were under way when wrk ended
    counter.settle(total)
    after, events = _read(processes), total - published
    if counter.count != total:
        raise RuntimeError(f"{total} events brought {counter.count} results")
    took = counter.last - began

    def each(name: str, index: int) -> float:
        return _rounded((after[name][index] - before[name][index]) / events * 1e6)

    return {
        "events_per_s": _rounded(events / took),
        "processes": {name: {"user_us": each(name, 0), "system_us": each(name, 1)} for name in processes},
    }


def _read(processes: dict[str, list[psutil.Process]]) -> dict[str, tuple[float, float]]:
    """Return user and system seconds, summed over the processes of each name."""
    times = {name: [process.cpu_times() for process in some] for name, some in processes.items()}
    return {name: (sum(t.user for t in some), sum(t.system for t in some)) for name, some in times.items()}


def _samples(url: str, processes: dict[str, list[psutil.Process]], effort: float) -> dict[str, Tally[str]]:
    """Sample gateway and committer during a load; return the number of samples in each part.

    Raises:
        Missing: py-spy is not installed, or may not inspect other processes.
    """
    seconds = max(1, round(SPY_SECONDS * effort))
    with running.folder() as place, contextlib.ExitStack() as stack:
        spies = {}
        for name in ("gateway", "committer"):
            spies[name] = stack.enter_context(_spy(processes[name][0].pid, seconds, place / name))
        wrk(url + "/v1/events", SECONDS * effort)
        for spy in spies.values():
            said = spy.communicate()[0]
            if spy.returncode != 0:
                raise Missing(f"py-spy: {one_line(said)}")
        parts = {"gateway": part_of, "committer": module}
        return {name: _folded(place / name, parts[name]) for name in spies}


@contextlib.contextmanager
def _spy(pid: int, seconds: int, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A py-spy that samples a process for the given seconds."""
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise Missing("py-spy is not installed")
    command = [str(program), "record", "--format=raw", "--nonblocking", f"--duration={seconds}"]
    command += [f"--rate={SPY_RATE}", f"--pid={pid}", f"--output={out}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _folded(path: Path, named: Callable[[list[str]], str]) -> Tally[str]:
    """Read py-spy's raw stacks, outermost frame first, and count them by name."""
    tally: Tally[str] = Tally()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        files = [found[1] for frame in stack.split(";") if (found := FRAME.search(frame))]
        if files:
            tally[named(files)] += int(count)
    return tally


def part_of(files: list[str]) -> str:
    """Return the part that a stack belongs to: that of its innermost frame in a known place."""
    for file in reversed(files):
        for name, places in PARTS:
            if file.startswith(places):
                return name
    return "other"


def module(files: list[str]) -> str:
    """Return Busway's innermost module in a stack."""
    ours = [file for file in files if file.startswith("busway/")]
    return ours[-1].removeprefix("busway/").removesuffix(".py") if ours else "other"


def _shared(tally: Tally[str], total: float) -> Record:
    """Return each name's share of the samples and of the microseconds, largest first."""
    samples = tally.total()
    ordered = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    return {
        name: {"share": _rounded(count / samples), "us": _rounded(total * count / samples)}
        for name, count in ordered
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")

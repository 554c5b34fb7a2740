"""A gateway under faults: its family of processes, its bystanders, and what must come back afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import psutil

from tests import forked
from tests.e2e.service import FINAL, PATIENCE, Service, clean_environment, until, until_none

__all__ = ["FINAL", "PATIENCE", "Bystanders", "Census", "House", "seeded", "until"]

EVENT_BYTES = 12 << 20
READERS = 4  # connections that the gateway reads the database with


def seeded() -> random.Random:
    """Chance with a seed that is printed, and taken from `BUSWAY_TEST_SEED`."""
    value = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print(f"BUSWAY_TEST_SEED={value}")
    return random.Random(value)


class Census(NamedTuple):
    """What a fault may change for a moment, and must not for good."""

    processes: int
    zombies: int
    descriptors: int
    kinds: dict[str, int]


class House(Service):
    """A service whose processes are known by what they do.

    `prefix` is put before its command line, `environment` added to its environment.
    """

    prefix: Sequence[str] = ()
    environment: Mapping[str, str] = MappingProxyType({})

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, pool: str, **options: Any) -> Iterator[House]:
        """Make a house in that pool; it is gone at the end, whatever became of it."""
        house = cls(
            folder, pool=pool, threads=8, max_event_bytes=EVENT_BYTES, max_body_bytes=64 << 20, **options
        )
        try:
            yield house
        finally:
            house.close()

    @property
    def pool(self) -> str:
        return str(self.options["pool"])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def settle_in(self) -> None:
        """Have everything made that is made once: all pools, the readers' connections."""
        self.run("fine", pool="process")
        self.finished(self.publish("bystander", {"n": 0})["seq"])

        def all_read() -> bool:
            with ThreadPoolExecutor(16) as many:
                list(many.map(lambda _: self.status(), range(64)))
                list(many.map(lambda _: self.runs(), range(64)))
            opened = [Path(file.path).name for file in psutil.Process(self.pid).open_files()]
            return opened.count(self.database.name) == READERS + 1  # the lock holds it open, too

        until(all_read, "all readers")
        until(lambda: all(self.idle(pool) for pool in ("process", "process:async", "thread")), "all pools")

    # -- life

    def launch(self) -> subprocess.Popen[str]:
        """Start it, as a shell would: at the head of a process group."""
        with self.log.open("ab") as log:
            return forked.Popen(
                [*self.prefix, *self.command()],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**clean_environment(), **self.environment},
                process_group=0,
            )

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return self._reap()

    # -- runs

    def run(self, handler: str, data: Any = None, **_: Any) -> dict[str, Any]:
        """Publish what that handler runs, wait for its end, return the run with its attempts."""
        return self.run_of(self.publish(f"faulty.{handler}", data)["seq"])

    def begin(self, handler: str, data: Any = None) -> int:
        """Publish what that handler runs and wait until it runs; return the run's number."""
        seq = self.publish(f"faulty.{handler}", data)["seq"]
        run = int(self.ok("GET", f"/v1/events/{seq}")["runs"][0]["id"])
        self.until_running(run)
        return run

    def until_running(self, run: int) -> None:
        """Wait until a run is marked as running."""
        until(lambda: self.ok("GET", f"/v1/runs/{run}")["state"] == "running", f"run {run} to start")

    def failed_once(self, seq: int) -> bool:
        """Tell whether the first attempt of an event's only run has failed."""
        [run] = self.ok("GET", f"/v1/events/{seq}")["runs"]
        attempts = self.ok("GET", f"/v1/runs/{run['id']}")["attempts"]
        return any(attempt["outcome"] == "failed" for attempt in attempts)

    def end(self, run: int) -> dict[str, Any]:
        """Wait until a run is over and return it with its attempts."""

        def probe() -> Any:
            detail = self.ok("GET", f"/v1/runs/{run}")
            return detail if detail["state"] in FINAL else None

        found: dict[str, Any] = until(probe, f"run {run} to end")
        return found

    def results_of(self, run: int) -> list[dict[str, Any]]:
        """Return the results of one run, in order."""
        name = self.ok("GET", f"/v1/runs/{run}")["handler"]
        return [item for item in self.results(handlers=name) if item["run"] == run]

    def finals_of(self, run: int) -> list[str]:
        """Return the kinds of the run's results that end it."""
        return [item["kind"] for item in self.results_of(run) if item["kind"] in FINAL]

    # -- processes

    def status(self) -> dict[str, Any]:
        """Ask for `/v1/status`."""
        found: dict[str, Any] = self.ok("GET", "/v1/status")
        return found

    def zygote(self) -> int:
        """Wait for a zygote and return its process id."""
        pid: int = until(lambda: self.status()["workers"]["zygote"]["pid"], "a zygote")
        return pid

    def workers(self, pool: str | None = None) -> list[dict[str, Any]]:
        """Return the workers of a pool, this house's own if none is named."""
        found: list[dict[str, Any]] = self.status()["workers"]["pools"][pool or self.pool]["workers"]
        return found

    def idle(self, pool: str | None = None) -> list[int]:
        """Return the workers of a pool if they are complete and none has an attempt."""
        found = self.status()["workers"]["pools"][pool or self.pool]
        ready = [w["pid"] for w in found["workers"] if w["state"] == "ready" and not w["running"]]
        return ready if len(ready) == len(found["workers"]) == found["processes"] else []

    def _is_complete(self) -> bool:
        pools = self.status()["workers"]["pools"].items()
        return all(not pool["workers"] or self.idle(name) for name, pool in pools)

    def committer(self) -> psutil.Process:
        """Return the process that writes."""
        return next(p for p in self.family() if "busway.gateway.store.committer" in " ".join(_command(p)))

    def family(self) -> list[psutil.Process]:
        """Return all descendants of the gateway."""
        return psutil.Process(self.pid).children(recursive=True)

    def census(self) -> Census:
        """Count what the gateway holds when no worker starts or ends."""
        until(self._is_complete, "the pools to be complete")
        last = self._count()
        while True:
            time.sleep(0.05)
            now = self._count()
            if now == last:
                return now
            last = now

    def _count(self) -> Census:
        family = self.family()
        zombies = sum(_is_zombie(process) for process in family)
        # How many connections a client keeps alive is its own affair.
        clients = [c for c in psutil.Process(self.pid).net_connections("tcp") if c.raddr]
        kinds: Counter[str] = Counter()
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                kinds[str(link.readlink()).partition(":[")[0]] += 1
        kinds["socket"] -= len(clients)
        return Census(len(family), zombies, kinds.total(), dict(kinds))

    def comes_back_to(self, before: Census) -> None:
        """Wait until nothing is left of what came since."""

        def probe() -> bool:
            now = self._count()
            came = (now.processes, now.zombies) == (before.processes, before.zombies)
            return came and now.descriptors <= before.descriptors

        try:
            until(probe, "the counts to come back")
        except AssertionError:
            left = [(p.pid, p.status(), _command(p)[-3:]) for p in self.family()]
            raise AssertionError(f"before: {before}, now: {self._count()}: {left}") from None


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


class Bystanders:
    """A light load on other handlers, in all pools; every run of it must succeed, at its first charge."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._stopping = threading.Event()
        self._seqs: list[int] = []
        self._failures: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=PATIENCE, verify=False) as client:
            while not self._stopping.is_set() or len(self._seqs) < 3:
                body = {"type": "bystander", "data": {"n": len(self._seqs)}}
                answer = client.post(self._house.url + "/v1/events", json=body)
                if answer.status_code == 202:
                    self._seqs.append(answer.json()["seq"])
                else:
                    self._failures.append(answer.text)
                time.sleep(0.02)

    def finish(self) -> None:
        """Stop, and see that all of them ended well."""
        self._stopping.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert not self._failures, self._failures
        assert self._seqs, "nobody stood by"
        for handler in ("bystander", "bystander_async", "bystander_thread"):
            runs = self._ended(handler)
            states = {run["state"] for run in runs}
            assert states == {"succeeded"}, [run for run in runs if run["state"] != "succeeded"]

    def _ended(self, handler: str) -> list[dict[str, Any]]:
        first, wanted = min(self._seqs), len(self._seqs)

        def probe() -> Any:
            runs = self._house.get("/v1/runs", params={"handler": handler, "limit": 1000}).json()["items"]
            ours = [run for run in runs if run["event"] >= first]
            done = len(ours) >= min(wanted, 1000) and all(run["state"] in FINAL for run in ours)
            return ours if done else None

        found: list[dict[str, Any]] = until(probe, f"the runs of {handler}")
        return found


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes for a while. The signal takes effect a little later: wait until all have stopped."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: all(_is_stopped(pid) for pid in pids), "all to be stopped")
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    return _states(pid) <= {"T", "Z"}


def _states(pid: int) -> set[str]:
    """Return the states of a process's threads."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return found


def kill(*pids: int) -> None:
    """Kill processes, as the kernel does when memory is short."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Tell whether a process is dead and buried."""
    return not psutil.pid_exists(pid)


def appear(sign: Path, text: str) -> None:
    """Let a file appear with its content: a handler reads it as soon as it is there."""
    new = sign.with_suffix(".new")
    new.write_text(text)
    new.rename(sign)


def at_rest(pid: int, looks: int = 10) -> Callable[[], bool]:
    """Tell whether over so many looks a process slept and used no time: it waits in the kernel.

    One that only waits for a processor does not sleep.
    """
    seen: list[tuple[bool, float]] = []

    def probe() -> bool:
        times = psutil.Process(pid).cpu_times()
        seen.append((_states(pid) == {"S"}, times.user + times.system))
        return len(seen) > looks and seen[-1][0] and len(set(seen[-looks:])) == 1

    return probe


def metric(text: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that bear these labels."""
    total = 0.0
    for line in text.splitlines():
        form = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if form and all(f'{key}="{value}"' in (form[1] or "") for key, value in labels.items()):
            total += float(form[2])
    return total


class Publishing:
    """Numbered events for a handler that writes each number into a file; which were acknowledged."""

    def __init__(self, house: House, type_: str, file: str) -> None:
        self._house, self._type, self._file = house, type_, file
        self._acknowledged: list[int] = []
        self._number = 0
        self._going: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Publish from now on."""
        self._going = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._going,), daemon=True)
        self._thread.start()

    def _run(self, stop: threading.Event) -> None:
        with httpx.Client(timeout=PATIENCE, verify=False) as client:
            while not stop.is_set():
                self._number += 1
                data = {"n": self._number, "file": self._file}
                with contextlib.suppress(httpx.TransportError):  # it is ending
                    answer = client.post(
                        self._house.url + "/v1/events", json={"type": self._type, "data": data}
                    )
                    assert answer.status_code in {202, 503}, answer.text
                    if answer.status_code == 202:
                        self._acknowledged.append(self._number)
                time.sleep(0.01)

    def pause(self) -> None:
        """Publish no more for now."""
        assert self._going is not None
        assert self._thread is not None
        self._going.set()
        self._thread.join(PATIENCE)

    def check(self) -> None:
        """Everything acknowledged ran, and each run has one final result."""
        handler = self._type.partition(".")[2]

        def unfinished() -> list[dict[str, Any]]:
            return [run for run in self._house.runs(handler=handler) if run["state"] not in FINAL]

        until_none(lambda: len(unfinished()), "all to end")
        finals = [i for i in self._house.results(handlers=handler) if i["kind"] in FINAL]
        assert {item["kind"] for item in finals} == {"succeeded"}
        numbers = [item["data"] for item in finals]
        assert len(numbers) == len(set(numbers)), "a run has two final results"
        assert set(numbers) >= set(self._acknowledged), "an acknowledged event was lost"
        ran = set(map(int, Path(self._file).read_text().split()))
        assert ran >= set(self._acknowledged)
        assert len(self._acknowledged) > 10, "too little was under way to show anything"

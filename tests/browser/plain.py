"""A Chromium that nothing drives: a plain process that opens a URL, seen from outside through /proc.

With an automation attached, a browser also keeps what the automation may ask for, such as bodies of answers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from websockets.sync.client import connect

from tests.e2e.service import PATIENCE, until
from tests.ports import unused_port

PRIVATE = re.compile(r"^Private_\w+:\s+(\d+) kB", re.MULTILINE)


class Taken(NamedTuple):
    """What a page takes: private bytes and seconds of CPU of its process, CPU of the whole browser."""

    memory: int
    cpu: float
    browser_cpu: float


class Plain:
    """A Chromium with one page, in a process group of its own."""

    def __init__(self, program: str, folder: Path, url: str, flags: Sequence[str]) -> None:
        self.port = unused_port()
        command = [
            program, "--headless=new", *flags, f"--remote-debugging-port={self.port}",
            f"--user-data-dir={folder}", "--window-size=1280,900",
            "--disable-extensions", "--disable-features=SpareRendererForSitePerProcess", url,
        ]  # fmt: skip
        nothing = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=nothing, stderr=nothing, start_new_session=True)
        self.url = url

    def close(self) -> None:
        """Kill the browser with all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def page(self) -> str:
        """Wait until the browser has its page. Return the address of the page's debugger."""

        def find() -> str | None:
            with contextlib.suppress(httpx.TransportError):
                for each in httpx.get(f"http://127.0.0.1:{self.port}/json/list", timeout=PATIENCE).json():
                    if each["type"] == "page" and each["url"] == self.url:
                        return str(each["webSocketDebuggerUrl"])
            return None

        return str(until(find, f"a page with {self.url}"))

    def ask(self, *methods: str, **parameters: Any) -> dict[str, Any]:
        """Attach for a moment, send commands of the DevTools protocol, and return the last answer."""
        answer: dict[str, Any] = {}
        with connect(self.page(), max_size=None, open_timeout=PATIENCE) as devtools:
            for n, method in zip(itertools.count(1), methods, strict=False):
                last = n == len(methods)
                devtools.send(json.dumps({"id": n, "method": method, "params": parameters if last else {}}))
                while (answer := json.loads(devtools.recv(PATIENCE))).get("id") != n:
                    pass
        return answer

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression on the page, None while the page is not there yet."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("result", {}).get("value")

    def metrics(self) -> dict[str, float]:
        """Return what the page's renderer counts, such as `JSHeapUsedSize` and `Nodes`."""
        found = self.ask("Performance.enable", "Performance.getMetrics")["result"]["metrics"]
        return {each["name"]: each["value"] for each in found}

    def purge(self) -> None:
        """Have the page free all that it can."""
        self.ask("HeapProfiler.collectGarbage", "Memory.forciblyPurgeJavaScriptMemory")

    def taken(self) -> Taken:
        """Return what the page takes: its renderer is the one that worked most."""
        processes = list(descendants(self.process.pid))
        renderers = [pid for pid in processes if "--type=renderer" in command_of(pid)]
        renderer = max(renderers, key=cpu)
        private = PRIVATE.findall(Path(f"/proc/{renderer}/smaps_rollup").read_text())
        return Taken(sum(map(int, private)) * 1024, cpu(renderer), sum(map(cpu, processes)))


def descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            for child in children.read_text().split():
                yield from descendants(int(child))


def command_of(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def cpu(pid: int) -> float:
    """Return the seconds of CPU of a process, zero if it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0

"""`make soak-console SECONDS=3600`: the console in a real Chromium, with many events and results.

At 500 results a second, two pages are open: Live, where all results arrive, and the overview. Each has a
process of its own. Printed every minute: memory that it shares with no other process, CPU time, and what it
holds. Playwright has the browser keep the bodies of answers, so memory grows by them.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, CDPSession, Page

from tests.browser.console import Console
from tests.e2e.service import PATIENCE, Service, until

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
RATE = 500  # results a second
BATCH = 25
WARM = 60.0  # seconds until a page has all that it keeps
EVERY = 60.0
MEMORY = 200 << 20
CPU = 0.10  # of a core
PRIVATE = re.compile(r"^Private_\w+:\s+(\d+) kB", re.MULTILINE)
CODE = """
from busway import handler

@handler("soak.**")
def price(event):
    return {"order": event.data["n"], "total": 42}
"""

EVENTS = 100_000
PAGES = ("/", "/live", "/events", "/events/1", "/handlers/price", "/runs", "/dead", "/subscribers", "/nodes")
TIMES = """() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
  slowest: performance.getEntriesByType("resource")
    .filter((each) => each.name.includes("/v1/"))
    .map((each) => [each.duration, each.name.slice(location.origin.length)])
    .sort((a, b) => b[0] - a[0])[0],
})"""


class Taken(NamedTuple):
    """What a page takes: private bytes of its process, seconds of CPU, bytes of its heap, DOM nodes."""

    at: float
    memory: int
    cpu: float
    heap: int
    nodes: int


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, pool="thread", workers=1)
    service.write("soak.py", CODE)
    yield service.start()
    service.close()


def publish(service: Service, ending: threading.Event) -> None:
    """Publish at a steady rate. What a busy machine delays comes later."""
    begun = time.monotonic()
    with httpx.Client(timeout=PATIENCE) as client:
        for n in itertools.count():
            events = [{"type": "soak.order", "data": {"n": n * BATCH + m}} for m in range(BATCH)]
            client.post(f"{service.own_url}/v1/events", json=events).raise_for_status()
            if ending.wait(max(0.0, begun + (n + 1) * BATCH / RATE - time.monotonic())):
                return


def taken(session: CDPSession, pid: int) -> Taken:
    found: dict[str, Any] = {}
    for each in session.send("Performance.getMetrics")["metrics"]:
        found[each["name"]] = each["value"]
    private = PRIVATE.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Taken(
        time.monotonic(),
        sum(map(int, private)) * 1024,
        ticks / os.sysconf("SC_CLK_TCK"),
        int(found["JSHeapUsedSize"]),
        int(found["Nodes"]),
    )


def renderers(browser: Browser) -> dict[int, float]:
    """Return the processes that draw pages, each with its CPU time."""
    session = browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return {each["id"]: each["cpuTime"] for each in found if each["type"] == "renderer"}


def renderer(browser: Browser, page: Page) -> int:
    """Return the process of a page: the one that becomes busy with it."""
    before = renderers(browser)
    page.evaluate("() => { const end = performance.now() + 1000; while (performance.now() < end); }")
    after = renderers(browser)
    return max(after, key=lambda pid: after[pid] - before.get(pid, 0.0))


@pytest.mark.soak
def test_the_console_stays_small(browser: Browser, service: Service) -> None:
    watched: dict[str, tuple[CDPSession, int]] = {}
    for path in ("/live", "/"):
        page = browser.new_context().new_page()  # each context has a process of its own
        Console(page, service).open(path)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        watched[path] = (session, renderer(browser, page))
    assert len({pid for _, pid in watched.values()}) == len(watched)
    ending = threading.Event()
    publisher = threading.Thread(target=publish, args=(service, ending))
    publisher.start()
    seen: dict[str, list[Taken]] = {path: [] for path in watched}
    try:
        end = time.monotonic() + SECONDS
        page.wait_for_timeout(min(WARM, SECONDS / 4) * 1000)
        while True:
            for path, (session, pid) in watched.items():
                seen[path].append(taken(session, pid))
                print(path, told(seen[path]), f"load {os.getloadavg()[0]:.1f}", flush=True)
            if time.monotonic() > end:
                break
            page.wait_for_timeout(max(0.0, min(EVERY, end - time.monotonic())) * 1000)
    finally:
        ending.set()
        publisher.join()
    for path, all_ in seen.items():
        assert max(each.memory for each in all_) < MEMORY, path
        assert share(all_) < CPU, path
        assert all_[-1].nodes < 2 * all_[0].nodes + 5_000, path


def share(all_: list[Taken]) -> float:
    """Return the part of a core that a page took since the first look."""
    first, last = all_[0], all_[-1]
    return (last.cpu - first.cpu) / max(1.0, last.at - first.at)


def told(all_: list[Taken]) -> str:
    last = all_[-1]
    return (
        f"{last.at - all_[0].at:6.0f} s: {last.memory / (1 << 20):5.1f} MiB, {share(all_):6.1%} of a core, "
        f"heap {last.heap / (1 << 20):5.1f} MiB, {last.nodes} nodes,"
    )


@pytest.mark.soak
def test_each_page_with_many_events(browser: Browser, service: Service) -> None:
    """Print how fast each page is. That is not checked: it depends on how busy the machine is."""
    batch = 1_000
    with httpx.Client(timeout=PATIENCE) as client:
        for n in range(EVENTS // batch):
            events = [{"type": "soak.order", "data": {"n": n * batch + m}} for m in range(batch)]
            client.post(f"{service.own_url}/v1/events", json=events).raise_for_status()
    until(lambda: not service.unfinished(), "the end of all runs")
    console = Console(browser.new_context().new_page(), service)
    for path in PAGES:
        console.open(path)
        until(lambda: console.page.locator(".loading").count() == 0, "what the page loads")
        console.page.wait_for_timeout(3_000)  # and what it loads again
        found = console.page.evaluate(TIMES)
        took, name = found["slowest"]
        print(
            f"{path:16} first paint {found['paint']:6.0f} ms, slowest request {took:6.0f} ms ({name}), "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        assert console.faults == []

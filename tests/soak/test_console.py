"""`make soak-console SECONDS=3600`: the console in a real Chromium, with many events and results.

At 500 results a second, two pages are open: Live, where all results arrive, and the overview. Each is the
only page of a plain Chromium, to which nothing is attached but for a moment each minute. Printed then: memory
that its process shares with no other, CPU time, and what it holds.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import FLAGS
from tests.browser.console import Console
from tests.browser.plain import Plain, Taken
from tests.e2e.service import PATIENCE, Service, until

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
RATE = 500  # results a second
BATCH = 25
WARM = 60.0  # seconds until a page has all that it keeps
EVERY = 60.0
MEMORY = 200 << 20
CPU = 0.10  # of a core
ROWS = "document.querySelectorAll('[data-row]').length"
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


class Look(NamedTuple):
    """What a page takes at a time, with the bytes of its heap and its DOM nodes."""

    at: float
    page: Taken
    heap: float
    nodes: float


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


def look(plain: Plain) -> Look:
    metrics = plain.metrics()
    return Look(time.monotonic(), plain.taken(), metrics["JSHeapUsedSize"], metrics["Nodes"])


@pytest.mark.soak
def test_the_console_stays_small(chromium: str, service: Service, tmp_path: Path) -> None:
    watched: dict[str, Plain] = {}
    ending = threading.Event()
    publisher = threading.Thread(target=publish, args=(service, ending))
    seen: dict[str, list[Look]] = {"/live": [], "/": []}
    try:
        publisher.start()
        for n, path in enumerate(seen):
            watched[path] = Plain(chromium, tmp_path / f"browser{n}", f"{service.own_url}/#{path}", FLAGS)
            until(lambda plain=watched[path]: plain.evaluate(ROWS), f"rows on {path}")
        begun = time.monotonic()
        ending.wait(min(WARM, SECONDS / 4))
        while True:
            for path, plain in watched.items():
                seen[path].append(look(plain))
                print(
                    path,
                    told(seen[path]),
                    f"{rate(service):.0f} results/s, load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
            if time.monotonic() > begun + SECONDS:
                break
            ending.wait(max(0.0, min(EVERY, begun + SECONDS - time.monotonic())))
        for path, plain in watched.items():
            plain.purge()
            print(f"{path} after the browser freed what it could: {plain.taken().memory / (1 << 20):.1f} MiB")
    finally:
        ending.set()
        publisher.join()
        for plain in watched.values():
            plain.close()
    for path, all_ in seen.items():
        assert max(each.page.memory for each in all_) < MEMORY, path
        assert share(all_) < CPU, path
        assert all_[-1].nodes < 2 * all_[0].nodes + 5_000, path


def rate(service: Service) -> float:
    """Return the results a second of the last minute."""
    samples = service.ok("GET", "/v1/rates")["samples"][-12:]
    return float(sum(each["results"] for each in samples) / sum(each["seconds"] for each in samples))


def share(all_: list[Look], whole: bool = False) -> float:
    """Return the part of a core that a page, or its whole browser, took since the first look."""
    first, last = all_[0], all_[-1]
    took = last.page.browser_cpu - first.page.browser_cpu if whole else last.page.cpu - first.page.cpu
    return took / max(1.0, last.at - first.at)


def told(all_: list[Look]) -> str:
    last = all_[-1]
    memory, heap = (each / (1 << 20) for each in (last.page.memory, last.heap))
    return (
        f"{last.at - all_[0].at:6.0f} s: {memory:5.1f} MiB, {share(all_):6.1%} of a core, "
        f"{share(all_, whole=True):.1%} with all of the browser, heap {heap:5.1f} MiB, {last.nodes:.0f} nodes"
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
    for path in ("/nodes", *PAGES):  # the first one waits for the browser, which is still starting
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

"""Take the pictures of the console in the docs, from a real gateway: `python -m tools.pictures`.

Needs Chromium. A test checks that the pictures are small; what they show happens within some seconds.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import FLAGS
from tests.e2e.service import Service, until

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs"
MOST = 100 * 1024  # bytes of a picture
SECONDS = 45  # of events, so that the plot has a shape
ORDERS = ({"item": "book", "quantity": 2}, {"item": "pen", "quantity": 1}, {"item": "lamp", "quantity": 3})


def main() -> int:
    """Write each picture. Return the exit status."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        print("no Chromium on this machine: install the package chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples" / "handlers", Path(folder) / "handlers")
        service = Service(Path(folder), reload=True)
        service.start()
        try:
            seq = fill(service)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
                take(browser, service, seq)
                browser.close()
        finally:
            service.close()
    large = [path.name for path in PICTURES.glob("console-*.png") if path.stat().st_size > MOST]
    if large:
        print(f"larger than {MOST} bytes: {', '.join(large)}", file=sys.stderr)
    return 1 if large else 0


def fill(service: Service) -> int:
    """Publish events for some seconds. Return the number of one with a tree."""
    for _ in range(4):
        service.publish("order.created", {"item": "piano", "quantity": 1})
    end, n = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        n += 1
        service.publish("order.created", ORDERS[n % 3])
        time.sleep(0.1 + 0.25 * (n // 40 % 2))
    seq: int = service.publish("order.created", ORDERS[0])["seq"]
    until(lambda: not service.unfinished(), "the end of all runs")
    orders = service.handlers / "orders.py"
    text = orders.read_text(encoding="utf-8")
    service.write("orders.py", text.replace('"lamp": 4900}', '"lamp": 4900, "piano": 420_000}'))
    until(lambda: service.ok("GET", "/v1/handlers/price")["revision"] == 2, "the new revision")
    return seq


def take(browser: Browser, service: Service, seq: int) -> None:
    """Take the pictures."""
    views: list[tuple[str, str, int, int, Any]] = [
        ("overview", "/", 1120, 660, "light"),
        ("event", f"/events/{seq}", 1120, 660, "dark"),
        ("dead", "/dead", 360, 640, "light"),
        ("revisions", "/handlers/price", 360, 640, "dark"),
    ]
    for name, path, width, height, theme in views:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        page = context.new_page()
        page.goto(f"{service.own_url}/#{path}")
        page.locator("h1").wait_for()
        until(lambda page=page: page.locator(".loading").count() == 0, "the page")
        page.wait_for_timeout(1500)  # what is loaded after it, such as the stack of a dead run
        if name == "dead":
            page.locator("[data-action=what-changed]").first.click()
        if name == "revisions":
            page.locator("[data-section=revisions]").evaluate("section => section.scrollIntoView()")
        page.wait_for_timeout(500)
        page.screenshot(path=str(PICTURES / f"console-{name}.png"))
        context.close()


if __name__ == "__main__":
    sys.exit(main())

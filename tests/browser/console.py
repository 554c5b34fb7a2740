"""A visit to the console."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Request

from tests.documents.node import HERE, Node
from tests.e2e.service import PATIENCE, Service

from .visit import TELL

NARROW, WIDE = (360, 740), (1280, 900)
HANDLERS = """
from busway import Context, Fail, handler

@handler("shop.order")
def price(event, ctx: Context):
    print("pricing", event.data)
    if event.data.get("item") == "piano":
        raise Fail("we do not sell pianos")
    yield {"priced": 1}
    ctx.publish("shop.priced", {"total": 7})
    return {"total": 7}

@handler("shop.priced")
def bill(event):
    return {"billed": event.data["total"]}

@handler("shop.echo")
def echo(event):
    return event.data
"""
AWAY = re.compile(
    r"ERR_(CONNECTION|EMPTY|SOCKET|NETWORK|ABORTED|INCOMPLETE)|status of 503|WebSocket connection to"
)
"""What a browser says while the gateway is gone, and of requests that a page gave up."""


class Console:
    """A page of the console, and all that went wrong on it.

    `refused`: whether the gateway may refuse a request, which the browser reports, too.
    """

    def __init__(self, page: Page, service: Service, *, refused: bool = False) -> None:
        self.page, self.service, self.refused = page, service, refused
        self.faults: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.add_init_script(TELL)
        page.on("console", lambda said: self._fault(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self._fault(str(error)))
        page.on("request", self._request)

    def _fault(self, text: str) -> None:
        if not AWAY.search(text) and not (self.refused and "the server responded with" in text):
            self.faults.append(text)

    def _request(self, request: Request) -> None:
        self.asked.append(f"{request.method} {request.url}")
        if not request.url.startswith((self.service.own_url + "/", "data:")):
            self.faults.append(f"it asked for {request.url}")

    def open(self, path: str = "/") -> None:
        """Open a view, and wait for its heading."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.service.own_url}/#{path}")
        self.page.locator("h1").wait_for()

    def section(self, name: str) -> Any:
        """Return a part of the page."""
        return self.page.locator(f"[data-section={name}]")

    def press(self, name: str) -> None:
        """Press an action, and confirm it if the page asks."""
        self.page.locator(f"[data-action={name}]").first.click()
        if self.page.locator("dialog .danger").count():
            self.page.locator("dialog .danger").click()

    def told(self, text: str) -> None:
        """Wait until the page tells what came of an action."""
        self.page.locator(".notice", has_text=text).first.wait_for()

    def check(self) -> None:
        """Check that nothing went wrong, and that axe finds nothing."""
        assert self.faults == [], self.faults
        found = inaccessible(self.page)
        assert found == [], found
        assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def inaccessible(page: Page) -> list[str]:
    """Return what axe finds on a page."""
    if not page.evaluate("'axe' in window"):
        Node()  # installs it
        page.evaluate(Path(HERE / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in found["violations"]
    ]

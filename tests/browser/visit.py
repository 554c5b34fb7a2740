"""A visit to the docs page."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Locator, Page, Request, Route

from tests.e2e.service import PATIENCE, Service

TELL = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error("policy violation", event.violatedDirective, event.blockedURI, event.sourceFile);
});
"""


class Visit:
    """A page of the service, and all that went wrong on it."""

    def __init__(self, page: Page, service: Service) -> None:
        self.page, self.service = page, service
        self.asked: list[str] = []
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.add_init_script(TELL)
        page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("requestfailed", self._failed)
        page.on("request", lambda request: self.asked.append(request.url))
        page.route(self._is_foreign, self._refuse)

    def _is_foreign(self, url: str) -> bool:
        return not url.startswith((self.service.url + "/", "data:"))

    def _refuse(self, route: Route, request: Request) -> None:
        self.faults.append(f"it asked for {request.url}")
        route.abort()

    def _failed(self, request: Request) -> None:
        if "/v1/subscribe/sse" not in request.url:  # the page closes this stream itself
            self.faults.append(f"{request.url}: {request.failure}")

    def open(self) -> None:
        self.page.goto(f"{self.service.url}/docs")
        self.page.locator(".opblock").first.wait_for()

    def unfold(self, method: str, path: str) -> Locator:
        """Unfold an operation, or fold it again."""
        operation = self.page.locator(f".opblock-{method}").filter(
            has=self.page.locator(f'.opblock-summary-path[data-path="{path}"]')
        )
        operation.locator(".opblock-summary-control").click()
        return operation

    def press(self, operation: Locator) -> int:
        """Press "Execute" on an operation without changes and return the status that the page shows."""
        operation.locator("button.execute").click()
        answer = operation.locator(".live-responses-table .response").first
        answer.wait_for()
        return int(answer.locator(".response-col_status").inner_text().split()[0])

    def execute(self, method: str, path: str) -> tuple[int, Any]:
        """Unfold an operation, execute it, and return the status and the body that the page shows."""
        operation = self.unfold(method, path)
        status = self.press(operation)
        answer = operation.locator(".live-responses-table .response").first
        body = answer.locator(".highlight-code code, .highlight-code pre").first.inner_text()
        return status, json.loads(body)

    def close(self) -> None:
        assert self.faults == []
        assert self.asked
        assert all(not self._is_foreign(url) for url in self.asked)

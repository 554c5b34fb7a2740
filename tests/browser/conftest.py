"""A real Chromium that reaches nothing but this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.service import PATIENCE, Service

from .console import HANDLERS, WIDE, Console

FLAGS = (
    "--no-sandbox",  # Chromium refuses its sandbox to root
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None and os.environ.get("CI") != "true":
        pytest.skip("no Chromium on this machine: install the package chromium")
    assert program, "CI has no Chromium: .ci/run installs the package chromium"
    return program


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=list(FLAGS), timeout=PATIENCE * 1000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("console"), reload=True)
    service.write("shop.py", HANDLERS)
    service.start()
    service.finished(service.publish("shop.order", {"item": "book"})["seq"])
    service.finished(service.publish("shop.order", {"item": "piano"})["seq"])
    yield service
    service.close()


@pytest.fixture
def console(browser: Browser, service: Service) -> Iterator[Console]:
    context = browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]})
    console = Console(context.new_page(), service)
    yield console
    context.close()
    assert console.faults == []

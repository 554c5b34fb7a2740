"""The docs page on a phone and on a desktop, in the light and the dark theme."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.examples import MakeRun
from tests.e2e.service import PATIENCE, Service, until

from .visit import Visit

pytestmark = pytest.mark.browser

EXAMPLES = Path(__file__).parents[2] / "examples" / "handlers"
PHONE, DESKTOP = (390, 844), (1280, 900)
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
FAINT = """() => {
  const read = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const over = (top, under) => top.rgb.map((c, i) => c * top.a + under[i] * (1 - top.a));
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(read(getComputedStyle(e).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const linear = (c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(rgb[i]), 0);
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].filter((n) => n.nodeType === Node.TEXT_NODE);
    const text = own.map((n) => n.data).join("").trim();
    if (!text || !e.checkVisibility() || !e.getClientRects().length) continue;
    const ground = behind(e);
    const front = over(read(getComputedStyle(e).color), ground);
    const [less, more] = [light(ground), light(front)].sort((a, b) => a - b);
    const contrast = (more + 0.05) / (less + 0.05);
    // Swagger UI sets the colors of highlighted JSON inline.
    if (contrast < (e.closest("code, .microlight") ? 3 : 4.5)) faint.push(`${text}: ${contrast}`);
  }
  return faint;
}"""
"""Returns the visible texts whose contrast is below that of WCAG 2.2, 1.4.3."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("look"), handlers=EXAMPLES)
    yield service.start()
    service.close()


def visited(browser: Browser, service: Service, size: tuple[int, int], theme: Any) -> Visit:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    return Visit(context.new_page(), service)


def is_dark(visit: Visit) -> bool:
    color = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in color.strip("rgb()").split(",")) < 3 * 128


def becomes(page: Page, code: str, wanted: Any) -> None:
    """Wait until the layout and the transitions of colors have given this value."""
    with contextlib.suppress(AssertionError):
        until(lambda: page.evaluate(code) == wanted, code)
    assert page.evaluate(code) == wanted


@pytest.mark.long
def test_texts_are_readable_and_nothing_is_wider_than_the_screen(browser: Browser, service: Service) -> None:
    visit = visited(browser, service, DESKTOP, "light")
    visit.open()
    for method, path in (("post", "/v1/events"), ("get", "/v1/runs"), ("patch", "/v1/handlers/{name}")):
        assert visit.press(visit.unfold(method, path)) < 300
    visit.unfold("get", "/v1/subscribe/sse")
    visit.unfold("delete", "/v1/handlers/{name}").locator("button.execute").wait_for()
    for width, height in (DESKTOP, PHONE):
        visit.page.set_viewport_size({"width": width, "height": height})
        for theme in THEMES:
            visit.page.emulate_media(color_scheme=theme)
            assert is_dark(visit) is (theme == "dark")
            becomes(visit.page, "document.documentElement.scrollWidth", width)
            becomes(visit.page, FAINT, [])
    visit.page.evaluate("document.querySelector('.busway .what').style.color = '#12405d'")
    assert len(visit.page.evaluate(FAINT)) == 1, "the check finds nothing"
    visit.page.context.close()


@pytest.mark.long
def test_the_theme_follows_the_system_while_the_page_is_open(browser: Browser, service: Service) -> None:
    visit = visited(browser, service, DESKTOP, "light")
    visit.open()
    assert not is_dark(visit)
    visit.page.emulate_media(color_scheme="dark")
    visit.page.locator("html.dark-mode").wait_for()
    assert is_dark(visit)
    visit.page.emulate_media(color_scheme="light")
    visit.page.locator("html:not(.dark-mode)").wait_for()
    visit.page.context.close()


@pytest.mark.long
def test_every_operation_succeeds_as_it_stands_on_a_fresh_make_run(browser: Browser, tmp_path: Path) -> None:
    """From the first to the last operation of the page. It goes on with the key that it creates."""
    service = MakeRun(tmp_path)
    try:
        service.start()
        visit = visited(browser, service, PHONE, "dark")
        visit.open()
        statuses = {}
        tags = visit.page.locator(".opblock-tag").all()
        for tag in tags:  # folded, because the page renders all that is open again for each click
            tag.click()
        for tag in tags:
            tag.click()
            visit.page.locator(".opblock").first.wait_for()
            for block in visit.page.locator(".opblock").all():
                method = block.locator(".opblock-summary-method").inner_text().lower()
                path = block.locator(".opblock-summary-path").get_attribute("data-path") or ""
                statuses[f"{method} {path}"] = visit.press(visit.unfold(method, path))
                visit.unfold(method, path)
            tag.click()
            visit.page.locator(".opblock").first.wait_for(state="detached")
        paths = service.get("/openapi.json").json()["paths"]
        assert {*statuses} == {f"{method} {path}" for path, of in paths.items() for method in of}
        assert statuses.pop("post /v1/hooks/{name}") == 401  # the page cannot sign it
        assert statuses.pop("post /v1/session") == 409  # without keys nobody needs to sign in
        assert [name for name, status in statuses.items() if not 200 <= status < 300] == []
        assert list(statuses)[-1] == "delete /v1/keys/{id}"  # it revokes the key of the page
        reported = sorted(visit.faults)  # the browser reports refusals, too
        assert ["401" in reported[0], "409" in reported[1], len(reported)] == [True, True, 2]
        visit.faults.clear()
        visit.close()
        visit.page.context.close()
    finally:
        service.close()


@pytest.mark.long
def test_the_stream_of_events_ends_by_itself_and_says_how_to_follow_it(
    browser: Browser, service: Service
) -> None:
    service.finished(service.publish("order.created", {"item": "pen", "quantity": 1})["seq"])
    visit = visited(browser, service, DESKTOP, "light")
    visit.open()
    operation = visit.unfold("get", "/v1/subscribe/sse")
    assert "curl -N" in operation.locator(".opblock-description").inner_text()
    assert visit.press(operation) == 200
    shown = operation.locator(".live-responses-table .response").first.inner_text()
    assert "event: subscribed" in shown
    assert '"type":"order.created"' in shown
    assert f"Follow it with: curl -N '{service.url}/v1/subscribe/sse" in shown
    visit.close()
    visit.page.context.close()


@pytest.mark.long
@pytest.mark.parametrize("theme", THEMES)
def test_an_unknown_address_is_a_page_that_leads_to_the_docs(
    browser: Browser, service: Service, theme: Any
) -> None:
    page = browser.new_context(
        viewport={"width": PHONE[0], "height": PHONE[1]}, color_scheme=theme
    ).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    answer = page.goto(f"{service.url}/<b>nothing/here")
    assert answer is not None
    assert answer.status == 404
    assert page.inner_text("code") == "/<b>nothing/here"
    becomes(page, "document.documentElement.scrollWidth", PHONE[0])
    becomes(page, FAINT, [])
    page.click("a")
    page.locator(".opblock").first.wait_for()
    assert page.url == f"{service.url}/docs"
    page.context.close()

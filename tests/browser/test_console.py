"""The console in a real Chromium that reaches nothing but this machine."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from busway.gateway.api import console as console_files
from playwright.sync_api import Browser

from tests.e2e.service import Service, until
from tests.marks import few

from .console import HANDLERS, NARROW, WIDE, Console

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "app/busway/gateway/api/static"
PAGES = {
    "/": "Overview",
    "/live": "Live",
    "/live?show=events": "Live",
    "/events": "Events",
    "/events/1": "shop.order",
    "/publish?type=shop.order": "Publish",
    "/handlers": "Handlers",
    "/handlers/price": "price",
    "/runs": "Runs",
    "/dead": "Dead runs",
    "/schedules": "Schedules",
    "/subscribers": "Subscribers",
    "/webhooks": "Webhooks",
    "/nodes": "Nodes",
    "/keys": "Keys",
    "/audit": "Audit",
    "/nothing": "Not found",
}
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.mark.parametrize("theme", few(THEMES, "light"))
def test_each_page_fits_its_screen_and_is_accessible(
    browser: Browser, service: Service, theme: Literal["light", "dark"]
) -> None:
    width, height = WIDE if theme == "light" else NARROW
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    console = Console(context.new_page(), service)
    for path, title in PAGES.items():
        console.open(path)
        console.page.get_by_role("heading", level=1, name=title, exact=True).wait_for()
        until(lambda: console.page.locator(".loading").count() == 0, "what the page loads")
        console.check()
    context.close()


def test_the_overview_names_what_needs_attention_and_acts_on_it(console: Console) -> None:
    console.open()
    attention = console.section("attention")
    attention.get_by_text("1 dead run of price").wait_for()
    row = console.page.locator("tr", has=console.page.get_by_role("link", name="echo", exact=True))
    row.get_by_role("button", name="Pause echo").click()
    console.told("echo is paused")
    attention.get_by_text("echo is paused").wait_for()
    attention.get_by_role("button", name="Resume echo").click()
    console.told("echo is resumed")
    assert console.service.ok("GET", "/v1/handlers/echo")["paused"] is False


def test_live_shows_what_comes_filters_it_pauses_and_resumes_without_a_gap(console: Console) -> None:
    page, service = console.page, console.service
    service.finished(service.publish("shop.echo", {"n": "before"})["seq"])
    console.open("/live?types=shop.echo")
    page.get_by_text('{"n": "before"}').wait_for()
    service.publish("shop.echo", {"n": "first"})
    service.publish("shop.order", {"item": "filtered out"})
    page.get_by_text('{"n": "first"}').wait_for()
    page.locator("h1").focus()
    page.keyboard.press("p")
    until(lambda: "paused=" in page.url, "the pause in the address")
    service.finished(service.publish("shop.echo", {"n": "meanwhile"})["seq"])
    page.locator("[name=types]").fill("shop.*")
    console.press("pause")
    page.get_by_text('{"n": "meanwhile"}').wait_for()
    assert page.get_by_text("filtered out").count() == 0
    assert page.locator("[name=types]").input_value() == "shop.*", "what was typed is gone"
    page.locator("[name=types]").focus()
    page.keyboard.press("Enter")
    page.locator("td", has_text="priced").first.wait_for()
    page.get_by_role("button", name="dead", exact=True).click()
    assert "kinds=dead" in page.url
    service.publish("shop.order", {"item": "piano"})
    page.locator("td", has_text="we do not sell pianos").first.wait_for()
    page.get_by_role("button", name="Events").click()
    page.locator("td", has_text="piano").first.wait_for()


@pytest.mark.long
def test_the_page_says_that_the_gateway_is_gone_and_resumes_at_its_cursor(console: Console) -> None:
    page, service = console.page, console.service
    console.open("/live?filter=" + quote('{"exact": {"subject": "outage"}}'))
    page.get_by_text("Waiting for results").wait_for()
    service.publish("shop.echo", {"n": 1}, subject="outage")
    page.get_by_text('{"n": 1}').wait_for()
    service.kill()
    page.get_by_text("reconnecting").or_(page.get_by_text("offline")).first.wait_for()
    service.start()
    for n in range(2, 6):
        service.finished(service.publish("shop.echo", {"n": n}, subject="outage")["seq"])
    page.get_by_text('{"n": 5}').wait_for()
    shown = page.locator("td code").all_inner_texts()
    assert shown == [f'{{"n": {n}}}' for n in range(5, 0, -1)]


@pytest.mark.long
def test_each_page_stands_a_gateway_that_is_killed_and_comes_back(browser: Browser, service: Service) -> None:
    context = browser.new_context()
    tabs = {path: Console(context.new_page(), service) for path in PAGES if path != "/nothing"}
    for path, tab in tabs.items():
        tab.open(path)
        until(lambda tab=tab: tab.page.locator(".loading").count() == 0, "what the page loads")
    service.kill()
    for tab in tabs.values():
        tab.page.get_by_text("offline").wait_for()
    service.start()
    for path, tab in tabs.items():
        tab.page.get_by_text("offline").wait_for(state="detached")
        tab.page.get_by_role("heading", level=1, name=PAGES[path], exact=True).wait_for()
        until(lambda tab=tab: tab.page.locator(".loading").count() == 0, "what the page loads")
        until(lambda tab=tab: tab.page.locator("main .trouble").count() == 0, f"{path} without what failed")
        assert (path, tab.faults) == (path, [])
    context.close()


@pytest.mark.long
def test_an_event_shows_its_tree_its_attempts_and_its_results(console: Console) -> None:
    page, service = console.page, console.service
    console.open("/events/1")
    waterfall = console.section("waterfall")
    waterfall.get_by_role("link", name="bill").click()
    assert "run=" in page.url
    console.section("run").get_by_text("attempts").first.wait_for()
    console.section("results").get_by_text('{"billed":7}').wait_for()
    dead = service.ok("GET", "/v1/runs?state=dead&limit=1")["items"][0]
    console.open(f"/events/{dead['event']}")
    console.section("run").get_by_text("raise Fail").wait_for()
    console.section("run").get_by_text("pricing").wait_for()
    console.press("retry")
    console.told("is available again")
    until(lambda: service.ok("GET", f"/v1/runs/{dead['id']}")["attempt"] == 2, "the second attempt")
    page.get_by_text("Attempt 2").wait_for()


@pytest.mark.long
def test_publish_takes_an_example_and_shows_the_results(console: Console) -> None:
    page, service = console.page, console.service
    console.open("/publish")
    page.locator("[name=type]").fill("shop.order")
    page.locator(".examples button").last.click()
    page.locator("[name=data]").fill('{"item": "lamp", "quantity": true}')
    page.get_by_text('"quantity": True').wait_for()
    console.press("publish")
    console.section("results").get_by_text("finished").wait_for()
    console.section("results").get_by_text('{"billed":7}').wait_for()
    curl = page.locator(".snippet pre").first.inner_text()
    assert f"{service.own_url}/v1/events" in curl
    page.locator("[name=data]").fill("{")
    console.press("publish")
    page.get_by_text("The data must be JSON").first.wait_for()
    console.check()


HOSTILE: dict[str, Any] = {
    "script": "<script>document.title = 'broken'</script><img src=x onerror=alert(1)>",
    "long": "x" * 900_000,
    "hebrew": "\u202e\u05e9\u05dc\u05d5\u05dd\u2066 evil",
    "keys": {f"key-{n}": n for n in range(10_000)},
}
DIGITS = "98765432109876543210123"  # a whole number that JavaScript would round


@pytest.mark.long
def test_hostile_data_is_text_and_cut(console: Console) -> None:
    page, service = console.page, console.service
    html = "<b>shop</b><script>"
    for name, value in HOSTILE.items():
        service.finished(service.publish("shop.echo", {name: value}, subject=html)["seq"])
    newest = service.ok("GET", "/v1/events?limit=4&type=shop.echo")["items"]
    for event in newest:
        console.open(f"/events/{event['seq']}")
        console.section("attributes").get_by_text(html).wait_for()
        shown = console.section("attributes").locator("pre").inner_text()
        assert len(shown) < 2100
        if len(json.dumps(event["data"])) > 10_000:
            console.section("attributes").get_by_role("button", name="Show more").click()
            assert len(console.section("attributes").locator("pre").inner_text()) > 2100
        console.section("results").locator("td").first.wait_for()
    console.open("/live?types=shop.echo&kinds=succeeded")
    page.locator("td code", has_text="key-0").wait_for()
    seq = service.publish("shop.echo", {"number": -int(DIGITS)})["seq"]
    page.locator("td code", has_text=f'{{"number": -{DIGITS}}}').wait_for()  # over the WebSocket
    console.open(f"/events/{seq}")
    console.section("attributes").locator("pre", has_text=f'"number": -{DIGITS}').wait_for()
    console.section("results").locator("td", has_text=f"-{DIGITS}").wait_for()
    console.open(f"/handlers/echo?event={seq}")
    console.section("test").get_by_role("button", name="Take the newest event").click()
    until(lambda: DIGITS in console.section("test").locator("textarea").input_value(), "the number")
    console.press("test")  # what was read is sent as it came
    console.section("outcome").locator("pre", has_text=f"-{DIGITS}").wait_for()
    console.open("/live?show=events&types=shop.echo")
    page.locator("td code", has_text=DIGITS).wait_for()
    page.get_by_text("\\u202e").first.wait_for()
    assert page.locator("main script, main img").count() == 0
    console.check()


@pytest.mark.long
def test_a_closed_gateway_asks_for_a_key_and_comes_back_to_the_page(browser: Browser, tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.write("shop.py", HANDLERS)
    service.start()
    context = browser.new_context()
    console = Console(context.new_page(), service, refused=True)
    try:
        console.open("/keys")
        console.press("add")
        console.page.locator("dialog [name=name]").fill("console")
        console.check()
        console.press("save")
        key = console.page.locator("dialog pre").inner_text()
        until(lambda: any("POST" in asked and "session" in asked for asked in console.asked), "the session")
        console.page.locator("dialog").get_by_role("button", name="Close").click()
        console.page.get_by_role("button", name="Revoke key 1").wait_for()
        console.page.get_by_role("button", name="Sign out").click()
        console.page.get_by_role("heading", name="Sign in").wait_for()
        console.open("/live?types=shop.echo")
        console.page.get_by_role("heading", name="Sign in").wait_for()
        console.check()
        console.page.locator("[name=key]").fill("bw_1_wrong")
        console.page.get_by_role("button", name="Sign in").click()
        console.page.get_by_role("alert").wait_for()
        console.page.locator("[name=key]").fill(key)
        console.page.get_by_role("button", name="Sign in").click()
        console.page.get_by_role("heading", name="Live").wait_for()
        assert console.page.url.endswith("#/live?types=shop.echo")
        service.key = key
        service.publish("shop.echo", {"n": 1})
        console.page.get_by_text('{"n": 1}').wait_for()
        console.open("/keys")
        console.page.get_by_role("button", name="Revoke key 1").wait_for()
        console.page.get_by_role("button", name="Sign out").click()
        console.page.get_by_role("heading", name="Sign in").wait_for()
        assert console.faults == []
    finally:
        context.close()
        service.close()


@pytest.mark.long
def test_the_first_visit_leads_to_a_result_without_leaving_the_page(browser: Browser, tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.write("shop.py", HANDLERS)
    service.start()
    context = browser.new_context(viewport={"width": NARROW[0], "height": NARROW[1]})
    console = Console(context.new_page(), service)
    try:
        console.open()
        page = console.page
        page.get_by_role("heading", name="Welcome to Busway").wait_for()
        page.get_by_text("3 handlers are ready").wait_for()
        page.locator("[name=type]").fill("shop.echo")
        page.get_by_role("button", name="Publish", exact=True).click()
        page.get_by_role("link", name="See how it ran").wait_for()
        page.locator("td", has_text='{"name":"Ada"}').wait_for()
        console.check()
    finally:
        context.close()
        service.close()


def test_keys_alone_lead_to_each_page(console: Console) -> None:
    page = console.page
    console.open()
    page.keyboard.press("g")
    page.keyboard.press("l")
    page.get_by_role("heading", level=1, name="Live").wait_for()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "types"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.get_by_role("link", name="price").first.wait_for()
    page.keyboard.press("j")
    assert page.evaluate("'row' in document.activeElement.dataset")


# -- the files


def scripts() -> dict[str, str]:
    folder = STATIC / "console"
    own = [path for path in folder.rglob("*.js") if path.parent.name != "vendor"]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in own}


def test_the_console_uses_only_the_public_api() -> None:
    document = json.loads((ROOT / "openapi/openapi.json").read_text(encoding="utf-8"))
    public = {re.sub(r"\{[^}]+\}", "{}", path.lstrip("/")) for path in document["paths"]}
    found = {
        re.sub(r"\$\{(?:[^{}]|\{[^{}]*\})*\}", "{}", path.partition("?")[0])
        for text in scripts().values()
        for path in re.findall(r"""["'`](v1/[^"'`\s]*|healthz|readyz|metrics)["'`]""", text)
    }
    assert found
    assert {path for path in found if path not in public} == set()
    elsewhere = [name for name, text in scripts().items() if "fetch(" in text and name != "api.js"]
    assert elsewhere == []


def served(name: str) -> bytes:
    """Return a file as the gateway serves it."""
    return console_files._make().files[name].body


HTML_OF_TEXT = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|dangerously|document\.write|\beval\(")


def test_scripts_are_small_and_have_no_way_to_make_html_of_text() -> None:
    assert sum(len(gzip.compress(served(name), 6)) for name in ("libraries.js", "console.js")) < 150 * 1024
    for name, text in scripts().items():
        assert not HTML_OF_TEXT.search(text), name
        assert len(text.splitlines()) <= 500, name


def test_the_files_of_the_console_are_kept_by_the_browser_and_no_others_are_served(service: Service) -> None:
    page = service.get("/", headers={"Accept": "text/html"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script>|<style|style=|onload=", page.text)
    again = service.get("/", headers={"Accept": "text/html", "If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    script = re.search(r'src="(console/[0-9a-f]{16}/console\.js)"', page.text)
    assert script
    answer = service.get(f"/{script[1]}")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert service.get("/console/0000000000000000/console.js").headers["cache-control"] == "no-cache"
    for name in ("README.md", "vendor/VERSION", "../client.js", "%2e%2e/docs.js", "index.html", "app.js"):
        assert service.get(f"/console/0000000000000000/{name}").status_code == 404, name

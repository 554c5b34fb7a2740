"""Actions of the console: what people do with handlers, runs, schedules, sources and subscribers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.service import until

from .console import HANDLERS, Console

STATIC = Path(__file__).parents[2] / "app/busway/gateway/api/static/console"
pytestmark = pytest.mark.browser


@pytest.mark.long
def test_a_handler_is_edited_tested_reset_and_replayed(console: Console) -> None:
    page, service = console.page, console.service
    console.open("/handlers")
    page.get_by_role("link", name="price", exact=True).click()
    console.press("edit")
    console.refused = True
    page.locator("dialog [name=timeout]").fill("0")
    console.press("save")
    page.locator("dialog [role=alert]").first.wait_for()
    page.locator("dialog [name=timeout]").fill("30")
    with page.expect_response(lambda answer: answer.url.endswith("/v1/handlers/price")):
        pass  # with this answer the page is drawn again
    page.locator("dialog [name=filter]").fill('{"not": {"exact": {"subject": "x"}}}')
    console.check()
    console.press("save")
    console.told("price has revision 2")
    assert service.ok("GET", "/v1/handlers/price")["overrides"].keys() == {"timeout", "filter"}
    console.section("revisions").locator(".added", has_text="timeout: 30").wait_for()
    console.section("test").get_by_role("button", name="Take the newest event").click()
    until(lambda: "source" in console.section("test").locator("textarea").input_value(), "the event")
    console.section("test").locator("textarea").fill('{"type": "shop.order", "data": {"item": "pen"}}')
    console.press("test")
    console.section("outcome").get_by_text("pricing").wait_for()
    console.section("outcome").get_by_text('"total": 7').first.wait_for()
    console.press("reset")
    console.told("The values of the code are back")
    assert service.ok("GET", "/v1/handlers/price")["overrides"] == {}
    console.section("replay").locator("[name=before]").fill("3")
    console.press("replay")
    console.section("replay").locator("tbody a").first.click()
    page.get_by_text("0 of 1 differ").or_(page.get_by_text("0 of 2 differ")).wait_for()
    page.get_by_text("Only differences").click()
    until(lambda: "all=" in page.url, "the choice in the address")
    console.section("differences").locator("tbody tr").first.wait_for()
    console.check()


@pytest.mark.long
def test_dead_runs_are_one_line_for_each_cause_and_are_retried(console: Console) -> None:
    page, service = console.page, console.service
    for n in range(3):
        service.finished(service.publish("shop.order", {"item": "piano", "n": n})["seq"])
    console.open("/dead?handler=price")
    group = console.section("group")
    group.get_by_text("all.py").or_(group.get_by_text("shop.py")).first.wait_for()
    assert group.count() == 1
    group.get_by_role("button", name="Show runs").click()
    attempts = sum(run["attempt"] for run in service.runs(handler="price", state="dead"))
    group.locator("tbody input").first.check()
    console.press("retry-group")
    console.told("1 run retried")

    def tried() -> int:
        return sum(run["attempt"] for run in service.runs(handler="price", state="dead"))

    until(lambda: tried() == attempts + 1, "the run that was chosen")
    page.locator("[data-action=retry-all]").click()
    page.locator("dialog", has_text=f"Retry all {group.locator('tbody tr').count()} dead runs").wait_for()
    console.check()
    page.locator("dialog .danger").click()
    console.told("runs retried")
    until(lambda: tried() > attempts + 3, "all of them")


PLACES = """
from busway import Fail, handler

@handler("pack.*", backoff={"initial": 3000})
def pack(event):
    if event.data == 1:
        raise Fail("no box")
    if event.data == 2:
        raise Fail("no box")
    raise OSError("the machine is off")
"""


@pytest.mark.long
def test_runs_of_one_error_are_grouped_by_place_and_cancelled_all_at_once(console: Console) -> None:
    page, service = console.page, console.service
    service.write("pack.py", PLACES)
    until(lambda: "pack" in str(service.ok("GET", "/v1/handlers")), "the handler")
    for n in (1, 1, 2):
        service.finished(service.publish("pack.box", n)["seq"])
    console.open("/dead?handler=pack")
    places = console.page.locator("[data-place]")
    places.first.wait_for()
    lines = [number for number, line in enumerate(PLACES.splitlines(), 1) if "no box" in line]
    assert [text.rpartition("/")[2] for text in places.all_inner_texts()] == [
        f"pack.py:{line} in pack" for line in lines
    ]
    group = console.section("group").first
    group.locator("[data-action=retry-group]").click()
    page.locator("dialog", has_text="Retry 2 of pack?").wait_for()
    console.check()
    page.locator("dialog .danger").click()
    console.told("2 runs retried")
    for _ in range(3):
        service.publish("pack.box", 3)
    until(lambda: len(service.runs(handler="pack", state="retryable")) == 3, "the runs that wait")
    console.open("/dead?handler=pack&state=retryable")
    page.locator("[data-action=cancel-all]").click()
    page.locator("dialog", has_text="Cancel all 3 waiting runs of pack?").wait_for()
    page.locator("dialog .danger").click()
    console.told("3 runs cancelled")
    assert len(service.runs(handler="pack", state="cancelled")) == 3
    page.get_by_text("None.").wait_for()


@pytest.mark.long
def test_what_changed_since_a_run_died_is_shown_line_by_line(console: Console) -> None:
    page, service = console.page, console.service
    dead = service.run_of(service.publish("shop.order", {"item": "piano"})["seq"])
    assert dead["state"] == "dead"
    service.write("shop.py", HANDLERS.replace('print("pricing"', 'print("<b>prices</b>"'))
    until(lambda: service.ok("GET", "/v1/handlers/price")["revision"] > dead["revision"], "the new revision")
    console.open("/dead?handler=price")
    console.press("what-changed")
    added = console.section("source-diff").locator(".added")
    added.get_by_text('print("<b>prices</b>", event.data)').wait_for()
    assert added.count() == 1
    console.check()
    console.open("/handlers/price")
    console.section("source-diff").locator(".removed", has_text='print("pricing", event.data)').wait_for()
    console.section("revisions").get_by_text("Source", exact=True).first.click()
    console.section("revisions").locator("pre", has_text="def echo(event)").first.wait_for()
    console.check()
    source = (STATIC / "diff.js").read_text(encoding="utf-8").replace("export ", "")
    assert page.evaluate(f"async () => {{ {source} {DIFFERS} }}") == 0


DIFFERS = """
  const line = () => "abc"[Math.floor(Math.random() * 3)];
  const random = () => Array.from({ length: Math.random() * 12 }, line).join("\\n");
  const without = (all, kind) => all.filter((one) => one.kind !== kind).map((one) => one.text).join("\\n");
  let wrong = 0;
  for (let n = 0; n < 500; n += 1) {
    const [before, after] = [random(), random()];
    const found = lines(before, after);
    wrong += without(found, "added") !== before || without(found, "removed") !== after;
  }
  return wrong;
"""


@pytest.mark.long
def test_handlers_show_how_often_they_ran_since_the_page_was_opened(console: Console) -> None:
    page, service = console.page, console.service
    console.open("/handlers")
    row = page.locator("tr", has=page.get_by_role("link", name="price", exact=True))
    row.locator("[data-name='Runs/min']", has_text=re.compile(r"\d")).wait_for()
    for item in ("book", "piano", "piano"):
        service.finished(service.publish("shop.order", {"item": item})["seq"])

    def shown(name: str) -> float:
        return float(row.locator(f"[data-name='{name}']").inner_text().replace(",", ""))

    until(lambda: shown("Runs/min") > shown("Dead/min") > 0, "the rates")
    console.check()
    row.get_by_role("link").first.click()
    rates = page.locator("[data-rate]", has_text="runs/min").inner_text()
    assert "since a page of handlers was first opened" in rates
    assert not re.search(r"\b0 (runs|dead)", rates)


@pytest.mark.long
def test_sources_of_webhooks_are_made_rotated_paused_and_deleted(console: Console) -> None:
    page, service = console.page, console.service
    console.open("/webhooks")
    console.press("add")
    console.refused = True  # with a wrong type at first
    page.locator("dialog [name=name]").fill("repo")
    page.locator("dialog [name=kind]").select_option("hmac")
    page.locator("dialog [name=type]").fill("repo.{nothing}")
    console.press("save")
    page.locator("dialog [role=alert]").first.wait_for()
    page.locator("dialog [name=type]").fill("repo.{data.kind}")
    console.check()
    console.press("save")
    secret = page.locator("dialog pre").last.inner_text()
    assert page.locator("dialog pre").first.inner_text() == f"{service.own_url}/v1/hooks/repo"
    console.check()
    page.locator("dialog").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Edit repo").click()
    page.locator("dialog [name=filter]").fill('{"exact": {"data.kind": "push"}}')
    console.press("save")
    console.told("repo is changed")
    page.get_by_role("button", name="Rotate the secret of repo").click()
    console.press("rotate")
    page.locator("dialog pre").last.wait_for()
    assert page.locator("dialog pre").last.inner_text() != secret
    page.locator("dialog").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Pause repo").click()
    page.get_by_role("button", name="Resume repo").wait_for()
    found = service.ok("GET", "/v1/sources/repo")
    assert (found["paused"], found["filter"]) == (True, {"exact": {"data.kind": "push"}})
    assert found["previous_secret_until"] is not None
    console.check()
    page.get_by_role("button", name="Delete repo").click()
    page.locator("dialog .danger").click()
    console.told("repo is deleted")


@pytest.mark.long
def test_runs_that_wait_are_retried_and_cancelled(console: Console) -> None:
    page, service = console.page, console.service
    service.ok("POST", "/v1/handlers/bill/pause")
    service.publish("shop.priced", {"total": 1})
    try:
        console.open("/runs?handler=bill&state=available")
        page.get_by_role("button", name="Cancel", exact=True).first.click()
        page.locator("dialog .danger").click()
        console.told("is cancelled")
    finally:
        service.ok("POST", "/v1/handlers/bill/resume")
    console.open("/runs?handler=bill&state=cancelled")
    page.get_by_role("button", name="Retry", exact=True).first.click()
    console.told("is available again")


@pytest.mark.long
def test_schedules_are_made_run_paused_and_deleted(console: Console) -> None:
    page, service = console.page, console.service
    console.open("/schedules")
    console.press("add")
    console.refused = True  # without a time at first
    page.locator("dialog [name=name]").fill("hourly")
    page.locator("dialog [name=type]").fill("shop.echo")
    console.press("save")
    page.locator("dialog [role=alert]").wait_for()
    page.locator("dialog [name=every]").fill("1h")
    page.locator("dialog [name=data]").fill('{"by": "clock"}')
    console.check()
    console.press("save")
    console.told("hourly is scheduled")
    page.get_by_role("button", name="Run hourly now").click()
    until(lambda: "clock" in str(service.ok("GET", "/v1/events?type=shop.echo&limit=5")), "the event")
    page.get_by_role("button", name="Pause hourly").click()
    page.get_by_role("button", name="Resume hourly").wait_for()
    page.get_by_role("button", name="Delete hourly").click()
    page.locator("dialog .danger").click()
    console.told("hourly is deleted")
    console.open("/audit?object=hourly")
    page.get_by_text("schedule.deleted").wait_for()
    console.check()


@pytest.mark.long
def test_the_page_of_a_list_is_part_of_its_address(console: Console) -> None:
    page, service = console.page, console.service
    service.ok("POST", "/v1/handlers/echo/pause")  # its runs stay where they are in the lists
    try:
        first = service.publish("shop.echo", {"n": 0})["seq"]
        for n in range(1, 51):
            service.publish("shop.echo", {"n": n})
        link = f"tbody a[href='#/events/{first}'], tbody a[href^='#/events/{first}?']"
        for path in ("/events?type=shop.echo", "/runs?handler=echo"):
            console.open(path)
            page.get_by_role("button", name="Older").click()
            until(lambda: "after=" in page.url, "the page in the address")
            page.locator(link).wait_for()
            shared = page.url
            page.get_by_role("button", name="Newer", exact=True).click()
            page.locator(link).wait_for(state="detached")
            assert "after=" not in page.url
            page.goto("about:blank")
            page.goto(shared)
            page.locator(link).wait_for()
            console.check()
            page.get_by_role("button", name="Newest").click()
            page.locator(link).wait_for(state="detached")
        page.goto(shared)
        page.locator(link).wait_for()
        page.locator("[name=state]").select_option("available")
        until(lambda: "after=" not in page.url, "the first page of the other filter")
    finally:
        service.ok("POST", "/v1/handlers/echo/resume")
    console.open("/audit?action=handler.*&after=1")
    page.get_by_text("Nothing matches.").wait_for()
    page.get_by_role("button", name="Newest").click()
    page.get_by_text("handler.paused").first.wait_for()


@pytest.mark.long
def test_subscribers_are_listed_with_what_they_select_and_how_far_they_are_behind(console: Console) -> None:
    page, service = console.page, console.service
    with service.subscribed(types=["shop.echo"], durable="billing"):
        console.open("/subscribers")
        row = console.section("connected").locator("tr", has_text="billing")
        row.get_by_text("live").wait_for()
        row.get_by_text("shop.echo").wait_for()
        console.section("durables").get_by_text("connected").wait_for()
        console.check()
        seq = service.publish("shop.echo", {"n": 1})["seq"]
        service.finished(seq)
        console.open(f"/events/{seq}")
        row = console.section("recipients").locator("tr", has_text="billing")
        row.get_by_text("received").wait_for()
        row.get_by_text("1 of 1").wait_for()
        console.check()
    console.open("/subscribers")
    console.section("durables").get_by_text("away").wait_for()
    page.get_by_role("button", name="Delete billing").click()
    page.locator("dialog .danger").click()
    console.told("The durable name is deleted")

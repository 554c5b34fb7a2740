"""`/client.js` and `EventSource` in a real Chromium, through kills and cuts of a real gateway."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.disturbance import HANDLERS, Cutter, Disturbance
from tests.e2e.linear import exactly
from tests.e2e.service import PATIENCE, Service, until
from tests.e2e.test_client_pages import ROOT, examples
from tests.marks import few

pytestmark = pytest.mark.browser

BEGIN = """async () => {
  const { Busway } = await import("/client.js");
  const busway = new Busway();
  const seen = (window.seen = { iterated: [], called: [], events: [], statuses: [], receipts: [], ended: 0 });
  const take = (list) => (cursor, item) => {
    list.push(cursor);
    if (item.event.type === "the.end") seen.ended += 1;
    return item.event.type === "the.end";
  };
  (async () => {
    const iterated = take(seen.iterated);
    for await (const item of busway.subscribe({ after: "earliest" })) if (iterated(item.cursor, item)) break;
  })();
  const called = take(seen.called);
  const orders = { types: ["order.*", "the.end"], after: "earliest" };
  busway.subscribe(orders, (item) => void called(item.cursor, item));
  const source = new EventSource("/v1/subscribe/sse?after=earliest");
  const event = take(seen.events);
  source.onmessage = (told) => event(told.lastEventId, JSON.parse(told.data)) && source.close();
  (async () => {
    for (let n = 0; n < 200; n += 1) seen.receipts.push(await busway.publish("page.said", { n }));
  })();
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("script"))
    service.write("life.py", HANDLERS)
    yield service.start()
    service.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    shop = Service(tmp_path_factory.mktemp("shop"), handlers=ROOT / "examples" / "handlers")
    yield shop.start()
    shop.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{service.url}/docs")  # under its Content-Security-Policy
    yield page
    context.close()


def test_the_script_is_served_for_modules_and_kept_by_its_tag(service: Service) -> None:
    answer = service.get("/client.js")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert "export class Busway" in answer.text
    again = service.get("/client.js", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.long
def test_what_a_page_receives_through_kills_and_cuts_is_exactly_the_log(
    browser: Browser, service: Service
) -> None:
    with Cutter(int(service.options["port"])) as relay:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"{relay.url}/docs")
        page.evaluate(BEGIN)
        life = Disturbance(service, relay)
        living = threading.Thread(target=life.run, args=(6,))
        living.start()
        try:
            until(
                lambda: page.evaluate("seen.ended === 3 && seen.receipts.length === 200"),
                "the page",
                4 * PATIENCE,
            )
        finally:
            living.join()
        seen: dict[str, Any] = page.evaluate("seen")
        context.close()
    log = [item["cursor"] for item in service.results()]
    assert len(log) > 300
    exactly(log, seen["iterated"], "the iterator")
    exactly(log, seen["events"], "EventSource")
    orders = [item["cursor"] for item in service.results(types=["order.*", "the.end"])]
    exactly(orders, seen["called"], "the callback")
    said = service.get("/v1/events", params={"type": "page.said", "limit": 1000}).json()["items"]
    assert sorted(event["data"]["n"] for event in said) == list(range(200))
    assert {receipt["seq"] for receipt in seen["receipts"]} == {event["seq"] for event in said}


@pytest.mark.long
def test_a_slow_reader_pauses_and_misses_nothing(page: Page, service: Service) -> None:
    """More than the script holds for a reader that does not take."""
    many = [{"type": "order.many", "data": {"n": 1}} for _ in range(6000)]
    begin = """async () => {
      const { Busway } = await import("/client.js");
      window.slow = new Busway().subscribe({ types: ["order.many"], after: "earliest" });
    }"""
    page.evaluate(begin)
    service.ok("POST", "/v1/events", many)
    service.finished(service.publish("order.many", {"n": 1})["seq"])
    wanted = [item["cursor"] for item in service.results(types=["order.many"])]
    assert len(wanted) > 12_000
    take = """async (count) => {
      const cursors = [];
      while (cursors.length < count) cursors.push((await slow.next()).value.cursor);
      return cursors;
    }"""
    exactly(wanted, page.evaluate(take, len(wanted)), "the slow reader")


@pytest.mark.long
@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        ({"types": ["a..b"]}, "bad_pattern"),
        ({"kinds": ["odd"]}, "bad_subscription"),
        ({"after": "yesterday"}, "bad_cursor"),
        ({"after": f"{'0' * 16}-1-00000000"}, "gap"),
    ],
)
def test_what_cannot_be_subscribed_to_is_thrown(page: Page, wanted: dict[str, Any], word: str) -> None:
    code = """async (wanted) => {
      const { Busway } = await import("/client.js");
      try { await new Busway().subscribe(wanted).next(); } catch (problem) { return problem.code; }
    }"""
    assert page.evaluate(code, wanted) == word


@pytest.mark.long
def test_an_event_that_is_refused_is_thrown(page: Page) -> None:
    code = """async (data) => {
      const { Busway } = await import("/client.js");
      try { await new Busway().publish(data.type, data.text); } catch (problem) { return problem.message; }
    }"""
    assert "white space" in page.evaluate(code, {"type": "a b", "text": ""})
    assert "larger" in page.evaluate(code, {"type": "a", "text": "x" * 2_000_000})


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_an_example_of_the_page_on_clients_runs(browser: Browser, shop: Service, number: int) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{shop.url}/docs")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    assert len(examples("js")) == 3
    shop.publish("order.created", {"item": "pen", "quantity": 1})
    program = examples("js")[number].replace(
        'import { Busway } from "/client.js";', 'const { Busway } = await import("/client.js");'
    )
    page.evaluate(f"async () => {{ {program} }}")
    assert len(said) == 1
    page.context.close()


TAKE = """async ({ count, filter }) => {
  const { Busway } = await import("/client.js");
  const busway = new Busway();
  const wanted = { types: ["order.kept"], kinds: ["succeeded"], durable: "page", after: "earliest", filter };
  const results = busway.subscribe(wanted);
  const taken = [];
  while (taken.length < count) taken.push((await results.next()).value.event.subject);
  busway.close();
  return taken;
}"""


@pytest.mark.long
def test_a_durable_name_of_a_page_goes_on_after_reloads_and_kills(page: Page, service: Service) -> None:
    """What was in hand when the page ended comes again."""
    for n in range(12):
        service.finished(service.publish("order.kept", {"n": 1}, subject=str(n))["seq"])
    even = {"any": [{"exact": {"subject": str(n)}} for n in range(0, 12, 2)]}
    assert page.evaluate(TAKE, {"count": 3, "filter": even}) == ["0", "2", "4"]
    log = service.results()
    done = [
        item["cursor"]
        for item in log
        if item["event"]["type"] == "order.kept" and item["kind"] == "succeeded"
    ]
    cursors = [item["cursor"] for item in log]
    places = cursors[
        cursors.index(done[2]) : cursors.index(done[4])
    ]  # what the filter left out may end a frame
    until(lambda: service.ok("GET", "/v1/subscriptions")["items"][0]["cursor"] in places, "the place")
    service.kill()
    service.start()
    page.reload()
    assert page.evaluate(TAKE, {"count": 4, "filter": even}) == ["4", "6", "8", "10"]


@pytest.mark.long
def test_a_page_without_a_key_is_told_so(page: Page, service: Service) -> None:
    """Last here: the first key closes the gateway to those without one."""
    service.key = service.ok("POST", "/v1/keys", {"name": "all", "scopes": ["admin"]})["key"]
    code = """async () => {
      const { Busway } = await import("/client.js");
      try { await new Busway().subscribe().next(); } catch (problem) { return problem.message; }
    }"""
    assert "key" in page.evaluate(code)


TICKETS = """async ({ key, own }) => {
  const { Busway } = await import("/client.js");
  const seen = (window.seen = { tickets: 0, got: [], receipts: [], problem: null });
  const ticket = async () => {
    seen.tickets += 1;
    const headers = { Authorization: `Bearer ${key}` };
    const answer = await fetch("/v1/tickets", { method: "POST", headers });
    return (await answer.json()).ticket;
  };
  const busway = (window.busway = new Busway(undefined, own ? { ticket } : { key }));
  (async () => {
    try { for await (const item of busway.subscribe({ after: "earliest" })) seen.got.push(item.cursor); }
    catch (problem) { seen.problem = `${problem.code} ${problem.message}`; }
  })();
  seen.receipts.push(await busway.publish("order.created", { n: 1 }));
}"""


@pytest.mark.long
@pytest.mark.parametrize("own", few([False, True], True), ids=["key", "ticket"])
def test_each_connection_of_a_page_has_a_ticket_of_its_own(page: Page, service: Service, own: bool) -> None:
    """Behind the test that closes the gateway."""
    key = service.ok("POST", "/v1/keys", {"name": "page", "scopes": ["publish", "subscribe"]})
    page.evaluate(TICKETS, {"key": key["key"], "own": own})
    until(lambda: page.evaluate("seen.receipts.length"), "the receipt")
    service.kill()
    service.start()
    page.evaluate("busway.publish('order.created', { n: 2 })")
    service.finished(service.publish("order.created", {"n": 3})["seq"])
    log = [item["cursor"] for item in service.results()]
    until(lambda: page.evaluate("seen.got.length") >= len(log), "the log")
    seen = page.evaluate("seen")
    exactly(log, seen["got"], "the page with tickets")
    assert seen["tickets"] >= 2 or not own
    assert service.request("DELETE", f"/v1/keys/{key['id']}").is_success
    until(lambda: page.evaluate("seen.problem"), "the end of its key")

"""The docs page in a real Chromium that reaches nothing but this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.service import Service

from .visit import Visit

pytestmark = pytest.mark.browser

EXAMPLES = Path(__file__).parents[2] / "examples" / "handlers"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("docs"), handlers=EXAMPLES)
    yield service.start()
    service.close()


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    visit = Visit(context.new_page(), service)
    yield visit
    context.close()
    visit.close()


def test_a_newcomer_registers_a_handler_publishes_an_event_and_reads_its_run(visit: Visit) -> None:
    visit.open()
    status, handler = visit.execute("post", "/v1/handlers")
    assert (status, handler["source"]) == (201, "api")
    status, receipt = visit.execute("post", "/v1/events")
    assert status == 202
    visit.service.finished(receipt["seq"])
    status, listed = visit.execute("get", "/v1/runs")
    assert status == 200
    mine = [run for run in listed["items"] if run["event"] == receipt["seq"]]
    assert handler["name"] in {run["handler"] for run in mine}
    assert {run["state"] for run in mine} == {"succeeded"}


@pytest.mark.long
def test_every_schema_unfolds_without_a_fault(visit: Visit) -> None:
    visit.open()
    visit.page.locator("section.models .models-control").first.click()
    models = visit.page.locator("section.models .json-schema-2020-12-accordion").all()
    assert len(models) > 10
    for model in models[:10]:
        model.click()


@pytest.mark.long
def test_the_files_of_the_page_are_kept_by_the_browser(visit: Visit) -> None:
    visit.open()
    script = next(url for url in visit.asked if "swagger-ui-bundle.js" in url)
    path = script.removeprefix(visit.service.url)
    answer = visit.service.get(path)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    again = visit.service.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert visit.service.get(path.partition("?")[0]).headers["cache-control"] == "no-cache"


def test_the_page_allows_no_inline_script_and_no_frame_around_it(service: Service) -> None:
    answer = service.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in answer.text
    assert "<style" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    for name, value in (("opener", "same-origin"), ("resource", "same-origin"), ("embedder", "require-corp")):
        assert answer.headers[f"cross-origin-{name}-policy"] == value
    assert "camera=()" in answer.headers["permissions-policy"]
    assert "strict-transport-security" not in answer.headers  # that is for HTTPS
    assert service.get("/v1/events").headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["docs.html", "../docs_page.py", "swagger-ui/VERSION", "%2e%2e/events.py"])
def test_no_other_file_is_served(service: Service, name: str) -> None:
    answer = service.get(f"/docs/static/{name}")
    assert answer.status_code == 404


@pytest.mark.long
def test_a_key_is_given_once_and_kept_for_the_next_visit(visit: Visit) -> None:
    """Last here: the first key closes the gateway to those without one."""
    visit.service.key = visit.service.ok("POST", "/v1/keys", {"name": "docs", "scopes": ["admin"]})["key"]
    visit.open()
    visit.page.locator(".auth-wrapper .authorize").first.click()
    form = visit.page.locator(".modal-ux form").filter(has_text="An API key")
    form.locator("input").fill(visit.service.key or "")
    form.locator("button.authorize").click()
    form.locator("button.btn-done").click()
    visit.page.reload()
    visit.page.locator(".opblock").first.wait_for()
    status, listed = visit.execute("get", "/v1/runs")
    assert (status, list(listed)) == (200, ["items", "next"])

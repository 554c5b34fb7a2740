"""Retention of a running gateway, as its users see it."""

from __future__ import annotations

import pytest

from .conftest import Serve
from .service import hear, items, say, until

HANDLERS = """
from busway import handler

@handler("work.*")
def work(event, ctx):
    if event.data == "more":
        ctx.publish("leaf", None)
    return event.data

@handler("held", paused=True)
def held(event):
    return None
"""


@pytest.mark.long
def test_what_is_finished_goes_and_what_waits_stays_over_a_restart(make_service: Serve) -> None:
    service = make_service(retention="1h")
    service.write("code.py", HANDLERS)
    service.start()
    held = service.publish("held")
    first = service.publish("work.one", "more", id="mine")
    run = service.finished(first["seq"])["runs"][0]["id"]
    cursor = service.ok("GET", "/v1/results?after=latest")["cursor"]

    assert service.stop() == 0
    service.options["retention"] = "1s"
    service.start()
    gone = f"/v1/events/{first['seq']}"
    until(lambda: service.get(gone).status_code == 404, "the event to go")
    assert "retention" in service.get(gone).json()["detail"]
    assert service.get(f"/v1/runs/{run}").status_code == 404
    assert service.get(f"{gone}/tree").status_code == 404
    assert service.results() == []
    assert [event["seq"] for event in service.ok("GET", "/v1/events")["items"]] == [held["seq"]]
    assert service.ok("GET", "/v1/events?after=99")["next"] is None
    page = service.get("/v1/results", params={"after": cursor})
    assert page.status_code == 200, page.text  # its place is the edge: nothing behind it went yet
    again = service.publish("work.one", "again", id="mine")
    assert (again["duplicate"], again["seq"]) == (False, first["seq"] + 2)
    until(lambda: service.get(f"/v1/events/{again['seq']}").status_code == 404, "the second event to go")
    page = service.get("/v1/results", params={"after": cursor})
    assert page.status_code == 410
    assert "start again" in page.json()["detail"]
    with service.connect() as socket:
        say(socket, op="subscribe", id="s", after=cursor)
        answer = hear(socket)
        assert (answer["recovered"], answer["cursor"]) == (False, answer["oldest"])
        service.publish("work.two", "live")
        assert [item["data"] for item in items(socket, 1)] == ["live"]
    assert service.ok("GET", f"/v1/events/{held['seq']}")["runs"][0]["state"] == "available"

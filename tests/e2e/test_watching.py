"""What people and the console watch: rates of ten minutes, and who is connected."""

from __future__ import annotations

from typing import Any

from .conftest import Shared
from .service import until

CODE = """
from busway import Fail, handler

@handler("watched.*")
def watched(event):
    if event.data:
        raise Fail("no")
"""


def test_rates_count_what_came_and_status_has_the_age_of_queues(shared_service: Shared) -> None:
    service = shared_service(CODE)
    until(lambda: service.ok("GET", "/v1/rates")["samples"], "the first sample")
    receipts = [service.publish("watched.a", n % 2) for n in range(20)]
    service.all_finished(receipts)

    def counted() -> bool:
        samples = service.ok("GET", "/v1/rates")["samples"]
        assert all(sample["seconds"] > 0 for sample in samples)
        sums = {name: sum(sample[name] for sample in samples) for name in ("events", "results")}
        return sums["events"] >= 20 and sums["results"] >= 20

    until(counted, "the samples")
    until(
        lambda: any(sample["failures"] for sample in service.ok("GET", "/v1/rates")["samples"]),
        "the failures on the node that ran the attempts",
    )
    service.ok("POST", "/v1/handlers/watched/pause")
    service.publish("watched.a", 0)

    def queue() -> Any:
        queues = service.ok("GET", "/v1/status")["queues"]["handlers"]
        return next(each for each in queues if each["handler"] == "watched")

    assert until(lambda: queue()["oldest"], "the age of the run that waits") > 0
    service.ok("POST", "/v1/handlers/watched/resume")
    until(lambda: queue()["oldest"] is None, "the end of the run")


def test_connected_subscribers_are_listed_with_what_they_select(shared_service: Shared) -> None:
    service = shared_service(CODE)
    wanted = {"types": ["watched.*"], "handlers": ["watched"], "kinds": ["dead"], "durable": "watcher"}

    def mine() -> Any:
        found = service.ok("GET", "/v1/subscribers?limit=1000")["items"]
        return next((each for each in found if each["durable"] == "watcher"), None)

    with service.subscribed(**wanted, filter={"exact": {"subject": "x"}}):
        shown = until(mine, "the subscription")
        assert {name: shown[name] for name in wanted} == wanted
        assert shown["filter"] == {"exact": {"subject": "x"}}
        assert (shown["key"], shown["name"], shown["behind"]) == (None, None, 0)
        until(lambda: len(service.ok("GET", "/v1/subscribers?limit=1")["items"]) == 1, "a page of its node")
    until(lambda: mine() is None, "the end of the subscription")

"""What `/metrics` and `/v1/status` tell of a gateway at work, and of one in trouble."""

from __future__ import annotations

import hmac
import socket
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import chosen

from .conftest import Serve, Shared
from .service import Service, until

pytestmark = pytest.mark.one_node("what one process counts")

HANDLERS = """
import os, pathlib
from busway import handler

@handler("work", pool="process")
def works(event): return event.data

@handler("work", pool="thread", max_attempts=2, backoff={"initial": 0.01})
def fails(event): raise ValueError("no")

@handler("die", max_attempts=1)
def dies(event): os._exit(3)
"""


class Scraped:
    """The samples of one scrape."""

    def __init__(self, service: Service) -> None:
        answer = service.get("/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.families = list(text_string_to_metric_families(answer.text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels."""
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        assert found, f"no {name} {labels}"
        return sum(found)


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_metrics_tell_what_happened(make_service: Serve, pool: str) -> None:
    service = make_service(pool=pool)
    service.write("work.py", HANDLERS)
    service.start()
    with service.subscribed():
        for n in range(10):
            service.finished(service.publish("work", n)["seq"])
        service.finished(service.publish("die")["seq"])
        scraped = Scraped(service)
    assert scraped("busway_events_accepted_total") == 11
    assert scraped("busway_results_total") == 10 + 20 + 1
    assert scraped("busway_runs", handler="works", state="succeeded") == 10
    assert scraped("busway_runs", handler="fails", state="dead") == 10
    assert scraped("busway_runs", handler="fails", state="running") == 0
    works = {"handler": "works", "pool": "process", "outcome": "succeeded"}
    assert scraped("busway_attempt_seconds_count", **works) == 10
    assert scraped("busway_attempt_seconds_bucket", **works, le="+Inf") == 10
    assert scraped("busway_attempt_seconds_count", handler="fails", pool="thread", outcome="failed") == 20
    assert scraped("busway_queue_wait_seconds_count", handler="works") == 10
    assert scraped("busway_queue_wait_seconds_sum", handler="works") >= 0
    assert scraped("busway_worker_deaths_total", pool=pool, cause="exit 3") == 1
    assert scraped("busway_pool_threads", pool="process") == 2
    assert scraped("busway_pool_running") == 0
    assert scraped("busway_workers", state="ready") >= 2
    assert scraped("busway_commit_seconds_count") == scraped("busway_commit_operations_count") > 10
    waited = 0 if chosen.KIND == "sqlite" else scraped("busway_commit_seconds_count")
    assert scraped("busway_commit_wait_seconds_count") == waited
    assert scraped("busway_commit_wait_seconds_sum") <= scraped("busway_commit_seconds_sum")
    assert scraped("busway_commit_operations_sum") >= 11 + 31
    assert scraped("busway_leader_known") == scraped("busway_node_leads") == scraped("busway_nodes") == 1
    assert scraped("busway_node_info", node=socket.gethostname(), role="all") == 1
    assert scraped("busway_runs_oldest_seconds") == 0
    assert scraped("busway_store_healthy") == 1
    assert scraped("busway_subscribers_connections") == 1
    assert scraped("busway_subscribers_furthest_behind") == 0
    assert scraped("process_resident_memory_bytes") > 1 << 20


def test_metrics_of_the_past_of_time_and_of_webhooks(shared_service: Shared) -> None:
    service = shared_service(HANDLERS)
    service.finished(service.publish("work", 1)["seq"])
    before = Scraped(service)
    replayed = service.ok("POST", "/v1/handlers/works/replay", {})["id"]
    until(lambda: service.ok("GET", f"/v1/replays/{replayed}")["finished_at"], "the replay to end")
    schedule = {"name": "now", "every": "1d", "event": {"type": "nothing"}}
    service.ok("POST", "/v1/schedules", schedule)
    service.ok("POST", "/v1/schedules/now/run")
    source = {"name": "shop", "kind": "hmac", "type": "nothing", "secret": "longenough"}
    service.ok("POST", "/v1/sources", source)
    right = hmac.new(b"longenough", b"{}", "sha256").hexdigest()
    for name, signature in (("shop", right), ("shop", "0" * 64), ("nobody", right)):
        headers = {"X-Signature": signature, "Content-Type": "application/json"}
        service.request("POST", f"/v1/hooks/{name}", content=b"{}", headers=headers)
    after = Scraped(service)

    def more(name: str) -> float:
        return after(name) - before(name)

    assert more("busway_replay_runs_total") == after("busway_runs", handler="works", state="succeeded") / 2
    assert more("busway_schedule_firings_total") == 1
    assert more("busway_schedule_missed_total") == 0
    assert after("busway_replays_unfinished") == 0
    received = "busway_webhooks_received_total"
    assert after(received, source="shop", outcome="stored") == 1
    assert after(received, source="shop", outcome="refused") == 1
    assert after(received, source="", outcome="refused") == 1


def test_every_metric_says_what_it_is(shared_service: Shared) -> None:
    service = shared_service(HANDLERS)
    for family in Scraped(service).families:
        assert family.documentation.endswith("."), family.name
        assert family.type != "unknown", family.name


def test_events_that_are_known_already_are_not_counted(shared_service: Shared) -> None:
    service = shared_service(HANDLERS)
    before = Scraped(service)("busway_events_accepted_total")
    for _ in range(3):
        service.publish("nothing", id="same")
    assert Scraped(service)("busway_events_accepted_total") == before + 1


@pytest.mark.long
def test_status_and_readiness_show_workers_that_cannot_start(make_service: Serve) -> None:
    service = make_service(workers=1)
    # It kills every process that was forked from the one that imported it, before it can take work.
    service.write("kills.py", "import os\nos.register_at_fork(after_in_child=lambda: os._exit(5))\n")
    service.start()

    def crash_loop() -> Any:
        loop = service.ok("GET", "/v1/status")["workers"]["pools"]["process"]["crash_loop"]
        # A socket may close before the zygote tells how its process ended.
        return loop if loop and loop["last"].endswith("exit 5") else None

    pool = until(crash_loop, "a crash loop")
    assert pool["next_start_in"] >= 0
    assert service.ok("GET", "/readyz")["trouble"] == [
        "workers of the pool process die before they run an attempt"
    ]
    assert service.publish("anything")["seq"] == 1
    assert Scraped(service)("busway_worker_deaths_total", pool="process", cause="exit 5") > 1
    status = service.ok("GET", "/v1/status")
    assert status["committer"]["healthy"]
    assert status["committer"]["pid"]

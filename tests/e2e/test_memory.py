"""`memory`: what one attempt may add to its worker, seen from outside."""

from __future__ import annotations

import pytest

from .conftest import Shared
from .service import until

pytestmark = pytest.mark.one_database("memory of workers")

CODE = """
import os, time
from busway import handler

@handler("take", memory=64, max_attempts=1)
def limited(event):
    block = bytearray(event.data << 20)
    time.sleep(0.3)
    return os.getpid()

@handler("take")
def free(event):
    return os.getpid()
"""


@pytest.mark.fault
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_an_attempt_over_its_limit_dies_with_the_figures_and_bystanders_finish(
    shared_service: Shared, pool: str
) -> None:
    service = shared_service(CODE, pool=pool, workers=1)
    event = service.finished(service.publish("take", 300)["seq"])
    runs = {r["handler"]: service.ok("GET", f"/v1/runs/{r['id']}") for r in event["runs"]}
    assert runs["free"]["state"] == "succeeded"
    limited = runs["limited"]
    (attempt,) = limited["attempts"]
    assert (limited["state"], attempt["error"]["type"]) == ("dead", "MemoryExceeded")
    assert "the limit is 64 MiB" in attempt["error"]["message"]
    assert "in limited" in attempt["error"]["traceback"]
    assert attempt["peak_memory"] > 64 << 20
    assert attempt["pool"] == "process"
    (dead,) = [r for r in service.results() if r["run"] == limited["id"]]
    assert dead["error"]["type"] == "MemoryExceeded"


@pytest.mark.long
def test_below_the_limit_it_runs_in_workers_of_its_own_that_end(shared_service: Shared) -> None:
    service = shared_service(CODE, pool="process", workers=1)
    before = service.ok("GET", "/v1/results?after=latest")["cursor"]
    place = service.ok("GET", "/v1/handlers/limited")["placed_in"]
    assert (place["pool"], "memory limit" in place["reason"]) == ("process", True)
    for seq in [service.publish("take", 10)["seq"] for _ in range(3)]:
        service.finished(seq)
    results = service.results(after=before)
    own, shared = ({r["data"] for r in results if r["handler"] == name} for name in ("limited", "free"))
    assert len(own) == 1
    assert own.isdisjoint(shared)
    until(
        lambda: "memory:limited" not in service.ok("GET", "/v1/status")["workers"]["pools"],
        "its worker to end",
    )


def test_a_limit_and_threads_do_not_go_together(shared_service: Shared) -> None:
    service = shared_service(CODE, pool="process", workers=1)
    changed = service.request("PATCH", "/v1/handlers/limited", json={"pool": "thread"})
    assert changed.status_code == 422
    assert "remove memory or use another pool" in changed.json()["detail"]
    service.ok("PATCH", "/v1/handlers/free", {"pool": "thread"})
    assert service.request("PATCH", "/v1/handlers/free", json={"memory": 64}).status_code == 422
    both = service.ok("PATCH", "/v1/handlers/free", {"pool": None, "memory": 64})
    assert (both["memory"], both["pool"]) == (64, None)
    service.ok("PATCH", "/v1/handlers/free", {"memory": None})

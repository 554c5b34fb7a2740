"""Concurrency, rate, fairness and memory on the real service."""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime
from typing import Any

import psutil
import psycopg
import pytest

from tests.servers import chosen

from .conftest import Serve, Shared
from .service import Service, hear, until
from .test_order import seed

CODE = """
import asyncio, os, random, time
from busway import handler

def log(kind):
    return os.open(FOLDER + "/" + kind, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

SYNC, ASYNC = log("sync"), log("async")

@handler("c.sync", concurrency=3, max_attempts=20, backoff={"initial": 0.01, "factor": 1})
def few(event, ctx):
    os.write(SYNC, b"+")
    time.sleep(random.Random(event.id).random() * 0.03)
    os.write(SYNC, b"-")
    if random.Random(f"{event.id}{ctx.attempt}").random() < 0.2:
        raise ValueError("again")

@handler("c.async", concurrency=5)
async def few_async(event):
    os.write(ASYNC, b"+")
    await asyncio.sleep(random.Random(event.id).random() * 0.03)
    os.write(ASYNC, b"-")

@handler("r", rate="50/s")
def paced(event): pass

@handler("slow")
def slow(event):
    while not os.path.exists(FOLDER + "/gate"):
        time.sleep(0.02)

@handler("quick")
def quick(event): return event.data
"""


def succeeded(service: Service, handler: str) -> list[dict[str, Any]]:
    """Wait until all runs of a handler succeeded, and return them."""

    def probe() -> list[dict[str, Any]] | None:
        runs = service.runs(handler=handler)
        return runs if all(run["state"] == "succeeded" for run in runs) else None

    found: list[dict[str, Any]] = until(probe, "all runs to end")
    return found


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize(("kind", "handler", "limit"), [("sync", "few", 3), ("async", "few_async", 5)])
def test_concurrency_is_never_exceeded_and_is_reached(
    shared_service: Shared, pool: str, kind: str, handler: str, limit: int
) -> None:
    service = shared_service(CODE, pool=pool, workers=4, threads=8)
    value = seed()
    events = [{"type": f"c.{kind}", "id": f"{value}-{n}"} for n in range(200)]
    service.ok("POST", "/v1/events", events)
    assert len(succeeded(service, handler)) == 200
    running = most = 0
    for mark in (service.folder / kind).read_text():
        running += 1 if mark == "+" else -1
        most = max(most, running)
    assert most == limit


@pytest.mark.long
def test_a_rate_spreads_the_starts_and_drops_none(shared_service: Shared) -> None:
    service = shared_service(CODE, pool="process", workers=4, threads=8)
    published = time.time()
    service.ok("POST", "/v1/events", [{"type": "r"} for _ in range(100)])
    starts = sorted(
        datetime.fromisoformat(
            service.ok("GET", f"/v1/runs/{run['id']}")["attempts"][0]["started_at"]
        ).timestamp()
        for run in succeeded(service, "paced")
    )
    assert len(starts) == 100
    for before, start in enumerate(starts):  # a busy machine starts them later, never earlier
        assert before <= 50 * (start - published + 0.5) + 1, (
            f"{before} starts within {start - published:.3f} s"
        )


def test_changing_rate_and_concurrency_takes_effect_for_what_waits(shared_service: Shared) -> None:
    service = shared_service(CODE, pool="thread", workers=4, threads=8)
    service.ok("PATCH", "/v1/handlers/paced", {"rate": "1/h"})
    service.ok("POST", "/v1/events", [{"type": "r"} for _ in range(50)])
    until(lambda: any(run["state"] == "succeeded" for run in service.runs(handler="paced")), "the first")
    assert sum(run["state"] == "available" for run in service.runs(handler="paced")) == 49
    shown = service.ok("PATCH", "/v1/handlers/paced", {"rate": "10000/s", "concurrency": 2, "ordered": True})
    assert (shown["rate"], shown["concurrency"], shown["ordered"]) == ("10000/s", 2, True)
    succeeded(service, "paced")
    shown = service.ok("PATCH", "/v1/handlers/paced", {"rate": None, "concurrency": None, "ordered": None})
    assert (shown["rate"], shown["concurrency"], shown["ordered"]) == ("50/s", None, False)


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_long_runs_delay_no_short_ones_of_another_handler(shared_service: Shared, pool: str) -> None:
    service = shared_service(CODE, pool=pool, workers=4, threads=8)
    service.ok("PATCH", "/v1/handlers/slow", {"concurrency": 1})
    service.ok("POST", "/v1/events", [{"type": "slow"} for _ in range(20)])
    until(lambda: any(r["state"] == "running" for r in service.runs(handler="slow")), "a long run")
    with service.subscribed(handlers=["quick"]) as socket:
        for n in range(50):
            service.publish("quick", n)
        got: list[int] = []
        while len(got) < 50:
            got += [item["data"] for item in hear(socket)["items"]]
    assert {r["state"] for r in service.runs(handler="slow")} == {"running", "available"}
    (service.folder / "gate").touch()
    succeeded(service, "slow")


SEED = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
INSERT INTO events (seq, id, source, type, time, accepted_at, binary, attributes, data)
SELECT (SELECT event FROM head) + i, printf('seeded-%09d', i), '/', 'slow', 1, 1, 0,
    CASE WHEN i % 2 THEN printf('{{"partitionkey":"k%d"}}', i % 50000) END, CAST('{{"n":1}}' AS BLOB) FROM n;
INSERT INTO runs (id, event, handler, root, priority, created_at, counted, partitionkey)
SELECT (SELECT run FROM head) + seq - (SELECT event FROM head), seq,
    (SELECT id FROM handlers WHERE name = 'slow'), seq, 4, 1, 0,
    CASE WHEN seq % 2 THEN printf('k%d', seq % 50000) END
FROM events WHERE seq > (SELECT event FROM head);
INSERT OR REPLACE INTO counts VALUES ((SELECT id FROM handlers WHERE name = 'slow'), 0, {count});
UPDATE head SET event = event + {count}, run = run + {count};
"""
POSTGRES_SEED = """
CREATE TEMPORARY TABLE head AS SELECT * FROM commits ORDER BY number DESC LIMIT 1;
INSERT INTO events (seq, id, source, type, time, accepted_at, "binary", attributes, data)
SELECT event + i, 'seeded-' || lpad(i::text, 9, '0'), '/', 'slow', 1, 1, 0,
    CASE WHEN i % 2 = 1 THEN format('{{"partitionkey":"k%s"}}', i % 50000) END, '{{"n":1}}'
FROM head, generate_series(1, {count}) AS i;
INSERT INTO runs (id, event, handler, root, priority, created_at, counted, partitionkey)
SELECT run + seq - event, seq, (SELECT id FROM handlers WHERE name = 'slow'), seq, 4, 1, 0,
    CASE WHEN (seq - event) % 2 = 1 THEN format('k%s', (seq - event) % 50000) END
FROM head, events WHERE seq > event;
INSERT INTO commits SELECT number + 1, node, event + {count}, run + {count}, result, digest, rules,
    ARRAY[(SELECT id FROM handlers WHERE name = 'slow'), 0, {count}], '' FROM head;
"""
GROWTH = 64 << 20  # bytes


def _fill_sqlite(service: Service, count: int) -> None:
    with sqlite3.connect(service.database) as connection:
        connection.executescript(
            "PRAGMA synchronous=OFF; PRAGMA cache_size=-200000; BEGIN;" + SEED.format(count=count) + "COMMIT;"
        )
    connection.close()


def _fill_postgres(service: Service, count: int) -> None:
    with psycopg.connect(service.database_url, options="-c search_path=busway") as connection:
        connection.execute(POSTGRES_SEED.format(count=count).encode())


FILL = {"sqlite": _fill_sqlite, "postgres": _fill_postgres}


@pytest.mark.long
@pytest.mark.parametrize("ordered", [False, True])
def test_a_million_waiting_runs_take_little_memory_and_stop_nobody(
    make_service: Serve, ordered: bool
) -> None:
    service = make_service()
    service.write("limits.py", CODE.replace("FOLDER", repr(str(service.folder))))
    service.start()
    service.ok("PATCH", "/v1/handlers/slow", {"ordered": ordered, "concurrency": 1})
    quick = service.publish("quick", 0)
    assert service.run_of(quick["seq"])["state"] == "succeeded"
    before = resident(service)
    assert service.stop() == 0
    FILL[chosen.KIND](service, 1_000_000)
    service.start()
    until(lambda: service.runs(state="running", handler="slow"), "the first of a million")
    receipts = [service.publish("quick", n) for n in range(20)]
    for receipt in receipts:
        assert service.run_of(receipt["seq"])["state"] == "succeeded"
    growth = resident(service) - before
    print(f"resident memory grew by {growth >> 20} MiB")
    assert growth < GROWTH
    assert service.ok("GET", "/v1/handlers/slow")["stats"]["runs"]["available"] > 900_000


def resident(service: Service) -> int:
    assert service.process is not None
    found: int = psutil.Process(service.process.pid).memory_info().rss
    return found

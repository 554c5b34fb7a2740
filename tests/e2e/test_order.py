"""Ordered handlers on the real service: nothing that befalls it breaks the order of a key."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .conftest import Serve
from .service import PATIENCE, Service, until, until_none

CODE = """
import os, random, time
from busway import handler

LOG = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

@handler("o.*", ordered=True, max_attempts=3, backoff={{"initial": 0.02, "factor": 1, "jitter": 1}})
def step(event, ctx):
    chance = random.Random(f"{{event.data['seed']}}-{{event.id}}-{{ctx.attempt}}")
    key = event.attributes.get("partitionkey", "-")
    def tell(what):
        os.write(LOG, f"{{what}} {{key}} {{event.data['n']}} {{ctx.attempt}} {{ctx.run}}\\n".encode())
    tell("start")
    time.sleep(chance.random() * 0.02)
    fate = chance.random()
    if fate < 0.02:
        tell("stop")
        os._exit(3)
    if fate < 0.25:
        tell("stop")
        raise ValueError("as the seed wants it")
    tell("stop")
    return event.data["n"]
"""
KEYS = 6


def seed() -> int:
    value = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print(f"BUSWAY_TEST_SEED={value}")
    return value


class Load:
    """Publishes keyed events one batch after another, sending a batch again until it got its 202."""

    def __init__(self, service: Service, chance: random.Random, value: int) -> None:
        self.service, self.chance, self.seed = service, chance, value
        self.published = 0

    def batch(self) -> list[dict[str, Any]]:
        events = []
        for _ in range(self.chance.choice([1, 5, 30])):
            self.published += 1
            event = {
                "type": "o.x",
                "id": f"e{self.published}",
                "priority": self.chance.randrange(10),
                "data": {"n": self.published, "seed": self.seed},
            }
            if self.chance.random() < 0.9:
                event["partitionkey"] = f"k{self.chance.randrange(KEYS)}"
            events.append(event)
        return events

    def send(self) -> None:
        events = self.batch()

        def taken() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self.service.post("/v1/events", events).status_code == 202
            return False

        until(taken, "a 202")


def kill_worker(service: Service, chance: random.Random) -> None:
    pools = service.ok("GET", "/v1/status")["workers"]["pools"].values()
    pids = [worker["pid"] for pool in pools for worker in pool["workers"]]
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), 9)


def kill_service(service: Service) -> None:
    assert service.process is not None
    children = psutil.Process(service.process.pid).children(recursive=True)
    service.kill()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not alive, f"orphans: {alive}"
    service.start()


@pytest.mark.long
@pytest.mark.fault
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_order_holds_through_failures_and_kills(make_service: Serve, tmp_path: Path, pool: str) -> None:
    value = seed()
    chance = random.Random(value)
    log = tmp_path / "order.log"
    service = make_service(pool=pool, threads=8)
    service.write("steps.py", CODE.format(log=str(log)))
    service.start()
    load = Load(service, chance, value)
    for kill in range(6):
        for _ in range(6):
            load.send()
            time.sleep(chance.random() / 50)
            if chance.random() < 0.2:
                kill_worker(service, chance)
        if kill % 2:
            kill_service(service)
    all_end(service)
    runs = service.runs()
    assert len(runs) == load.published
    check_log(log)
    check_attempts(service, runs)


@pytest.mark.long
@pytest.mark.fault
def test_pausing_and_changing_under_load_loses_and_reorders_nothing(
    make_service: Serve, tmp_path: Path
) -> None:
    value = seed()
    chance = random.Random(value)
    log = tmp_path / "order.log"
    service = make_service(threads=8)
    service.write("steps.py", CODE.format(log=str(log)))
    service.start()
    load = Load(service, chance, value)
    revision, paused = 1, False
    for _ in range(40):
        load.send()
        toggle = "resume" if paused else "pause"
        change = chance.choice(
            [
                toggle,
                toggle,
                {"pool": chance.choice(["process", "thread"])},
                {"timeout": chance.randrange(5, 60)},
            ]
        )
        if isinstance(change, str):
            paused = service.ok("POST", f"/v1/handlers/step/{change}")["paused"]
        else:
            changed = service.ok("PATCH", "/v1/handlers/step", change)["revision"]
            assert changed in {revision, revision + 1}
            revision = changed
    if paused:
        service.ok("POST", "/v1/handlers/step/resume")
    all_end(service)
    runs = service.runs()
    assert len(runs) == load.published
    check_log(log)
    check_attempts(service, runs)
    ran = {
        attempt["revision"]
        for run in runs
        for attempt in service.ok("GET", f"/v1/runs/{run['id']}")["attempts"]
    }
    assert ran <= set(range(1, revision + 1))
    assert len(ran) > 1, "no change took effect under load"
    assert {run["revision"] for run in runs} <= ran


def all_end(service: Service) -> None:
    def unfinished() -> int:
        stats = service.ok("GET", "/v1/handlers/step")["stats"]["runs"]
        return sum(stats.get(state, 0) for state in ("available", "retryable", "running"))

    until_none(unfinished, "all runs to end")


def check_log(log: Path) -> None:
    """What the handlers themselves saw: per key, one at a time and never back to an earlier event."""
    last: dict[str, tuple[int, int]] = {}
    open_keys: set[str] = set()
    together = 0
    for line in log.read_text().splitlines():
        what, key, n, attempt, _run = line.split()
        if key == "-":
            continue
        this = (int(n), int(attempt))
        if what == "start":
            assert last.get(key, (0, 0))[0] <= this[0], f"{line} came after {last[key]}"
            last[key] = this
            open_keys.add(key)
            together += len(open_keys) > 1
        else:
            assert last[key] == this, f"{line} while {last[key]} ran"
            open_keys.discard(key)
    assert together, "the keys did not go on side by side"


def check_attempts(service: Service, runs: list[dict[str, Any]]) -> None:
    """What the service tells of the same: attempts of one key do not overlap and go in event order."""
    keys: dict[int, str | None] = {}
    after: dict[str, str] = {}
    while True:
        page = service.get("/v1/events", params={"limit": 1000, **after}).json()
        keys |= {event["seq"]: event.get("partitionkey") for event in page["items"]}
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    lines: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["event"]):
        key = keys[run["event"]]
        if key is not None and run["state"] != "cancelled":
            detail = service.ok("GET", f"/v1/runs/{run['id']}")
            assert [a["attempt"] for a in detail["attempts"]] == list(range(1, run["attempt"] + 1))
            lines[key] += [(run["event"], attempt) for attempt in detail["attempts"]]
    for key, line in lines.items():
        for (_, one), (event, other) in itertools.pairwise(line):
            assert one["finished_at"] <= other["started_at"], f"{key}, event {event}: {one} and {other}"


def test_a_run_that_is_retried_by_hand_goes_beside_its_key(make_service: Serve) -> None:
    service = make_service(workers=2)
    service.write(
        "steps.py",
        "import time, pathlib\nfrom busway import Fail, handler\n"
        "@handler('o', ordered=True)\n"
        "def step(event, ctx):\n"
        "    if event.data == 'fail' and ctx.attempt == 1: raise Fail('no')\n"
        "    while event.data == 'wait' and not pathlib.Path(event.subject).exists(): time.sleep(0.01)\n",
    )
    service.start()
    gate = service.folder / "gate"
    first = service.publish("o", "fail", partitionkey="a")
    assert service.run_of(first["seq"])["state"] == "dead"
    waits = service.publish("o", "wait", partitionkey="a", subject=str(gate))
    behind = service.publish("o", partitionkey="a")
    beside = service.publish("o", partitionkey="b")
    run = service.finished(first["seq"])["runs"][0]["id"]
    until(lambda: state(service, waits) == "running", "the first of the key")
    service.ok("POST", f"/v1/runs/{run}/retry")
    assert service.run_of(first["seq"])["state"] == "succeeded"
    assert service.run_of(beside["seq"])["state"] == "succeeded"
    assert (state(service, waits), state(service, behind)) == ("running", "available")
    gate.touch()
    assert service.run_of(behind["seq"])["state"] == "succeeded"


def state(service: Service, receipt: dict[str, Any]) -> str:
    found: str = service.ok("GET", f"/v1/events/{receipt['seq']}")["runs"][0]["state"]
    return found

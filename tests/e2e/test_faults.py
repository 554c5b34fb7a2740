"""Kill things during a seeded load; nothing is lost and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosedError

from .conftest import Serve
from .load import HANDLERS, Publisher, Subscriber, check
from .service import PATIENCE, Service, hear, items, say, until

pytestmark = pytest.mark.fault


def seed() -> int:
    value = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print(f"BUSWAY_TEST_SEED={value}")
    return value


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_ten_kills_of_the_whole_service_lose_nothing(make_service: Serve, pool: str) -> None:
    value = seed()
    chance = random.Random(value)
    service = make_service(pool=pool)
    service.write("load.py", HANDLERS)
    service.start()
    publisher, subscriber = Publisher(service, value), Subscriber(service)
    for _ in range(10):
        time.sleep(chance.uniform(0.2, 0.8))
        children = psutil.Process(service.process.pid).children(recursive=True) if service.process else []
        service.kill()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert not alive, f"orphans: {alive}"
        service.start()
    check(service, publisher, subscriber)
    assert subscriber.connections >= 2


class Answering(threading.Thread):
    """Asks the API all the time; counts what did not answer."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.service, self.failures, self.answers = service, [], 0
        self.stopping = threading.Event()
        self.start()

    def run(self) -> None:
        with httpx.Client(timeout=PATIENCE, verify=False) as client:
            while not self.stopping.is_set():
                try:
                    client.get(self.service.url + "/healthz").raise_for_status()
                    self.answers += 1
                except httpx.HTTPError as problem:
                    self.failures.append(problem)
                time.sleep(0.01)


def children(service: Service, program: str) -> list[psutil.Process]:
    """The processes of the service that run a program of ours."""
    assert service.process is not None
    found = []
    for process in psutil.Process(service.process.pid).children(recursive=True):
        try:
            if program in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def victims(service: Service, what: str) -> list[psutil.Process]:
    if what == "committer":
        return children(service, "busway.gateway.store.committer")
    status = service.ok("GET", "/v1/status")["workers"]
    workers = [worker["pid"] for pool in status["pools"].values() for worker in pool["workers"]]
    pids = [status["zygote"]["pid"]] if what == "zygote" else workers
    found = []
    for pid in filter(None, pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("what", ["worker", "zygote", "committer"])
def test_a_killed_child_costs_nothing(make_service: Serve, what: str, pool: str) -> None:
    value = seed()
    chance = random.Random(value)
    service = make_service(pool=pool)
    service.write("load.py", HANDLERS)
    service.start()
    publisher, subscriber, answering = Publisher(service, value), Subscriber(service), Answering(service)
    for _ in range(8):
        time.sleep(chance.uniform(0.1, 0.5))
        before = len(publisher.acknowledged)
        found = until(lambda: victims(service, what), f"a {what}")
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
            chance.choice(found).kill()
        until(lambda: len(publisher.acknowledged) > before, "publishing to go on")  # noqa: B023 - used at once
    answering.stopping.set()
    answering.join(PATIENCE)
    assert answering.failures == []
    assert answering.answers > 10
    assert publisher.statuses <= {202, 503}
    check(service, publisher, subscriber)
    assert subscriber.connections == 1, "the subscriber was disturbed"


@pytest.mark.one_node("a drain of one process")
def test_sigterm_under_load_finishes_what_runs_and_delivers_it(make_service: Serve, tmp_path: Path) -> None:
    service, go = make_service(pool="thread"), tmp_path / "go"
    service.write(
        "slow.py",
        "import os, time\nfrom busway import handler\n"
        "@handler('slow')\ndef slow(event):\n"
        f"    while not os.path.exists({str(go)!r}):\n        time.sleep(0.01)\n    return 'done'\n",
    )
    service.start()
    with service.subscribed() as socket:
        seqs = {service.publish("slow")["seq"] for _ in range(8)}
        until(lambda: len(service.runs(state="running")) == 8, "all to run")
        service.terminate()
        until(
            lambda: service.post("/v1/events", {"type": "nobody"}).status_code == 503,
            "new events to be refused",
        )
        go.touch()
        done = items(socket, 8)
        assert {i["event"]["seq"] for i in done if i["data"] == "done"} == seqs
        with pytest.raises(ConnectionClosedError, match="1012"):
            hear(socket)
    assert service.process is not None
    assert service.process.wait(PATIENCE) == 0


@pytest.mark.one_node("a drain of one process")
def test_a_second_signal_ends_at_once_and_leaves_no_orphan(make_service: Serve) -> None:
    service = make_service()
    service.write(
        "slow.py",
        "import time\nfrom busway import handler\n@handler('slow')\ndef slow(event): time.sleep(50)\n",
    )
    service.start()
    service.publish("slow")
    until(lambda: service.runs(state="running"), "the run")
    assert service.process is not None
    processes = psutil.Process(service.process.pid).children(recursive=True)
    service.terminate()
    until(lambda: service.get("/readyz").status_code == 503, "the drain")
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(PATIENCE) == 1
    assert not psutil.wait_procs(processes, timeout=PATIENCE)[1]


def test_an_interrupted_run_is_lost_and_runs_again(make_service: Serve, tmp_path: Path) -> None:
    service = make_service()
    flag = tmp_path / "flag"
    service.write(
        "slow.py",
        "import pathlib, time\nfrom busway import handler\n@handler('slow', max_attempts=1)\n"
        "def slow(event, ctx):\n"
        f"    while not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.01)\n"
        "    return ctx.attempt\n",
    )
    service.start()
    seq = service.publish("slow")["seq"]
    until(lambda: service.runs(state="running"), "the run")
    service.kill()
    flag.touch()
    service.start()
    run = service.run_of(seq)
    assert (run["state"], run["attempt"]) == ("succeeded", 2)
    assert [a["outcome"] for a in run["attempts"]] == ["lost", "succeeded"]


STREAMS = """
import os, pathlib, time
from busway import handler

@handler("streams", max_attempts=1)
def streams(event, ctx):
    yield "first"
    while not pathlib.Path(event.data).exists(): time.sleep(0.005)
    yield "second"

@handler("exits")
def exits(event): os._exit(3)
"""


def kinds_of(service: Service, run: int) -> list[tuple[str, int, int | None]]:
    items = [item for item in service.results() if item["run"] == run]
    assert not any(item["completes"] for item in items[:-1])
    return [(item["kind"], item["attempt"], item["index"]) for item in items]


AGAIN = [
    ("partial", 1, 0), ("lost", 1, None), ("partial", 2, 0), ("partial", 2, 1), ("succeeded", 2, None),
]  # fmt: skip


def test_the_partials_of_a_killed_gateway_are_followed_by_lost(make_service: Serve, tmp_path: Path) -> None:
    service = make_service()
    sign = tmp_path / "sign"
    service.write("streams.py", STREAMS)
    service.start()
    run = service.ok("GET", f"/v1/events/{service.publish('streams', str(sign))['seq']}")["runs"][0]["id"]
    until(service.results, "the first partial")  # it comes at once, so its attempt has just begun
    service.kill()
    service.start()
    until(lambda: len(service.results()) == 3, "the partial of the second attempt")
    lost = service.results()[1]
    assert lost["error"] == {"type": "Lost", "message": "the gateway stopped while attempt 1 was running"}
    sign.touch()
    until(lambda: not service.unfinished(), "its end")
    service.kill()
    service.start()
    assert kinds_of(service, run) == AGAIN


def test_attempts_that_share_a_worker_are_lost_with_it_and_say_so(
    make_service: Serve, tmp_path: Path
) -> None:
    service = make_service(pool="thread")
    sign = tmp_path / "sign"
    service.write("streams.py", STREAMS)
    service.start()
    runs = [
        service.ok("GET", f"/v1/events/{service.publish('streams', str(sign))['seq']}")["runs"][0]["id"]
        for _ in range(2)
    ]
    until(lambda: len(service.results()) == 2, "the first partials")
    service.publish("exits")
    until(lambda: sum(item["kind"] == "lost" for item in service.results()) >= 3, "the losses")
    sign.touch()
    for run in runs:
        until(lambda run=run: service.ok("GET", f"/v1/runs/{run}")["state"] == "succeeded", "its end")
    for run in runs:
        assert kinds_of(service, run) == AGAIN
    lost = next(item for item in service.results(kinds="lost") if item["run"] == runs[0])
    assert lost["error"] == {"type": "WorkerDied", "message": "exited with status 3"}


@pytest.mark.one_database("several gateways can use one PostgreSQL database")
def test_one_file_has_one_gateway(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    process = service.launch()
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (2, "")
    said = service.log.read_text().strip().splitlines()[-1]
    assert said.startswith("busway: ")
    assert service.database_shown in said


@pytest.mark.long
@pytest.mark.one_node("memory of one process")
def test_a_slow_reader_gets_everything_in_order(make_service: Serve) -> None:
    service = make_service()
    service.write(
        "big.py", "from busway import handler\n@handler('big')\ndef big(event): return 'x' * 100_000\n"
    )
    service.start()
    assert service.process is not None
    # A client that reads no more than it has room for, not even pongs.
    with service.connect(max_queue=16, ping_interval=None) as socket:
        say(socket, op="subscribe", id="s")
        assert hear(socket)["op"] == "subscribed"
        before = psutil.Process(service.process.pid).memory_info().rss
        for _ in range(40):
            service.ok("POST", "/v1/events", [{"type": "big"}] * 100)
        until(lambda: not service.runs(state="available"), "all runs to end")
        grown = psutil.Process(service.process.pid).memory_info().rss - before
        numbers = []
        while len(numbers) < 4000:
            numbers += [int(i["cursor"].split("-")[1]) for i in hear(socket)["items"]]
        say(socket, op="ping")
    assert numbers == list(range(1, 4001))
    assert grown < 300 << 20, f"{grown >> 20} MiB for 380 MiB unread: they were kept in memory"

"""Several nodes on one PostgreSQL database: whatever happens to them, nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ports import unused_port
from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer, running

from .cells import Clients, UnreliableNats, leader_of, losing
from .disturbance import Cutter
from .load import HANDLERS
from .service import Service, hear, say, until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.long,
    pytest.mark.one_database("has a PostgreSQL server of its own"),
]
SEED = int(os.environ.get("BUSWAY_TEST_SEED", "20261128"))
HELD = """
import os, time
from busway import handler

@handler("slow", timeout=600)
def slow(event, ctx):
    while not ctx.cancelled:
        time.sleep(0.01)

@handler("held", ordered=True, timeout=600)
def held(event, ctx):
    def sign(what):
        with open("{log}", "a") as file:
            file.write(f"{{what}} {{os.getpid()}} {{time.monotonic()}}\\n")
    sign("begin")
    while ctx.attempt == 1:
        sign("runs")
        time.sleep(0.02)
    sign("end")
"""
ROOT = Path(__file__).parents[2]
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'busway/%'"


@pytest.mark.parametrize("lost", [1.0, 0.3])
def test_lost_doubled_and_late_notifications_cost_time_only(
    nodes: list[Service], cell_server: PostgresServer, lost: float
) -> None:
    print("BUSWAY_TEST_SEED", SEED)
    with losing(nodes, cell_server.port, lost, SEED) as relays:
        for node in nodes:
            node.start()
        clients = Clients(nodes, SEED)
        clients.acknowledged(60)
        nodes[1].ok("POST", "/v1/handlers", {"name": "new", "target": "load:leaf", "events": ["new"]})
        assert nodes[2].publish("new", {"n": 1})["runs"] == 1
        clients.check(nodes[0])
        assert min(relay.notifications for relay in relays) > 20
        for node in nodes:
            assert node.stop() == 0


@pytest.mark.parametrize("over", ["NOTIFY", "NATS"])
def test_all_nodes_end_when_the_database_lacks_commits_that_they_have_seen(tmp_path: Path, over: str) -> None:
    """A shadow replay and firings of a schedule are among the commits that are lost."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running())
        server.create("cell")
        both = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            service = stack.enter_context(contextlib.closing(Service(tmp_path / name)))
            service.database_url = server.url("cell")
            service.write("load.py", HANDLERS)
            both.append(service)
        if over == "NATS":
            broker = stack.enter_context(contextlib.closing(NatsServer().start()))
            for service in both:
                service.options["broker_url"] = broker.url()
        for service in both:
            service.start()
        both[0].all_finished([both[0].publish("load.leaf", {"n": n}) for n in range(5)])
        both[0].ok("POST", "/v1/handlers/leaf/pause")
        shadow = both[1].ok("POST", "/v1/handlers/leaf/replay", {"types": ["load.leaf"], "shadow": True})[
            "id"
        ]
        until(lambda: both[0].ok("GET", f"/v1/replays/{shadow}")["created"] == 5, "the runs of the replay")
        both[1].ok("POST", "/v1/schedules", {"name": "tick", "every": "1s", "event": {"type": "nobody"}})
        server.stop()
        server.keep()
        server.start()
        leader = leader_of(both)
        follower = both[1 - both.index(leader)]
        with follower.connect() as websocket:
            say(websocket, op="subscribe", id="s")
            assert hear(websocket)["op"] == "subscribed"
            until(lambda: leader.post("/v1/events", {"type": "nobody"}).status_code == 202, "it to go on")
            leader.publish("load.one", {"n": 1})
            cursor = hear(websocket)["cursor"]  # the follower has shown it, and has written nothing
        # Its committer may have a connection of before.
        until(lambda: follower.post("/v1/handlers/leaf/resume").is_success, "it to write again")
        until(lambda: shadows(follower, shadow) == 5, "the replay")
        until(lambda: fired(follower), "a firing")
        server.kill()
        server.go_back()
        server.start()
        for service in both:
            assert service._reap() == 1
            assert "lacks commits" in service.log.read_text()
        for service in both:
            service.start()
        follower.all_finished([follower.publish("load.one", {"n": n}) for n in range(20)])
        with follower.connect() as websocket:
            say(websocket, op="subscribe", id="s", after=cursor)
            assert hear(websocket)["recovered"] is False
        assert (shadows(leader, shadow), leader.ok("GET", "/v1/handlers/leaf")["paused"]) == (0, True)
        leader.ok("POST", "/v1/handlers/leaf/resume")
        until(lambda: leader.ok("GET", f"/v1/replays/{shadow}")["finished_at"], "the replay to end")
        assert shadows(follower, shadow) == 5
        before = fired(leader)
        until(lambda: len(fired(leader)) > len(before), "another firing")


def shadows(node: Service, replay: int) -> int:
    """How many results a replay has."""
    return sum(result["replay"] == replay for result in node.results(shadow="true"))


def fired(node: Service) -> list[str]:
    """The ids of the events of the schedule. None is there twice."""
    page = node.get("/v1/events", params={"source": "/schedules/tick", "limit": 1000})
    ids = [event["id"] for event in page.json()["items"]]
    assert len(set(ids)) == len(ids)
    return ids


EARLIER = (
    "588ff4240e3fdb67ddea10271fff5aec2951e2f0"  # its nodes may be open while the next release is installed
)


def earlier_release(folder: Path) -> str:
    """Return a folder for PYTHONPATH that has an earlier release."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", EARLIER, "app", "migrations"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"the repository has no history: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    (folder / "migrations").rename(folder / "app/busway/migrations")
    return str(folder / "app")


@pytest.mark.parametrize("over", ["NOTIFY", "NATS"])
def test_nodes_of_this_and_of_an_earlier_release_work_together(
    nodes: list[Service], cell_server: PostgresServer, tmp_path: Path, over: str
) -> None:
    """Messages between them are lost, and those of the one release mean nothing to the other."""
    print("BUSWAY_TEST_SEED", SEED)
    first, old, last = nodes
    old.variables["PYTHONPATH"] = earlier_release(tmp_path / "earlier")
    old.described = False
    with contextlib.ExitStack() as stack:
        if over == "NATS":
            Broker(nodes, stack, SEED)
        else:
            stack.enter_context(losing(nodes, cell_server.port, 0.3, SEED))
        for node in nodes:
            node.start()
        programs = [child.environ()["PYTHONPATH"] for child in psutil.Process(old.pid).children()]
        assert any(path.startswith(old.variables["PYTHONPATH"]) for path in programs)
        clients = Clients([first, last], SEED)
        clients.acknowledged(20)
        receipts = [old.publish("load.leaf", {"n": n}) for n in range(20)]
        assert leader_of(nodes) is first
        first.kill()
        last.stop()
        assert leader_of([old]) is old
        first.start()
        last.start()
        clients.acknowledged(20)
        receipts += [old.publish("load.leaf", {"n": n}) for n in range(20)]
        last.ok("POST", "/v1/handlers", {"name": "mixed", "target": "load:leaf", "events": ["mixed"]})
        assert old.publish("mixed", {"n": 1})["runs"] == 1
        old.kill()
        clients.acknowledged(20)
        first.all_finished(receipts)
        clients.check(last)
        assert over == "NOTIFY" or connected(first)


def test_another_node_leads_when_the_leader_is_killed_under_load(nodes: list[Service]) -> None:
    print("BUSWAY_TEST_SEED", SEED)
    for node in nodes:
        node.start()
    clients = Clients(nodes, SEED)
    for _ in range(3):
        clients.acknowledged(30)
        leader = leader_of(nodes)
        leader.kill()
        until(lambda leader=leader: leader_of(nodes) is not leader, "another leader")
        leader.start()
    clients.check(nodes[0])


def test_nodes_that_were_frozen_or_cut_off_for_too_long_do_no_harm(
    nodes: list[Service], cell_server: PostgresServer, tmp_path: Path
) -> None:
    print("BUSWAY_TEST_SEED", SEED)
    keys = Keys(tmp_path / "keys")
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Cutter(cell_server.port)) for _ in nodes]
        for node, relay in zip(nodes, relays, strict=True):
            node.database_url = f"postgresql://postgres@127.0.0.1:{relay.port}/cell"
            node.write("keyed.py", keys.source)
            node.start()
        clients = Clients(nodes, SEED, keys=5)
        clients.acknowledged(30)
        leader = leader_of(nodes)
        follower, other = random.Random(SEED).sample([node for node in nodes if node is not leader], 2)
        os.kill(follower.pid, signal.SIGSTOP)
        relays[nodes.index(leader)].swallow()
        assert leader_of([other]) is other
        until(lambda: len(other.ok("GET", "/v1/status")["nodes"]) == 1, "both to be gone")
        other.all_finished([other.publish("load.leaf", {"n": n}) for n in range(20)])
        os.kill(follower.pid, signal.SIGCONT)
        relays[nodes.index(leader)].carry()
        for node in (follower, leader):
            assert node._reap() == 1
            assert "considered this one gone" in node.log.read_text()
            node.start()
        clients.acknowledged(30)
        clients.check(leader)
        keys.check()


ROLLED = """
from busway import handler

@handler("rolled")
def rolled(event):
    return {code!r}
"""
ADDED = """
@handler("rolled")
def added(event):
    return "added"
"""


def test_all_runs_end_and_new_ones_have_the_new_code_after_a_rolling_restart(nodes: list[Service]) -> None:
    print("BUSWAY_TEST_SEED", SEED)
    for node in nodes:
        node.write("rolled.py", ROLLED.format(code="old"))
        node.start()
    clients = Clients(nodes, SEED)

    def publish() -> list[dict[str, Any]]:
        return [node.publish("rolled", {"n": n}) for node in nodes for n in range(3)]

    receipts = publish()
    for node in random.Random(SEED).sample(nodes, 3):
        clients.acknowledged(20)
        node.write("rolled.py", ROLLED.format(code="new") + ADDED)
        assert node.stop() == 0
        node.start()
        receipts += publish()
    newest = publish()
    nodes[0].all_finished(receipts + newest)
    found = {(run["event"], run["handler"]): run["id"] for run in nodes[1].runs() if "ed" in run["handler"]}
    values = {item["run"]: item["data"] for item in nodes[2].results()}
    for receipt in receipts:
        assert values[found[receipt["seq"], "rolled"]] in {"old", "new"}
    for receipt in newest:
        assert receipt["runs"] == 2
        assert values[found[receipt["seq"], "rolled"]] == "new"
        assert values[found[receipt["seq"], "added"]] == "added"
    clients.check(nodes[0])


class Keys:
    """A handler that is ordered by key, and the check of what it wrote."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.source = f"""
import os
from busway import handler

@handler("load.one", ordered=True, max_attempts=50, backoff={{"initial": 0.05, "max": 0.2}})
def keyed(event, ctx):
    line = f"{{event.attributes['partitionkey']}} {{event.data['n']}} {{ctx.attempt}}"
    file = os.open({str(place)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"begin {{line}}\\n".encode())
    os.write(file, f"end {{line}}\\n".encode())
    os.close(file)
"""

    def check(self) -> None:
        """Per key, attempts do not overlap, and the last attempt of each event comes in the order of events.

        An attempt that was killed has no end.
        """
        begun: dict[str, tuple[int, int]] = {}
        newest: dict[str, int] = {}
        lines = self.place.read_text().splitlines()
        assert lines
        for line in lines:
            what, key, number, attempt = line.split()
            here = int(number), int(attempt)
            if what == "begin":
                assert here[0] >= newest.get(key, 0), f"{key} went back to {here} after {newest[key]}"
                newest[key] = here[0]
                begun[key] = here
            else:
                assert begun[key] == here, f"{key}: {here} ended while {begun[key]} ran"


def kill(hit: list[Service], chance: random.Random) -> None:
    for node in hit:
        node.kill()
    time.sleep(chance.random())
    for node in hit:
        node.start()


def restart(node: Service) -> None:
    assert node.stop() == 0
    node.start()


def kill_server(server: PostgresServer) -> None:
    server.kill()
    server.start()


def kill_all(nodes: list[Service], server: PostgresServer) -> None:
    for node in nodes:
        node.kill()
    kill_server(server)
    for node in nodes:
        node.process = node.launch()
    for node in nodes:
        node.announced()


Fault = Callable[[list[Service], PostgresServer, random.Random], Any]
FAULTS: dict[str, Fault] = {
    "a node is killed": lambda nodes, _, chance: kill(chance.sample(nodes, 1), chance),
    "two nodes are killed": lambda nodes, _, chance: kill(chance.sample(nodes, 2), chance),
    "the leader is killed": lambda nodes, _, chance: kill([leader_of(nodes)], chance),
    "all are killed, the server too": lambda nodes, server, _: kill_all(nodes, server),
    "the server is killed": lambda _, server, __: kill_server(server),
    "all connections are cut": lambda _, server, __: server.execute(CUT),
    "a node restarts": lambda nodes, _, chance: restart(chance.choice(nodes)),
    "the leader restarts": lambda nodes, _, __: restart(leader_of(nodes)),
}


class Broker:
    """NATS, and a relay between it and each node, which loses, doubles and delays notifications."""

    def __init__(self, nodes: list[Service], stack: contextlib.ExitStack, seed: int) -> None:
        self.server = NatsServer().start()
        stack.callback(self.server.close)
        self.relays = [UnreliableNats(self.server.port, 0.2, seed + n) for n in range(len(nodes))]
        for node, relay in zip(nodes, self.relays, strict=True):
            stack.enter_context(relay)
            node.options["broker_url"] = f"nats://127.0.0.1:{relay.port}"

    def restart(self) -> None:
        self.server.kill()
        self.server.start()

    def freeze(self, nodes: list[Service]) -> None:
        """Let it be silent until a node notices."""
        self.server.freeze()
        until(lambda: not all(map(connected, nodes)), "a node to notice")
        self.server.thaw()

    def cut_off(self, node: Service, chance: random.Random) -> None:
        """Break the network between a node and the broker, and keep it so until the node notices."""
        relay = self.relays[int(node.folder.name[-1])]
        chance.choice([relay.cut, relay.swallow])()
        relay.lead_to(unused_port())
        until(lambda: not connected(node), "the node to notice")
        relay.carry()
        relay.lead_to(self.server.port)

    def faults(self) -> dict[str, Fault]:
        def away(nodes: list[Service], *_: Any) -> None:
            self.server.kill()
            nodes[0].all_finished([nodes[0].publish("load.leaf", {"n": n}) for n in range(20)])
            self.server.start()

        def both(nodes: list[Service], _: Any, chance: random.Random) -> None:
            self.server.kill()
            kill(chance.sample(nodes, 1), chance)
            self.server.start()

        return {
            "the broker is killed": lambda *_: self.restart(),
            "the broker is away": away,
            "the broker is silent": lambda nodes, *_: self.freeze(nodes),
            "the broker and a node are killed": both,
            "a node is cut off from it": lambda nodes, _, chance: self.cut_off(chance.choice(nodes), chance),
        }


def connected(node: Service) -> bool:
    found: bool = node.ok("GET", "/v1/status")["broker"]["connected"]
    return found


@pytest.mark.parametrize("over", ["NOTIFY", "NATS"])
def test_nothing_is_lost_whatever_happens_to_nodes_database_and_broker(
    nodes: list[Service], cell_server: PostgresServer, tmp_path: Path, over: str
) -> None:
    seed = SEED + (over == "NATS")
    print("BUSWAY_TEST_SEED", seed)
    chance = random.Random(seed)
    keys, faults = Keys(tmp_path / "keys"), {**FAULTS}
    with contextlib.ExitStack() as stack:
        if over == "NATS":
            faults |= Broker(nodes, stack, seed).faults()
        for node in nodes:
            node.write("keyed.py", keys.source)
            node.start()
        clients = Clients(nodes, seed, keys=5)
        for fault in chance.sample([*faults], len(faults)):
            clients.acknowledged(20)
            print(time.monotonic(), fault)
            faults[fault](nodes, cell_server, chance)
        clients.check(nodes[2])
        keys.check()
        if over == "NATS":
            until(lambda: all(map(connected, nodes)), "all to be connected again")


@pytest.mark.parametrize("fault", ["frozen", "cut"])
def test_attempts_that_must_not_overlap_end_before_another_node_starts_the_next(
    nodes: list[Service], cell_server: PostgresServer, tmp_path: Path, fault: str
) -> None:
    """A follower is frozen, or cut off from the database, while it runs an ordered handler's attempt."""
    log = tmp_path / "log"
    with Cutter(cell_server.port) as relay:
        for node in nodes[:2]:
            node.options["workers"] = 1
            node.write("held.py", HELD.format(log=str(log)))
        through = f"postgresql://postgres@127.0.0.1:{relay.port}/cell?sslmode=disable&gssencmode=disable"
        nodes[1].database_url = through
        nodes[0].start()
        leader = leader_of(nodes[:1])
        nodes[1].start()
        leader.publish("slow")  # so that the leader has no room
        until(lambda: [run for run in leader.runs(handler="slow") if run["state"] == "running"], "it to run")
        seq = leader.publish("held", partitionkey="k")["seq"]
        until(log.exists, "the attempt to start")
        first = int(log.read_text().split()[1])
        assert psutil.pid_exists(first)
        if fault == "frozen":
            os.kill(nodes[1].pid, signal.SIGSTOP)
        else:
            relay.swallow()
        for run in leader.runs(handler="slow"):
            leader.ok("POST", f"/v1/runs/{run['id']}/cancel")
        run = leader.finished(seq)["runs"][0]
        assert (run["state"], run["attempt"]) == ("succeeded", 2)
        lines = [line.split() for line in log.read_text().splitlines()]
        assert [line[0] for line in lines[-2:]] == ["begin", "end"]
        last_sign = max(float(line[2]) for line in lines if int(line[1]) == first)
        assert last_sign < float(lines[-2][2])
        assert not psutil.pid_exists(first)

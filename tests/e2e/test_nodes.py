"""Several nodes on one PostgreSQL database."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from websockets.exceptions import ConnectionClosed

from tests import forked
from tests.marks import few
from tests.servers.postgres import PostgresServer

from .cells import leader_of, losing, own_id
from .service import PATIENCE, Service, clean_environment, hear, items, say, until

pytestmark = pytest.mark.one_database("has a PostgreSQL server of its own")
SLOW = """
import time
from busway import handler

@handler("slow", timeout=600)
def slow(event, ctx):
    while not ctx.cancelled:
        time.sleep(0.01)
"""
KEEPS = """
import time
from busway import handler

@handler("busy", timeout=600)
def busy(event, ctx):
    while not ctx.cancelled:
        time.sleep(0.01)

@handler("keeps", ordered=True, timeout=600)
def keeps(event):
    while True:
        with open("{log}", "a") as file:
            file.write(f"{{event.data}}\\n")
        if event.data == 2:
            return
        time.sleep(0.01)
"""
WAITS = """
import time
from pathlib import Path
from busway import handler

@handler("quick", pool="thread")
def quick(event):
    return 1

@handler("waits", pool="thread", timeout=600)
def waits_too(event):
    waits(event)

@handler("waits", timeout=600)
def waits(event):
    while not Path("{go}").exists():
        time.sleep(0.01)
"""


def busway(*words: str) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-m", "busway", *words], capture_output=True, text=True, timeout=PATIENCE,
        env={**clean_environment(), "COLUMNS": "200"}, check=True,
    )  # fmt: skip


def test_any_node_takes_events_and_delivers_results(nodes: list[Service]) -> None:
    for node in nodes:
        node.start()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(node.connect()) for node in nodes]
        for websocket in sockets:
            say(websocket, op="subscribe", id="s")
            assert hear(websocket)["op"] == "subscribed"
        receipts = [node.publish("load.one", {"n": n}) for n in range(5) for node in nodes]
        assert [receipt["seq"] for receipt in receipts] == list(range(1, 16))
        nodes[0].all_finished(receipts)
        seen = []
        for websocket in sockets:
            items: list[dict[str, object]] = []
            while len(items) < 30:
                items += hear(websocket)["items"]
            seen.append(items)
        assert seen[0] == seen[1] == seen[2]


@pytest.mark.long
def test_the_status_and_the_command_list_the_nodes(nodes: list[Service]) -> None:
    nodes[0].options["node_name"] = "first"
    for node in nodes:
        node.start()
    assert leader_of(nodes) is nodes[0]
    for node in nodes:
        until(lambda node=node: len(node.ok("GET", "/v1/status")["nodes"]) == 3, "all nodes to be seen")
    listed = nodes[1].ok("GET", "/v1/status")["nodes"]
    assert [node["leader"] for node in listed] == [True, False, False]
    assert [node["this"] for node in listed] == [False, True, False]
    assert listed[0]["name"] == "first"
    for words in ((f"--url={nodes[2].url}",), (f"--database-url={nodes[2].database_url}",)):
        shown = busway("nodes", *words).stdout.splitlines()
        assert len(shown) == 4
        assert shown[1].split()[1:6] == ["first", "all", "in", "term", "1"]
        asked = [json.loads(line) for line in busway("nodes", "--json", *words).stdout.splitlines()]
        assert [node["id"] for node in asked] == [node["id"] for node in listed]
        assert len({node["code"] for node in asked} - {None}) == 1, "their code is the same"


@pytest.mark.long
def test_a_change_of_handlers_at_one_node_holds_at_the_others_from_its_answer_on(
    nodes: list[Service],
) -> None:
    for node in nodes:
        node.start()
    for round_ in range(20):
        made, publishes, changes = (nodes[(round_ + n) % 3] for n in range(3))
        name = f"h{round_}"
        made.ok("POST", "/v1/handlers", {"name": name, "target": "load:leaf", "events": [f"t{round_}"]})
        receipt = publishes.publish(f"t{round_}", {"n": round_})
        assert receipt["runs"] == 1
        assert changes.ok("GET", f"/v1/handlers/{name}")["revision"] == 1
        changes.ok("PATCH", f"/v1/handlers/{name}", {"events": [f"u{round_}"]})
        assert made.publish(f"t{round_}")["runs"] == 0
        assert made.publish(f"u{round_}", {"n": 0})["runs"] == 1
        publishes.request("DELETE", f"/v1/handlers/{name}").raise_for_status()
        assert changes.publish(f"u{round_}")["runs"] == 0
        assert made.get(f"/v1/handlers/{name}").status_code == 404
        nodes[0].finished(receipt["seq"])


@pytest.mark.long
def test_a_key_holds_at_all_nodes_from_its_answer_on_until_it_is_revoked(nodes: list[Service]) -> None:
    for node in nodes:
        node.start()
    first = nodes[1].ok("POST", "/v1/keys", {"name": "first", "scopes": ["admin"]})["key"]
    assert [node.get("/v1/events").status_code for node in nodes] == [401] * 3
    for node in nodes:
        node.key = first
    for round_ in range(20):
        made, used, revokes = (nodes[(round_ + n) % 3] for n in range(3))
        guest = made.ok("POST", "/v1/keys", {"name": f"guest {round_}", "scopes": ["subscribe"]})
        headers = {"Authorization": f"Bearer {guest['key']}"}

        def status(node: Service, headers: dict[str, str] = headers) -> int:
            return node.client.get(f"{node.url}/v1/events?limit=1", headers=headers).status_code

        assert status(used) == 200
        revokes.request("DELETE", f"/v1/keys/{guest['id']}").raise_for_status()
        assert [status(node) for node in nodes] == [401] * 3


@pytest.mark.long
def test_changes_of_one_handler_at_several_nodes_at_once_are_all_made(nodes: list[Service]) -> None:
    for node in nodes:
        node.start()
    nodes[0].ok("POST", "/v1/handlers", {"name": "shared", "target": "load:leaf", "events": ["t"]})
    problems: list[str] = []

    def change(node: Service, at: int) -> None:
        for n in range(10):
            answer = node.request("PATCH", "/v1/handlers/shared", json={"timeout": 100 + at * 10 + n})
            if answer.status_code != 200:
                problems.append(answer.text)

    threads = [threading.Thread(target=change, args=(node, at)) for at, node in enumerate(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    revisions = nodes[1].ok("GET", "/v1/handlers/shared/revisions")["items"]
    assert len(revisions) == 31
    assert {each["timeout"] for each in revisions} == {60, *range(100, 130)}


@pytest.mark.long
def test_runs_are_cancelled_and_retried_at_any_node(nodes: list[Service]) -> None:
    for node in nodes:
        node.write("slow.py", SLOW)
        node.start()
    follower = nodes[1]
    seq = follower.publish("slow")["seq"]
    run = until(lambda: [r for r in follower.runs(event=seq) if r["state"] == "running"], "it to run")[0]
    assert follower.ok("POST", f"/v1/runs/{run['id']}/cancel")["state"] == "cancelled"
    assert nodes[2].ok("POST", f"/v1/runs/{run['id']}/retry")["state"] == "available"
    until(lambda: [r for r in follower.runs(event=seq) if r["state"] == "running"], "it to run again")
    nodes[2].ok("POST", f"/v1/events/{seq}/cancel")
    assert follower.run_of(seq)["state"] == "cancelled"
    later = follower.publish("slow", deliverat="2099-01-01T00:00:00Z")["seq"]
    nodes[2].ok("POST", f"/v1/runs/{follower.runs(event=later)[0]['id']}/cancel")
    assert follower.run_of(later)["state"] == "cancelled"
    receipts = [follower.publish("load.one", {"n": n}) for n in range(5)]
    follower.all_finished(receipts)  # the cancelled attempts hold no worker


@pytest.mark.long
def test_a_node_that_stops_hands_over_at_once(nodes: list[Service]) -> None:
    for node in nodes:
        node.start()
    left = [*nodes]
    while len(left) > 1:
        leader = leader_of(left)
        assert leader.stop() == 0
        left.remove(leader)
        left[0].all_finished([left[0].publish("load.one", {"n": n}) for n in range(5)])
    assert not [node for node in nodes if "is gone" in node.log.read_text()]
    assert left[0].stop() == 0


def running_of(node: Service) -> list[dict[str, Any]]:
    return [run for run in node.runs() if run["state"] == "running"]


@pytest.mark.long
@pytest.mark.parametrize("how", few(["killed", "left"], "killed"))
def test_runs_go_to_all_nodes_and_elsewhere_when_one_is_killed_or_leaves(
    nodes: list[Service], how: str
) -> None:
    for number, node in enumerate(nodes):
        node.options |= {"workers": 1, "node_name": f"node{number}"}
        node.write("slow.py", SLOW)
        node.start()
    leader = leader_of(nodes)
    follower = next(node for node in nodes if node is not leader)
    until(lambda: leader.publish("slow") and len(running_of(leader)) == 3, "a run on each node")

    def attempts() -> dict[int, dict[str, Any]]:
        details = [leader.ok("GET", f"/v1/runs/{run['id']}") for run in running_of(leader)]
        found = {detail["id"]: detail["attempts"][-1] for detail in details if detail["attempts"]}
        return {run: attempt for run, attempt in found.items() if attempt["worker"]}

    running = until(lambda: len(found := attempts()) == 3 and found, "three workers")
    names = {run: attempt["node"] for run, attempt in running.items()}
    assert set(names.values()) == {"node0", "node1", "node2"}
    pids = {attempt["worker"] for attempt in running.values()}
    lost = workers_of(follower) & pids
    assert len(lost) == 1
    if how == "killed":
        lost_nodes = {"name": "lost-nodes", "target": "load:one", "events": ["busway.node.lost"]}
        leader.ok("POST", "/v1/handlers", lost_nodes)
        follower.kill()
    else:  # as if the leader had given it the run in its last moment
        with psycopg.connect(follower.database_url, options="-c search_path=busway") as connection:
            connection.execute("UPDATE nodes SET closed_at = 1 WHERE id = %s", (own_id(follower),))
    [lost_run] = until(
        lambda: [item["run"] for item in leader.results() if item["kind"] == "lost"], "the attempt to be lost"
    )
    assert names[lost_run] == follower.options["node_name"]
    if how == "killed":
        (event,) = leader.ok("GET", "/v1/events?type=busway.node.lost")["items"]
        assert (event["source"], event["data"]["node"]) == ("/busway", names[lost_run])
        assert [run["handler"] for run in leader.ok("GET", f"/v1/events/{event['seq']}")["runs"]] == [
            "lost-nodes"
        ]
    assert f"node      {names[lost_run]}" in busway("run", f"--url={leader.url}", str(lost_run)).stdout
    for run in leader.runs(state="available"):
        leader.ok("POST", f"/v1/runs/{run['id']}/cancel")
    for run in leader.runs():
        if run["state"] in {"running", "retryable", "available"}:
            leader.ok("POST", f"/v1/runs/{run['id']}/cancel")
    receipts = [leader.publish("load.one", {"n": n}) for n in range(10)]
    leader.all_finished(receipts)


def workers_of(node: Service) -> set[int]:
    pools = node.ok("GET", "/v1/status")["workers"]["pools"]
    return {worker["pid"] for pool in pools.values() for worker in pool["workers"]}


@pytest.mark.long
def test_dispatch_goes_on_while_a_leader_drains(nodes: list[Service], tmp_path: Path) -> None:
    go = tmp_path / "go"
    for node in nodes[:2]:
        node.options |= {"drain_timeout": 60, "workers": 1}
        node.write("waits.py", WAITS.format(go=str(go)))
        node.start()
    leader = leader_of(nodes)
    follower = next(node for node in nodes[:2] if node is not leader)
    seqs = [leader.publish("waits", {"n": n})["seq"] for n in range(2)]
    until(lambda: len(running_of(leader)) == 4, "all to run")
    leader.terminate()
    until(lambda: leader_of([follower]) is follower, "the other one to lead")
    follower.all_finished([follower.publish("quick", {"n": n}) for n in range(3)])
    assert leader.process is not None
    assert leader.process.poll() is None
    go.touch()
    assert leader._reap() == 0
    for seq in seqs:
        for run in follower.finished(seq)["runs"]:
            assert (run["state"], run["attempt"]) == ("succeeded", 1)
    follower.all_finished([follower.publish("load.one", {"n": n}) for n in range(5)])


@pytest.mark.long
def test_one_subscription_of_all_nodes_has_a_durable_name(nodes: list[Service]) -> None:
    for node in nodes[:2]:
        node.start()

    def begin(websocket: Any) -> dict[str, Any]:
        say(websocket, op="subscribe", id="s", durable="d", after="earliest")
        return hear(websocket)

    def acknowledge(websocket: Any, cursor: str) -> dict[str, Any] | None:
        say(websocket, op="ack", id="s", cursor=cursor)
        say(websocket, op="ping")
        return None if (answer := hear(websocket))["op"] == "pong" else answer

    with contextlib.ExitStack() as stack:
        old = stack.enter_context(nodes[0].connect())
        assert begin(old)["op"] == "subscribed"
        for round_ in range(1, 6):
            nodes[0].all_finished([nodes[round_ % 2].publish("load.one", {"n": round_})])
            cursor = items(old, 2)[-1]["cursor"]
            assert acknowledge(old, cursor) is None
            new = stack.enter_context(nodes[round_ % 2].connect())
            begun = begin(new)
            assert (begun["op"], begun["cursor"], begun["recovered"]) == ("subscribed", cursor, True)
            assert "took over the durable name" in hear(old)["detail"]
            old = new
        (listed,) = nodes[0].ok("GET", "/v1/subscriptions")["items"]
        assert listed["connected"]
        assert nodes[0].request("DELETE", "/v1/subscriptions/d").status_code == 409
        say(old, op="unsubscribe", id="s")
        assert hear(old)["op"] == "unsubscribed"
        until(lambda: not nodes[0].ok("GET", "/v1/subscriptions")["items"][0]["connected"], "it to end")
        assert nodes[0].request("DELETE", "/v1/subscriptions/d").status_code == 204


@pytest.mark.long
def test_keys_and_tickets_hold_on_every_node(nodes: list[Service]) -> None:
    one, two = nodes[:2]
    one.start()
    two.start()
    one.key = one.ok("POST", "/v1/keys", {"name": "admin", "scopes": ["admin"]})["key"]
    two.key = one.key
    reader = two.ok("POST", "/v1/keys", {"name": "reader", "scopes": ["subscribe"]})
    admin, one.key = one.key, reader["key"]
    ticket = one.post("/v1/tickets").json()["ticket"]
    one.key = two.key = None
    with two.connect(f"?ticket={ticket}&types=load.*") as websocket:
        assert hear(websocket)["op"] == "subscribed"
        for node in (one, two):
            with node.connect(f"?ticket={ticket}") as again, pytest.raises(ConnectionClosed) as end:
                again.recv(timeout=PATIENCE)
            assert end.value.rcvd is not None
            assert (end.value.rcvd.code, "used already" in end.value.rcvd.reason) == (4401, True)
        one.key = admin
        one.request("DELETE", f"/v1/keys/{reader['id']}").raise_for_status()
        with pytest.raises(ConnectionClosed, match="4401"):
            websocket.recv(timeout=PATIENCE)


@pytest.mark.long
def test_a_key_is_held_until_a_cancelled_attempt_on_another_node_has_stopped(
    nodes: list[Service], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for node, workers in zip(nodes[:2], (1, 2), strict=True):
        node.options["workers"] = workers
        node.write("keeps.py", KEEPS.format(log=str(log)))
    nodes[0].start()
    leader = leader_of(nodes[:1])
    leader.publish("busy")  # so that the leader has no room
    until(lambda: running_of(leader), "it to run")
    nodes[1].start()
    first, second = (leader.publish("keeps", n, partitionkey="k")["seq"] for n in (1, 2))
    until(log.exists, "the attempt to start")
    nodes[1].ok("POST", f"/v1/runs/{leader.runs(event=first)[0]['id']}/cancel")
    assert leader.finished(first)["runs"][0]["state"] == "cancelled"
    assert leader.finished(second)["runs"][0]["state"] == "succeeded"
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == sorted(line[0] for line in lines)


STAYS = """
import time
from pathlib import Path
from busway import handler

def sign(what):
    with open("{log}", "a") as file:
        file.write(what + "\\n")

@handler("busy", pool="thread", timeout=600)
def busy(event, ctx):
    while not ctx.cancelled:
        time.sleep(0.01)

@handler("stays", ordered=True, pool="thread", timeout=600)
def stays(event):
    sign(f"begin {{event.data}}")
    while event.data == 1 and not Path("{go}").exists():
        time.sleep(0.01)
    sign(f"end {{event.data}}")
"""


@pytest.mark.long
def test_a_new_leader_waits_for_cancelled_attempts_of_other_nodes(
    nodes: list[Service], tmp_path: Path
) -> None:
    """A thread cannot be killed while others of its process run: its attempt holds the key until it ends."""
    log, go = tmp_path / "log", tmp_path / "go"
    for node, role in zip(nodes, ("gateway", "worker", "gateway"), strict=True):
        node.options |= {"workers": 1, "threads": 4, "role": role}
        node.write("stays.py", STAYS.format(log=str(log), go=str(go)))
        node.start()
    old, _, new = nodes
    old.publish("busy")
    first, second = (old.publish("stays", n, partitionkey="k")["seq"] for n in (1, 2))
    until(lambda: log.exists() and "begin 1" in log.read_text(), "the attempt to start")
    old.ok("POST", f"/v1/runs/{old.runs(event=first)[0]['id']}/cancel")
    old.kill()
    assert leader_of([new]) is new
    new.all_finished([new.publish("stays", 3, partitionkey="other")])
    go.touch()
    assert new.finished(second)["runs"][0]["state"] == "succeeded"
    lines = log.read_text().splitlines()
    assert lines.index("end 3") < lines.index("end 1") < lines.index("begin 2")


HOUR = 3600
WRONG_CLOCK = f"""
import time
time_, time_ns = time.time, time.time_ns
time.time = lambda: time_() - {HOUR}
time.time_ns = lambda: time_ns() - {HOUR} * 10**9
"""


@pytest.mark.long
def test_the_time_of_the_database_counts_on_a_machine_whose_clock_is_wrong(
    nodes: list[Service], tmp_path: Path
) -> None:
    right, wrong = nodes[:2]
    right.options["workers"] = 1
    right.write("slow.py", SLOW)
    right.start()
    right.publish("slow")  # so that this node has no room
    until(lambda: running_of(right), "it to run")
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    wrong.variables["PYTHONPATH"] = str(tmp_path)
    wrong.start()
    until(lambda: "is 3600 s behind that of the database" in wrong.log.read_text(), "the warning")
    before = time.time()
    event = wrong.publish("load.leaf", {"n": 1})["seq"]
    run = right.finished(event)["runs"][0]
    (attempt,) = right.ok("GET", f"/v1/runs/{run['id']}")["attempts"]
    shown = [wrong.ok("GET", f"/v1/events/{event}")["time"], run["created_at"], run["finished_at"]]
    for moment in (*shown, attempt["started_at"], attempt["finished_at"]):
        assert before - 5 < datetime.fromisoformat(moment).timestamp() < time.time() + 5


def test_runs_of_a_key_start_in_order_although_the_leader_knows_its_own_event_first(
    nodes: list[Service], cell_server: PostgresServer
) -> None:
    """Without notifications it learns of the other node's event up to a second later."""
    one, two, _ = nodes
    with losing(nodes[:2], cell_server.port, 1.0):
        for node in (one, two):
            node.write(
                "keyed.py", "from busway import handler\n@handler('o', ordered=True)\ndef o(event): ..."
            )
            node.start()
        leader = leader_of([one, two])
        other = two if leader is one else one
        keys = range(20)
        pairs = [[node.publish("o", partitionkey=f"k{key}") for node in (other, leader)] for key in keys]
        leader.publish("o", partitionkey="alone")
        for earlier, later in pairs:
            leader.all_finished([earlier, later])
            first, second = (attempts(leader, each["seq"])[0] for each in (earlier, later))
            assert first["finished_at"] <= second["started_at"], (earlier, later)


def attempts(node: Service, seq: int) -> list[dict[str, Any]]:
    (run,) = node.ok("GET", f"/v1/events/{seq}")["runs"]
    found: list[dict[str, Any]] = node.ok("GET", f"/v1/runs/{run['id']}")["attempts"]
    return found

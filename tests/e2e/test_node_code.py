"""Nodes with different handler code: a rolling update, a rollback, gateways without code."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from .cells import leader_of
from .service import Service, until

pytestmark = [pytest.mark.long, pytest.mark.one_database("has a PostgreSQL server of its own")]
OLD = """
from busway import handler

@handler("one", timeout=11, concurrency=1)
def one(event):
    return "old"

@handler("two")
def two(event):
    return "old"
"""
NEW = """
from busway import handler

@handler("one", timeout=22, concurrency=1)
def one(event):
    return "new"
"""


GPU = """
from busway import handler

@handler("gpu")
def gpu(event):
    return "special"
"""


def write(node: Service, name: str, source: str) -> None:
    node.options["node_name"] = name
    (node.handlers / "load.py").unlink()  # of the fixture
    node.write("shop.py", source)


def offers(node: Service) -> list[tuple[str]]:
    """The versions of code that are offered."""
    with psycopg.connect(node.database_url) as connection:
        query = "SELECT DISTINCT code FROM busway.nodes WHERE closed_at IS NULL AND code <> ''"
        return connection.execute(query).fetchall()


def timeout(node: Service) -> int:
    found: int = node.ok("GET", "/v1/handlers/one")["timeout"]
    return found


def ran(node: Service, type_: str) -> tuple[str, int, str]:
    """Publish, and return the node that ran it, the revision that it says, and the value."""
    receipt = node.publish(type_)
    (run,) = node.finished(receipt["seq"])["runs"]
    (attempt,) = node.ok("GET", f"/v1/runs/{run['id']}")["attempts"]
    (item,) = [item for item in node.results() if item["run"] == run["id"]]
    return attempt["node"], attempt["revision"], item["data"]


def test_during_a_rolling_update_each_node_runs_its_own_code_and_the_newest_declares(
    nodes: list[Service],
) -> None:
    old, new = nodes[:2]
    write(old, "old", OLD)
    write(new, "new", NEW)
    old.start()
    assert ran(old, "one") == ("old", 1, "old")
    new.start()
    until(lambda: timeout(old) == 22, "the new code to be declared")
    assert old.ok("GET", "/v1/handlers/one")["revision"] == 2
    assert ran(new, "two") == ("old", 1, "old")  # only the old node has it
    seen = {ran(node, "one") for node in (old, new) for _ in range(5)}
    assert seen <= {("old", 1, "old"), ("new", 2, "new")}
    assert old.stop() == 0
    assert {ran(new, "one") for _ in range(3)} == {("new", 2, "new")}
    until(lambda: new.ok("GET", "/v1/handlers/two")["missing"], "the handler to be missing")
    old.start()  # a restart makes no code newer
    until(lambda: not new.ok("GET", "/v1/handlers/two")["missing"], "the handler to be declared again")
    assert timeout(new) == timeout(old) == 22
    assert new.stop() == 0  # a rollback
    until(lambda: timeout(old) == 11, "the old code to be declared again")
    assert ran(old, "one")[::2] == ("old", "old")


def test_the_leader_with_old_code_declares_the_new_code_and_gives_its_runs_away(nodes: list[Service]) -> None:
    old, new = nodes[:2]
    write(old, "old", "")
    write(new, "new", NEW)
    old.start()
    assert leader_of([old]) is old
    new.start()
    until(lambda: old.get("/v1/handlers/one").status_code == 200, "the new code to be declared")
    assert leader_of([old, new]) is old
    assert {ran(node, "one") for node in (old, new) for _ in range(3)} == {("new", 1, "new")}


def test_a_gateway_lists_the_targets_of_the_nodes_with_workers(nodes: list[Service]) -> None:
    gateway, worker = nodes[:2]
    gateway.options["role"] = "gateway"
    worker.options["role"] = "worker"
    write(worker, "worker", NEW)
    worker.write("broken.py", "import nothing_that_exists\n")
    gateway.start()
    assert gateway.ok("GET", "/v1/targets")["items"] == []
    worker.start()
    items = until(lambda: gateway.ok("GET", "/v1/targets")["items"], "the targets")
    assert {"target": "shop:one", "kind": "function", "doc": ""} in items
    assert "nothing_that_exists" in items[0]["error"]
    made = {"name": "mine", "target": "shop:one", "events": ["mine"]}
    assert gateway.post("/v1/handlers", made).status_code == 201
    assert ran(gateway, "mine") == ("worker", 1, "new")
    refused = gateway.post("/v1/handlers", {**made, "name": "other", "target": "shop:three"})
    assert refused.status_code == 422
    worker.write("shop.py", NEW + "\n\ndef three(event):\n    return 3\n")
    worker.stop()
    worker.start()
    other = {**made, "name": "other", "target": "shop:three"}
    until(lambda: gateway.post("/v1/handlers", other).is_success, "the new target")


def test_a_handler_is_missing_when_newer_code_has_no_file_of_it(nodes: list[Service]) -> None:
    """While the only node with the file is away for a moment, its events wait."""
    usual, special = nodes[:2]
    write(usual, "usual", NEW)
    write(special, "special", NEW)
    special.write("gpu.py", GPU)
    usual.start()
    special.start()
    assert ran(usual, "gpu")[0] == "special"
    assert special.stop() == 0
    waiting = usual.publish("gpu")
    assert waiting["runs"] == 1
    usual.stop()
    usual.start()
    assert usual.publish("gpu")["runs"] == 1
    assert not usual.ok("GET", "/v1/handlers/gpu")["missing"]
    usual.stop()
    usual.write("shop.py", NEW + "\n\ndef three(event):\n    return 3\n")
    usual.start()
    until(lambda: usual.ok("GET", "/v1/handlers/gpu")["missing"], "the handler to be missing")
    assert usual.publish("gpu")["runs"] == 0
    special.start()
    until(lambda: not usual.ok("GET", "/v1/handlers/gpu")["missing"], "the handler to be declared again")
    usual.all_finished([waiting])


@pytest.mark.fault
@pytest.mark.parametrize("leader_then", ["continues", "dies"])
def test_a_node_is_ready_only_when_its_handlers_are_declared(nodes: list[Service], leader_then: str) -> None:
    """The leader is frozen meanwhile: events that the new node took before would start nothing."""
    leader, node, _ = nodes
    write(leader, "leader", OLD)
    leader.start()
    write(node, "node", OLD + '\n@handler("three")\ndef three(event):\n    return "new"\n')
    os.kill(leader.pid, signal.SIGSTOP)
    node.process = node.launch()
    if leader_then == "dies":
        until(lambda: len(offers(node)) == 2, "the new node to offer its code")
        leader.kill()
    try:
        node.announced()
        assert node.publish("three")["runs"] == 1
    finally:
        if leader.process is not None:
            os.kill(leader.pid, signal.SIGCONT)
    node.all_finished([node.publish("three")])

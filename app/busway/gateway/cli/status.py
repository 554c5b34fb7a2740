"""`busway status`."""

from __future__ import annotations

from typing import Any

from busway.gateway.cli.call import Caller
from busway.gateway.cli.nodes import running
from busway.gateway.cli.options import URL, Json, Key, Url
from busway.gateway.cli.output import Printer, age, counts, print_fields, print_json, print_table, size


def status(json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """Show the state of a gateway.

    It lists pools and workers, subscribers, the database, what stops handlers, and the runs of each handler.
    """
    with Caller(url, key) as caller:
        found = caller.call("GET", "/v1/status")
        ready = caller.send("GET", "/readyz")
    if json_lines:
        print_json([found])
        return
    printer = Printer()
    printer.pieces([f"busway {found['version']}", caller.gateway.url, found["state"]], ["bold", "", ""])
    disk, subscribers = found["disk"], found["subscribers"]
    free = f", {size(disk['free'])} free" if disk["free"] is not None else ""
    behind = f", {subscribers['furthest_behind']} results behind" if subscribers["lagging"] else ""
    print_fields(
        [
            ("started", f"{age(found['started_at'])} ago"),
            ("access", found["access"]),
            *(("node", node_line(node)) for node in found["nodes"] if len(found["nodes"]) > 1),
            *((f"{name} pool", _pool(pool)) for name, pool in found["workers"]["pools"].items()),
            ("subscribers", f"{subscribers['subscriptions']}{behind}"),
            ("not committed", found["queues"]["publishes_and_outcomes"] or ""),
            ("database", f"{disk['database']} ({size(disk['bytes'])}{free})"),
            *(("trouble", each) for each in (ready.json().get("trouble", []) if ready.is_success else [])),
        ],
        printer,
    )
    handlers = [(each["handler"], counts(each["runs"])) for each in found["queues"]["handlers"]]
    if handlers:
        printer.line("")
        print_table(("HANDLER", "RUNS"), handlers)


def node_line(node: dict[str, Any]) -> str:
    """Return what `status` says of a node."""
    marks = [
        "" if node["role"] == "all" else f"role {node['role']}",
        f"leads in term {node['term']}" if node["leader"] else "",
        "answers" if node["this"] else "",
        running(node),
        f"{node['lag']} commits behind" if node["lag"] else "",
    ]
    return f"{node['name']} ({node['id']}): {', '.join(filter(None, marks))}".removesuffix(": ")


def _pool(pool: dict[str, Any]) -> str:
    workers, running = pool["workers"], pool["running"]
    ready = sum(worker["state"] == "ready" for worker in workers)
    parts = [f"workers: {ready} of {len(workers)} ready, attempts: {running} running"] if workers else []
    if pool.get("error"):
        parts.append(f"workers cannot be started or reached: {pool['error']}")
    if pool.get("crash_loop"):
        parts.append(f"workers die at start: {pool['crash_loop']['last']}")
    return "; ".join(parts)

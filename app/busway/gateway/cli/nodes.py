"""`busway nodes`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from busway.domain.times import to_text
from busway.gateway.cli.call import Caller
from busway.gateway.cli.options import URL, Json, Key, Url, chosen_database
from busway.gateway.cli.output import age, print_json, print_table
from busway.gateway.store.port.cell import capacity

_DATABASE = typer.Option(
    help="Read the nodes from this database, without a gateway: postgresql://USER@HOST/DATABASE."
)


def nodes(
    ctx: typer.Context,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
    database_url: Annotated[str | None, _DATABASE] = None,
) -> None:
    """List the gateways that use one database. One of them leads: it hands out the runs."""
    source = ctx.get_parameter_source("url")
    if database_url and (source is None or source.name == "DEFAULT"):
        found = _from_database(database_url)
    else:
        found = _from_gateway(url, key)
    if json_lines:
        print_json(found)
        return
    rows = [
        (
            node["id"],
            node["name"],
            node["role"],
            f"in term {node['term']}" if node["leader"] else "",
            running(node),
            node["lag"],
            node["code"] or "",
            node["version"],
            age(node["started_at"]),
        )
        for node in found
    ]
    print_table(("ID", "NAME", "ROLE", "LEADS", "RUNNING", "LAG", "CODE", "VERSION", "AGE"), rows)


def running(node: dict[str, Any]) -> str:
    """Return how many attempts a node runs, and how many it can run at a time: `process 1/2, thread 0/32`."""
    pools = {**node["capacity"], **node["running"]}
    return ", ".join(
        f"{pool} {node['running'].get(pool, 0)}/{node['capacity'].get(pool, 0)}"
        for pool in sorted(pools)
        if node["capacity"].get(pool) or node["running"].get(pool)
    )


def _from_gateway(url: str, key: str | None) -> list[dict[str, Any]]:
    with Caller(url, key) as caller:
        found: list[dict[str, Any]] = caller.call("GET", "/v1/status")["nodes"]
    return found


def _from_database(url: str) -> list[dict[str, Any]]:
    with chosen_database(url) as database:
        state = database.nodes()
    return [
        {
            "id": node.id,
            "name": node.name,
            "role": node.role,
            "version": node.version,
            "code": node.code or None,
            "leader": node.id == state.leader,
            "term": state.term if node.id == state.leader else None,
            "this": False,
            "started_at": to_text(node.opened_at),
            "capacity": capacity(node),
            "running": node.running,
            "lag": node.lag,
        }
        for node in state.nodes
    ]

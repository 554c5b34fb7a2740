"""`busway audit`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from busway.gateway.cli.call import Caller
from busway.gateway.cli.options import URL, Json, Key, Url
from busway.gateway.cli.output import note, print_json, print_table


def audit(
    actor: Annotated[str | None, typer.Option(help="Only of this actor, such as key:3 or cli.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only these actions: a name, or a pattern such as 'key.*'.")
    ] = None,
    object_: Annotated[
        str | None, typer.Option("--object", help="Only of the object with this name or number.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only at this time or later, such as 2027-01-31T12:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before this time.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="So many entries at most.")] = 100,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """List who changed what, newest first. It needs a key with the scope admin, if the gateway has keys."""
    given = {"actor": actor, "action": action, "object": object_, "since": since, "until": until}
    params = {name: value for name, value in given.items() if value is not None}
    with Caller(url, key) as caller:
        items = list(caller.items("/v1/audit", params, limit))
    if json_lines:
        print_json(items)
    elif items:
        rows = [
            (
                item["time"][:19],
                item["actor"] + (f" ({item['name']})" if item["name"] else ""),
                item["address"] or "",
                item["action"],
                item["object"] or "",
                json.dumps(item["details"], ensure_ascii=False) if item["details"] else "",
            )
            for item in items
        ]
        print_table(("TIME", "ACTOR", "ADDRESS", "ACTION", "OBJECT", "DETAILS"), rows)
    else:
        note("no entries in the audit log match")

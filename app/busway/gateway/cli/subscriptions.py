"""`busway subscriptions`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from busway.gateway.cli.call import Caller, dry
from busway.gateway.cli.objects import object_names, said, verbs
from busway.gateway.cli.options import URL, DryRun, Json, Key, Url
from busway.gateway.cli.output import age, note, print_json, print_table

app = verbs("Durable subscriptions: names under which the gateway keeps an acknowledged cursor.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.", autocompletion=object_names)]


@app.command("list")
def list_subscriptions(json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """List durable subscriptions, and how far each is behind."""
    with Caller(url, key) as caller:
        items = list(caller.items("/v1/subscriptions", {}))
    if json_lines:
        print_json(items)
    elif items:
        rows = [
            (
                item["name"],
                "yes" if item["connected"] else "no",
                item["behind"],
                age(item["acknowledged_at"]) if item["acknowledged_at"] else "",
            )
            for item in items
        ]
        print_table(("SUBSCRIPTION", "CONNECTED", "BEHIND", "ACKNOWLEDGED"), rows)
    else:
        note("no durable subscriptions: a client that subscribes with `durable` creates one")


@app.command("delete")
def delete(
    name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL, key: Key = None
) -> None:
    """Delete the acknowledged cursor of a durable subscription that no client uses."""
    with Caller(url, key) as caller:
        caller.call("DELETE", f"/v1/subscriptions/{quote(name, safe='')}", params=dry(dry_run))
    said("subscription", name, "delete", {"deleted": name}, dry_run=dry_run, json_lines=json_lines)

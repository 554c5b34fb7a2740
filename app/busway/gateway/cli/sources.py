"""`busway sources`."""

from __future__ import annotations

from busway.gateway.cli.call import Caller
from busway.gateway.cli.objects import add_verbs, verbs
from busway.gateway.cli.options import URL, Json, Key, Url
from busway.gateway.cli.output import note, print_json, print_table

app = verbs("Sources of webhooks: who may post to /v1/hooks/NAME, and which events that makes.")


@app.command("list")
def list_sources(json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """List sources of webhooks. It needs a key with the scope admin, if the gateway has keys."""
    with Caller(url, key) as caller:
        items = list(caller.items("/v1/sources", {}))
    if json_lines:
        print_json(items)
    elif items:
        rows = [
            (
                item["name"],
                item["kind"],
                item["type"],
                "paused" if item["paused"] else "",
                item["description"],
            )
            for item in items
        ]
        print_table(("SOURCE", "KIND", "TYPE", "NOTE", "DESCRIPTION"), rows)
    else:
        note("no sources: `busway sources create NAME kind=github type=github.{event}` creates one")


add_verbs(app, "show", "create", "update", "put", "pause", "resume", "delete", kind="sources")

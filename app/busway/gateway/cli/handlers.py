"""`busway handlers`."""

from __future__ import annotations

from typing import Any

from busway.gateway.cli.call import call
from busway.gateway.cli.options import URL, Json, Key, Url
from busway.gateway.cli.output import print_json, print_table


def handlers(
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """List the handlers of a running gateway."""
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        page = call(url, key, "GET", f"/v1/handlers?limit=1000{after}")
        items += page["items"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    if json_lines:
        print_json(items)
        return
    rows = [
        (
            item["name"],
            " ".join(item["events"]),
            item["target"],
            item["placed_in"]["pool"],
            item["revision"],
            item["source"],
            ", ".join(f"{n} {state}" for state, n in item["stats"]["runs"].items() if n),
            item["waits_because"],
        )
        for item in items
    ]
    print_table(
        ("handler", "events", "target", "pool", "revision", "source", "runs", "waiting because"), rows
    )

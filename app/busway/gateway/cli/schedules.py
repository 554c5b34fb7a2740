"""`busway schedules`."""

from __future__ import annotations

from busway.gateway.cli.call import Caller
from busway.gateway.cli.options import URL, Json, Key, Url
from busway.gateway.cli.output import note, print_json, print_table


def schedules(json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """List schedules: what publishes an event again and again, by the clock."""
    with Caller(url, key) as caller:
        items = list(caller.items("/v1/schedules", {}))
    if json_lines:
        print_json(items)
    elif items:
        rows = [
            (
                item["name"],
                item["event"]["type"],
                f"every {item['every']}" if item["every"] else item["cron"],
                item["timezone"] if item["cron"] else "",
                "paused" if item["paused"] else item["next"][0][:19],
                (item["last_fired_at"] or "")[:19],
            )
            for item in items
        ]
        print_table(("SCHEDULE", "EVENT", "FIRES", "ZONE", "NEXT", "LAST"), rows)
    else:
        note("no schedules: POST /v1/schedules creates one")

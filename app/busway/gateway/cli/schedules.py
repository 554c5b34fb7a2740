"""`busway schedules`."""

from __future__ import annotations

import typer

from busway.gateway.cli.call import Caller, dry
from busway.gateway.cli.objects import Name, add_verbs, path_of, said, verbs
from busway.gateway.cli.options import URL, DryRun, Json, Key, Url
from busway.gateway.cli.output import note, print_json, print_table

app = verbs("Schedules: what publishes an event again and again, by the clock.")


@app.command("list")
def list_schedules(json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """List schedules with their next firings."""
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
        note("no schedules: `busway schedules create NAME every=1h event.type=TYPE` creates one")


add_verbs(app, "show", "create", "update", "put", "pause", "resume", "delete", kind="schedules")


@app.command("run")
def run(
    ctx: typer.Context, name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL,
    key: Key = None,
) -> None:  # fmt: skip
    """Fire a schedule now, also while it is paused. Its other firings stay as they are."""
    with Caller(url, key) as caller:
        found = caller.call("POST", f"{path_of(ctx, name)}/run", params=dry(dry_run))
    said("schedule", name, "fire", found, dry_run=dry_run, json_lines=json_lines)

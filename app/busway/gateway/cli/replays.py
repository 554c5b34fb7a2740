"""`busway replays`."""

from __future__ import annotations

from typing import Annotated

import typer

from busway.gateway.cli.call import Caller
from busway.gateway.cli.objects import shown_fields, verbs
from busway.gateway.cli.options import URL, DryRun, Json, Key, Url, replay_ids
from busway.gateway.cli.output import Printer, age, counts, note, print_fields, print_json, print_table
from busway.gateway.cli.replay import replay

app = verbs("Replays: stored events that run again. `busway replay NAME` starts one.")
Id = Annotated[
    int, typer.Argument(metavar="ID", help="Number of the replay.", min=1, autocompletion=replay_ids)
]


@app.command("list")
def list_replays(
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number of replays.", min=1)] = 20,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """List replays, newest first."""
    with Caller(url, key) as caller:
        items = list(caller.items("/v1/replays", {}, limit))
    if json_lines:
        print_json(items)
    elif items:
        rows = [
            (
                item["id"],
                item["state"],
                item["handler"],
                f"{item['after'] + 1} to {item['before'] - 1}",
                age(item["created_at"]),
                "; ".join(filter(None, ["shadow" if item["shadow"] else "", counts(item["runs"])])),
            )
            for item in items
        ]
        print_table(("REPLAY", "STATE", "HANDLER", "EVENTS", "AGE", "NOTE"), rows)
    else:
        note("no replays: `busway replay NAME` starts one")


@app.command("show")
def show(id_: Id, json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """Show one replay. `busway replay --follow ID` follows it."""
    with Caller(url, key) as caller:
        found = caller.call("GET", f"/v1/replays/{id_}")
    if json_lines:
        print_json([found])
        return
    printer = Printer()
    printer.pieces([f"replay {found.pop('id')}", found.pop("state")], ["bold", ""])
    found["runs"] = counts(found["runs"])
    print_fields(shown_fields(found), printer)


@app.command("cancel")
def cancel(
    id_: Id, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL, key: Key = None
) -> None:
    """Cancel a replay and its unfinished runs."""
    replay(cancel=id_, dry_run=dry_run, json_lines=json_lines, url=url, key=key)

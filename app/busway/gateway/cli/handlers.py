"""`busway handlers` with its verbs, and `pause`, `resume` and `delete`."""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Any

import typer

from busway.gateway.cli.call import Caller, check_name, dry
from busway.gateway.cli.handler_verbs import revisions, secret, targets, try_event
from busway.gateway.cli.objects import add_verbs, verbs
from busway.gateway.cli.options import URL, DryRun, Json, Key, Url, handler_names
from busway.gateway.cli.output import Printer, block, counts, note, print_json, print_plan, print_table
from busway.gateway.errors import BadSettings

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of the handler, from `busway handlers`.", autocompletion=handler_names
    ),
]

app = verbs("Handlers: which function or URL runs for which events.")


@app.command("list")
def handlers(json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """List handlers, and files that could not be loaded."""
    with Caller(url, key) as caller:
        items = list(caller.items("/v1/handlers", {}))
        # What is not loaded comes first.
        broken = list(takewhile(lambda each: "error" in each, caller.items("/v1/targets", {})))
    if json_lines:
        print_json(items)
    elif items:
        print_table(("HANDLER", "EVENTS", "TARGET", "POOL", "REVISION", "RUNS", "NOTE"), map(_row, items))
    else:
        note(
            "no handlers: put a file with one into the handlers folder of the gateway, or "
            "`busway handlers create NAME target=https://… events=TYPE` sends events to a URL"
        )
    if not broken:
        return
    if json_lines:
        for each in broken:
            note(f"{each['file']}: {_last_line(each['error'])}")
        return
    printer = Printer()
    printer.line("")
    for each in broken:
        first, *more = block(each["error"]).split("\n")
        # One line is a reason that says what is not loaded, several are a traceback.
        printer.line(
            f"{each['file']} is not loaded:" if more else f"{each['file']}: {first}", style="bold red"
        )
        for line in [first, *more] if more else ():
            printer.line(f"  {line}")


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    overridden = sorted(item.get("overrides") or ())
    notes = [item["waits_because"], f"set over HTTP: {', '.join(overridden)}" if overridden else ""]
    return (
        item["name"],
        " ".join(item["events"]),
        item["target"],
        item["placed_in"]["pool"],
        f"{item['revision']} ({item['source']})",
        counts(item["stats"]["runs"]),
        "; ".join(filter(None, notes)),
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def pause(
    name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL, key: Key = None
) -> None:
    """Pause a handler: its runs wait.

    Attempts that have started finish. Nothing is lost.
    """
    _switch(url, key, name, "pause", "is paused: its runs wait", dry_run=dry_run, json_lines=json_lines)


def resume(
    name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL, key: Key = None
) -> None:
    """Resume a paused handler: its runs start."""
    _switch(url, key, name, "resume", "is resumed", dry_run=dry_run, json_lines=json_lines)


def delete(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Names of handlers, from `busway handlers`.",
            autocompletion=handler_names,
        ),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="All handlers that code declared and no longer does.")
    ] = False,
    dry_run: DryRun = False,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """Delete handlers that no code declares: their waiting runs are cancelled.

    Attempts that have started finish. A handler that code declares cannot be deleted: pause it, or remove
    its decorator.
    """
    if bool(names) is missing:
        raise BadSettings("give the names of handlers, or --missing")
    for name in names or ():
        check_name(name)
    with Caller(url, key) as caller:
        found = names or [item["name"] for item in caller.items("/v1/handlers", {}) if item["missing"]]
        for name in found:
            caller.call("DELETE", f"/v1/handlers/{name}", params=dry(dry_run))
            if dry_run:
                would = f"delete the handler {name} and cancel its waiting runs"
                _plan(caller, name, would, json_lines=json_lines)
            elif json_lines:
                print_json([{"deleted": name}])
            else:
                Printer().line(f"handler {name} is deleted")
    if not found:
        note("no handler is missing")


def _plan(caller: Caller, name: str, would: str, *, json_lines: bool) -> None:
    """Print a plan with the number of waiting runs, if the key may read it."""
    answer = caller.send("GET", f"/v1/handlers/{name}")
    waiting = _waiting(answer.json()) if answer.is_success else None
    if waiting is not None:
        would += f": {waiting}" if would.endswith("runs") else f", which has waiting runs: {waiting}"
    print_plan(would, json_lines=json_lines, handler=name, waiting_runs=waiting)


def _waiting(handler: dict[str, Any]) -> int:
    runs: dict[str, int] = handler["stats"]["runs"]
    return runs.get("available", 0) + runs.get("retryable", 0)


def _switch(
    url: str, key: str | None, name: str, action: str, done: str, *, dry_run: bool, json_lines: bool
) -> None:
    path = f"/v1/handlers/{check_name(name)}/{action}"
    with Caller(url, key) as caller:
        found = caller.call("POST", path, params=dry(dry_run))
        if dry_run:
            _plan(caller, name, f"{action} the handler {name}", json_lines=json_lines)
        elif json_lines:
            print_json([found])
        else:
            Printer().line(f"handler {name} {done}")


add_verbs(app, "show", "create", "update", "put", kind="handlers")
app.command("pause")(pause)
app.command("resume")(resume)
app.command("delete")(delete)
app.command("test")(try_event)
for verb in (revisions, secret, targets):
    app.command(verb.__name__)(verb)

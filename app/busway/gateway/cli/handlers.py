"""`busway handlers`, `pause`, `resume` and `delete`."""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Any

import typer

from busway.gateway.cli.call import Caller, check_name
from busway.gateway.cli.options import URL, DryRun, Json, Key, Url, handler_names
from busway.gateway.cli.output import Printer, block, counts, note, print_json, print_plan, print_table
from busway.gateway.errors import BadSettings, BuswayError

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of the handler, from `busway handlers`.", autocompletion=handler_names
    ),
]


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
        note("no handlers: put a file with one into the handlers folder of the gateway")
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
    check_name(name)
    with Caller(url, key) as caller:
        if dry_run:
            if (found := caller.call("GET", f"/v1/handlers/{name}"))["paused"]:
                raise BuswayError(f"the handler {name!r} is paused already")
            _plan_switch("pause", found, json_lines=json_lines)
            return
        _switch(caller, name, "pause", "is paused: its runs wait", json_lines=json_lines)


def resume(
    name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL, key: Key = None
) -> None:
    """Resume a paused handler: its runs start."""
    check_name(name)
    with Caller(url, key) as caller:
        if dry_run:
            if not (found := caller.call("GET", f"/v1/handlers/{name}"))["paused"]:
                raise BuswayError(f"the handler {name!r} is not paused")
            _plan_switch("resume", found, json_lines=json_lines)
            return
        _switch(caller, name, "resume", "is resumed", json_lines=json_lines)


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
            if dry_run:
                _plan_delete(caller, name, json_lines=json_lines)
                continue
            caller.call("DELETE", f"/v1/handlers/{name}")
            if json_lines:
                print_json([{"deleted": name}])
            else:
                Printer().line(f"handler {name} is deleted")
    if not found:
        note("no handler is missing")


def _plan_delete(caller: Caller, name: str, *, json_lines: bool) -> None:
    found = caller.call("GET", f"/v1/handlers/{name}")
    if found["source"] == "code" and not found["missing"]:
        raise BuswayError(f"code declares the handler {name!r}: remove its decorator, or pause it")
    waiting = _waiting(found)
    would = f"delete the handler {name} and cancel its waiting runs: {waiting}"
    print_plan(would, json_lines=json_lines, handler=name, waiting_runs=waiting)


def _plan_switch(action: str, handler: dict[str, Any], *, json_lines: bool) -> None:
    name, waiting = handler["name"], _waiting(handler)
    would = f"{action} the handler {name}, which has waiting runs: {waiting}"
    print_plan(would, json_lines=json_lines, handler=name, waiting_runs=waiting)


def _waiting(handler: dict[str, Any]) -> int:
    runs: dict[str, int] = handler["stats"]["runs"]
    return runs.get("available", 0) + runs.get("retryable", 0)


def _switch(caller: Caller, name: str, action: str, done: str, *, json_lines: bool) -> None:
    found = caller.call("POST", f"/v1/handlers/{name}/{action}")
    if json_lines:
        print_json([found])
    else:
        Printer().line(f"handler {name} {done}")

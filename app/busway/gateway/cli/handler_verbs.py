"""`busway handlers test`, `revisions`, `secret` and `targets`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from busway.gateway.cli.call import Caller, check_name, dry
from busway.gateway.cli.event import NAMES, encode, extensions, payload
from busway.gateway.cli.objects import Name, said, shown_fields
from busway.gateway.cli.options import URL, Data, DryRun, Json, Key, Pairs, Url
from busway.gateway.cli.output import Printer, block, local, note, print_fields, print_json, print_table
from busway.gateway.cli.results import described


def try_event(
    name: Name,
    pairs: Pairs = None,
    data: Data = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File with the payload as JSON; - is standard input.")
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type", help="Type of the event. Default: the handler's first pattern, with x for stars."
        ),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute", "-a", help="Extension attribute, NAME=VALUE, such as priority=9; repeatable."
        ),
    ] = None,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """Run a handler once at the gateway with an event, and show what it did. Nothing is stored.

    Its code has its real side effects. The exit status is 1 if it fails.
    """
    path, found = f"/v1/handlers/{check_name(name)}", payload(data, file, pairs or ())
    event: dict[str, Any] = extensions(attribute) | ({} if found is None else {"data": found})
    with Caller(url, key) as caller:
        if type_ is None:
            pattern = caller.call("GET", path)["events"][0]
            type_ = pattern.replace("**", "x").replace("*", "x")
        body = encode({"event": {**event, "type": type_}})
        answer = caller.call("POST", f"{path}/test", body=body, names={**NAMES, "type": "--type"})
    if json_lines:
        print_json([answer])
    else:
        _print_trial(answer, type_)
    if answer["outcome"] != "succeeded":
        raise typer.Exit(1)


def _print_trial(answer: dict[str, Any], type_: str) -> None:
    printer = Printer()
    for each in answer["partials"]:
        printer.pieces(["partial", _value(each)], ["", ""])
    for each in answer["published"]:
        printer.pieces(["published", each["type"], _value(each)], ["", "bold", ""])
    error = answer["error"]
    end = described(error["type"], error["message"]) if error else _value(answer)
    printer.pieces([answer["outcome"], end], ["", ""])
    traceback = (error or {}).get("traceback")
    for title, text in (("traceback", traceback), ("output and log", answer["log"])):
        if text:
            printer.line(f"  {title}", style="dim")
            for line in block(text).split("\n"):
                printer.line(f"    {line}")
    left_out = answer["partials_left_out"] + answer["published_left_out"]
    if left_out:
        note(f"partial results and events that are not shown: {left_out}")
    if not answer["matches"]:
        note(f"events of type {type_} do not start this handler: its patterns or its filter do not match")


def _value(of: dict[str, Any]) -> str:
    if "data_base64" in of:
        return f"base64 {of['data_base64']}"
    return json.dumps(of.get("data"), ensure_ascii=False)


def revisions(
    name: Name,
    revision: Annotated[
        int | None, typer.Argument(metavar="[REVISION]", help="Show this one with its source.", min=1)
    ] = None,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """List the revisions of a handler, newest first, or show one with its source."""
    path = f"/v1/handlers/{check_name(name)}/revisions"
    with Caller(url, key) as caller:
        if revision is None:
            items = list(caller.items(path, {}))
        else:
            items = [caller.call("GET", f"{path}/{revision}")]
    if json_lines:
        print_json(items)
    elif revision is None:
        rows = [
            (each["revision"], local(each["created_at"]), " ".join(each["events"]), each["target"])
            for each in items
        ]
        print_table(("REVISION", "CREATED", "EVENTS", "TARGET"), rows)
    else:
        (found,) = items
        source, missing = found.pop("source"), found.pop("source_missing")
        printer = Printer()
        printer.line(f"handler {name}", style="bold")
        print_fields(shown_fields(found), printer)
        printer.line("")
        for line in block(source).split("\n") if source else [f"no source: {missing}"]:
            printer.line(line)


def secret(
    name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL, key: Key = None
) -> None:
    """Make a new secret for a handler whose target is a URL. For 24 hours the old one signs, too."""
    with Caller(url, key) as caller:
        found = caller.call("POST", f"/v1/handlers/{check_name(name)}/secret", params=dry(dry_run))
    if dry_run or json_lines:
        said("handler", name, "make a new secret for", found, dry_run=dry_run, json_lines=json_lines)
        return
    Printer().line(found["secret"])
    note(f"the handler {name} has this secret, which is shown only once. The old one signs for 24 hours, too")


def targets(json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """List the functions that handlers can run, and files that could not be loaded."""
    with Caller(url, key) as caller:
        items = list(caller.items("/v1/targets", {}))
    if json_lines:
        print_json(items)
    elif items:
        rows = [
            (each["file"], "not loaded", (each["error"].strip().splitlines() or [""])[-1])
            if "error" in each
            else (each["target"], each["kind"], each["doc"])
            for each in items
        ]
        print_table(("TARGET", "KIND", "ABOUT"), rows)
    else:
        note("no targets: put a Python file into the handlers folder of the gateway")

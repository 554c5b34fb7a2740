"""`busway runs`, `run`, `retry` and `cancel`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import typer

from busway.domain.run import UNFINISHED, RunState
from busway.gateway.cli.call import Caller, dry
from busway.gateway.cli.event import encode
from busway.gateway.cli.objects import verbs
from busway.gateway.cli.options import URL, DryRun, Handler, Json, Key, Url, run_ids
from busway.gateway.cli.output import (
    Printer,
    age,
    block,
    counts,
    duration,
    flat,
    local,
    note,
    print_error,
    print_fields,
    print_json,
    print_plan,
    print_table,
    seconds_until,
    size,
)
from busway.gateway.errors import BadSettings, BuswayError

Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID...", help="Numbers of runs.", min=1, autocompletion=run_ids),
]


def runs(
    state: Annotated[
        list[RunState] | None,
        typer.Option("--state", "-s", help="Only runs in this state; repeatable.", case_sensitive=False),
    ] = None,
    handler: Handler = None,
    event: Annotated[
        int | None, typer.Option("--event", "-e", metavar="SEQ", help="Only runs of this event.", min=1)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number of runs.", min=1)] = 20,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """List runs, dead ones first, then the newest.

    A run is one event processed by one handler. `busway run ID` shows one with its attempts.
    """
    wanted = {"handler": handler, "event": event}
    filters = {name: value for name, value in wanted.items() if value is not None}
    found: dict[int, Any] = {}
    with Caller(url, key) as caller:
        for each in state or (RunState.DEAD, None):
            only = {} if each is None else {"state": str(each)}
            for run in caller.items("/v1/runs", {**filters, **only}, limit):
                if len(found) < limit:
                    found.setdefault(run["id"], run)
    if json_lines:
        print_json(found.values())
    elif not found:
        note("no runs")
    else:
        print_table(("RUN", "STATE", "HANDLER", "EVENT", "ATTEMPT", "AGE", "NOTE"), map(_row, found.values()))


def _row(run: dict[str, Any]) -> tuple[object, ...]:
    notes = [_next(run), f"{run['error']['type']}: {run['error']['message']}" if run["error"] else ""]
    return (
        run["id"],
        run["state"],
        run["handler"],
        run["event"],
        f"{run['attempt']}/{run['max_attempts']}",
        age(run["created_at"]),
        "; ".join(filter(None, notes)),
    )


def _next(run: dict[str, Any]) -> str:
    """Return when the next attempt of a waiting run starts, if that is known."""
    wait = seconds_until(run["available_at"])
    if run["state"] not in {"available", "retryable"} or wait <= 0:
        return ""
    return f"{'retries' if run['state'] == 'retryable' else 'starts'} in {duration(math.ceil(wait))}"


def run(
    id_: Annotated[
        int,
        typer.Argument(
            metavar="ID", help="Number of the run, from `busway runs`.", min=1, autocompletion=run_ids
        ),
    ],
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """Show one run with its attempts.

    Each attempt has its outcome, error and traceback, and what it printed and logged.
    """
    with Caller(url, key) as caller:
        found = caller.call("GET", f"/v1/runs/{id_}")
        if json_lines:
            print_json([found])
            return
        event = caller.send("GET", f"/v1/events/{found['event']}")
    type_ = f" {event.json()['type']}" if event.is_success else ""
    printer = Printer()
    printer.pieces([f"run {found['id']}", found["state"]], ["bold", ""])
    print_fields(
        [
            ("handler", found["handler"]),
            ("event", f"{found['event']}{type_}"),
            ("attempts", f"{found['attempt']} of {found['max_attempts']}"),
            ("next", _next(found)),
            ("created", f"{local(found['created_at'])} ({age(found['created_at'])} ago)"),
            ("finished", local(found["finished_at"]) if found["finished_at"] else ""),
            ("replay", found["replay"] or ""),
            ("error", _error(found)),
        ],
        printer,
    )
    for attempt in found["attempts"]:
        _print_attempt(attempt, printer)
    if found["state"] in {"dead", "cancelled"}:
        note(f"\nrun it again: busway retry {id_}")


def _print_attempt(attempt: dict[str, Any], printer: Printer) -> None:
    printer.line("")
    printer.pieces([f"attempt {attempt['attempt']}", attempt["outcome"] or "running"], ["bold", ""])
    print_fields(
        [
            ("started", local(attempt["started_at"])),
            ("took", _seconds(attempt["wall_time"])),
            ("CPU time", _seconds(attempt["cpu_time"])),
            ("memory", size(attempt["peak_memory"]) if attempt["peak_memory"] else ""),
            ("revision", attempt["revision"]),
            ("worker", " ".join(str(each) for each in (attempt["pool"], attempt["worker"]) if each)),
            ("node", attempt["node"] or ""),
            ("error", _error(attempt)),
        ],
        printer,
    )
    traceback = (attempt["error"] or {}).get("traceback")
    for title, text in (("traceback", traceback), ("output and log", attempt["log"])):
        if text:
            printer.line(f"  {title}", style="dim")
            for line in block(text).split("\n"):
                printer.line(f"    {line}")


def _error(of: dict[str, Any]) -> str:
    return f"{of['error']['type']}: {of['error']['message']}" if of["error"] else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f} s"


def retry(
    ids: Ids = None,
    dead: Annotated[bool, typer.Option("--dead", help="Retry all dead runs.")] = False,
    handler: Handler = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """Start dead or cancelled runs again.

    A run gets as many more attempts as its handler's max_attempts. A retryable run starts at once.
    """
    if bool(ids) == dead:
        raise BadSettings("give the IDs of runs, or --dead for all dead runs")
    if handler and not dead:
        raise BadSettings("--handler needs --dead: it selects dead runs")
    with Caller(url, key) as caller:
        if ids:
            plan = _plan_retry if dry_run else None
            _each(caller, ids, "retry", "is available again", plan, json_lines=json_lines)
            return
        body = {"state": "dead", **({"handler": handler} if handler else {})}
        answer = caller.call("POST", "/v1/runs/retry", params=dry(dry_run), body=encode(body))
        if dry_run:
            _plan_retries(caller, handler, json_lines=json_lines)
            return
    if json_lines:
        print_json([answer])
    else:
        Printer().line(f"dead runs that are available again: {answer['retried']}")


def cancel(
    ids: Ids = None,
    event: Annotated[
        int | None,
        typer.Option(
            "--event", "-e", metavar="SEQ", min=1,
            help="Cancel the unfinished runs of this event, and of all events that its handlers published.",
        ),
    ] = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:  # fmt: skip
    """Cancel unfinished runs.

    Waiting runs do not start. Running attempts are stopped.
    """
    if bool(ids) == bool(event):
        raise BadSettings("give the IDs of runs, or --event for all runs of an event")
    with Caller(url, key) as caller:
        if ids:
            plan = _plan_cancel if dry_run else None
            _each(caller, ids, "cancel", "is cancelled", plan, json_lines=json_lines)
            return
        answer = caller.call("POST", f"/v1/events/{event}/cancel", params=dry(dry_run))
        if dry_run:
            _plan_cancel_event(caller, int(event or 0), json_lines=json_lines)
            return
    if json_lines:
        print_json([answer])
        return
    states: dict[str, int] = {}
    for each in answer["runs"]:
        states[each["state"]] = states.get(each["state"], 0) + 1
    Printer().line(f"event {event} is cancelled, its runs: {counts(states) or 'none'}")


Plan = Callable[[str], str]
"""Returns what would be done with a run that is described so."""


def _plan_retry(run: str) -> str:
    return f"make {run} available again"


def _plan_cancel(run: str) -> str:
    return f"cancel {run}"


def _described(caller: Caller, id_: int) -> str:
    """Return which run it is, with what the key may read."""
    answer = caller.send("GET", f"/v1/runs/{id_}")
    if not answer.is_success:
        return f"run {id_}"
    run = answer.json()
    return f"run {id_} of {flat(run['handler'])}, which is {run['state']},"


def _plan_retries(caller: Caller, handler: str | None, *, json_lines: bool) -> None:
    selected = {"state": "dead", **({"handler": handler} if handler else {})}
    if any(caller.send("GET", path).status_code == 403 for path in ("/v1/handlers", "/v1/runs")):
        would = "make dead runs available again; the key may not read how many"
        print_plan(would, json_lines=json_lines, runs=None)
        return
    live = {item["name"] for item in caller.items("/v1/handlers", {})}
    count = sum(run["handler"] in live for run in caller.items("/v1/runs", selected))
    would = f"make dead runs available again: {count}"
    print_plan(would, json_lines=json_lines, runs=count)


def _plan_cancel_event(caller: Caller, event: int, *, json_lines: bool) -> None:
    if caller.send("GET", f"/v1/events/{event}").status_code == 403:
        would = f"cancel the unfinished runs that event {event} caused; the key may not read how many"
        print_plan(would, json_lines=json_lines, event=event, runs=None)
        return
    states: dict[str, int] = {}
    left = [caller.call("GET", f"/v1/events/{event}/tree")]
    while left:
        tree = left.pop()
        left += tree["events"]
        for each in tree["runs"]:
            if each["state"] in UNFINISHED:
                states[each["state"]] = states.get(each["state"], 0) + 1
    would = f"cancel the unfinished runs that event {event} caused: {counts(states) or 'none'}"
    print_plan(would, json_lines=json_lines, event=event, runs=sum(states.values()))


def _each(
    caller: Caller, ids: list[int], action: str, done: str, plan: Plan | None, *, json_lines: bool
) -> None:
    """Do something with each run, also if it fails for some. `plan`: only say what would be done.

    Raises:
        Exit: it failed for one or more. The status is 1.
    """
    failed = False
    for id_ in dict.fromkeys(ids):
        try:
            found = caller.call("POST", f"/v1/runs/{id_}/{action}", params=dry(plan is not None))
            if plan is not None:
                would = plan(_described(caller, id_)).removesuffix(",")
                print_plan(would, json_lines=json_lines, run=id_)
                continue
        except BuswayError as problem:
            failed = True
            print_error(problem.detail, 1, json_lines=json_lines)
            continue
        if json_lines:
            print_json([found])
        else:
            Printer().line(f"run {id_} of {flat(found['handler'])} {done}")
    if failed:
        raise typer.Exit(1)


app = verbs("Runs: an event that a handler processes.")
for _name, _verb in (("list", runs), ("show", run), ("retry", retry), ("cancel", cancel)):
    app.command(_name)(_verb)

"""`busway replay`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from busway.gateway.cli.options import URL, DryRun, Json, Key, Url, event_types, handler_names, replay_ids
from busway.gateway.cli.output import Printer, counts, flat, note, print_json, print_plan
from busway.gateway.errors import BadSettings, BuswayError

LOOK = 0.25  # seconds between requests for the progress
NAMES = {"types": "--types", "after": "--after", "before": "--before"}


def replay(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the handler.", autocompletion=handler_names),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--types",
            "-t",
            metavar="PATTERN",
            help="Only events whose type matches; repeatable. Default: the handler's own patterns.",
            autocompletion=event_types,
        ),
    ] = None,
    after: Annotated[
        int | None, typer.Option(metavar="SEQ", help="Only events with a number above it.", min=0)
    ] = None,
    before: Annotated[
        int | None, typer.Option(metavar="SEQ", help="Only events with a number below it.", min=0)
    ] = None,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="Only try: publish nothing, and show how results differ from those on record."
        ),
    ] = False,
    follow: Annotated[
        int | None,
        typer.Option(
            metavar="ID", help="Follow a replay that was started before.", min=1, autocompletion=replay_ids
        ),
    ] = None,
    cancel: Annotated[
        int | None,
        typer.Option(
            metavar="ID", help="Cancel a replay and its unfinished runs.", min=1, autocompletion=replay_ids
        ),
    ] = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """Run stored events again with the current code of a handler, and follow the progress.

    Ctrl-C leaves the replay running. With --shadow, and with --follow of such a replay, it prints how the
    results differ from those on record. Its code has its real side effects.
    """
    started = [types, after, before, shadow or None]
    if sum(given is not None for given in (name, follow, cancel)) != 1:
        raise BadSettings("give the NAME of a handler, or --follow ID, or --cancel ID")
    if name is None and any(given is not None for given in started):
        raise BadSettings("--types, --after, --before and --shadow are for a new replay: give a NAME")
    if dry_run and follow is not None:
        raise BadSettings("--follow changes nothing: leave out --dry-run")
    from busway.gateway.cli.call import Caller  # noqa: PLC0415 - the help starts faster

    with Caller(url, key) as caller:
        if dry_run:
            if name is None:
                _plan_cancel(caller, int(cancel or 0), json_lines=json_lines)
            else:
                wanted = _fields(types=types, after=after, before=before, shadow=shadow)
                _plan(caller, name, wanted, json_lines=json_lines)
            return
        if cancel is not None:
            found = caller.call("POST", f"/v1/replays/{cancel}/cancel")
            _print_end(found, json_lines=json_lines)
            return
        if name is None:
            found = caller.call("GET", f"/v1/replays/{follow}")
        else:
            found = _start(caller, name, _fields(types=types, after=after, before=before, shadow=shadow))
            note(f"replay {found['id']} of {found['handler']}: events {_range(found)}")
        try:
            found = _follow(caller, found)
            compared = _compare(caller, found, json_lines=json_lines) if found["shadow"] else {}
        except KeyboardInterrupt:
            note(
                f"replay {found['id']} continues: `busway replay --follow {found['id']}` follows it, "
                f"`busway replay --cancel {found['id']}` cancels it"
            )
            raise
        _print_end({**found, **compared}, json_lines=json_lines)
    if found["state"] == "cancelled":
        raise BuswayError(f"replay {found['id']} was cancelled")


def _fields(**given: Any) -> dict[str, Any]:
    return {field: value for field, value in given.items() if value not in (None, False, [])}


def _plan(caller: Any, name: str, wanted: dict[str, Any], *, json_lines: bool) -> None:
    """Print what a replay would do.

    Raises:
        BuswayError: the gateway would refuse it.
    """
    from busway.gateway.cli.call import dry  # noqa: PLC0415 - as above

    _start(caller, name, wanted, dry(run=True))
    answer = caller.send("GET", f"/v1/handlers/{name}")
    if not answer.is_success or caller.send("GET", "/v1/events", params={"limit": 1}).status_code == 403:
        would = f"start a replay of {name}; the key may not read of which events"
        print_plan(would, json_lines=json_lines, handler=name, shadow="shadow" in wanted)
        return
    handler = answer.json()
    after, before, types = (
        wanted.get("after", 0),
        wanted.get("before"),
        wanted.get("types") or handler["events"],
    )
    newest = next((event["seq"] for event in caller.items("/v1/events", {}, 1)), 0)
    before = newest + 1 if before is None else min(before, newest + 1)
    after = min(after, before - 1)
    kind = "a shadow replay" if wanted.get("shadow") else "a replay"
    found = {"after": after, "before": before, "types": types}
    most = before - 1 - after
    would = (
        f"start {kind} of {name} with revision {handler['revision']}: events {_range(found)}, at most {most}"
    )
    print_plan(would, json_lines=json_lines, handler=name, shadow="shadow" in wanted, **found, most=most)


def _plan_cancel(caller: Any, id_: int, *, json_lines: bool) -> None:
    from busway.gateway.cli.call import dry  # noqa: PLC0415 - the help starts faster

    caller.call("POST", f"/v1/replays/{id_}/cancel", params=dry(run=True))
    found = caller.call("GET", f"/v1/replays/{id_}")
    left = found["created"] - _ended(found)
    would = f"cancel replay {id_} of {found['handler']} and its unfinished runs: {left}"
    print_plan(would, json_lines=json_lines, replay=id_, runs=left)


def _start(caller: Any, name: str, wanted: dict[str, Any], params: Any = None) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - the help starts faster

    from busway.gateway.cli.call import check_name  # noqa: PLC0415 - as above

    path = f"/v1/handlers/{check_name(name)}/replay"
    body = msgspec.json.encode(wanted)
    found: dict[str, Any] = caller.call("POST", path, params=params, body=body, names=NAMES)
    return found


def _range(found: dict[str, Any]) -> str:
    return f"{found['after'] + 1} to {found['before'] - 1}, {' '.join(found['types'])}"


def _follow(caller: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Show the progress until the replay has ended, also over restarts of the gateway. Return it then."""
    from busway.gateway.cli.progress import progress  # noqa: PLC0415 - as above

    away = False
    with progress("replaying", "runs") as show:
        while True:
            show(_share(found), 1, _ended(found), f"{_ended(found)} of {found['created']} runs")
            if found["finished_at"] is not None:
                return found
            time.sleep(LOOK)
            answer = _ask(caller, found["id"])
            if answer is None:
                if not away:
                    note("the gateway is away: waiting for it")
                away = True
                continue
            found, away = answer, False


def _ask(caller: Any, id_: int) -> dict[str, Any] | None:
    """Return a replay, None if no gateway answers or it is starting."""
    try:
        answer = caller.send("GET", f"/v1/replays/{id_}")
    except BuswayError:
        return None
    if answer.status_code == 503:
        return None
    found: dict[str, Any] = answer.json() if answer.is_success else caller.call("GET", f"/v1/replays/{id_}")
    return found


def _share(found: dict[str, Any]) -> float:
    """Return how much is done: of the events that were examined, those whose runs have ended."""
    all_ = max(found["before"] - 1 - found["after"], 1)
    examined: float = (found["position"] - found["after"]) / all_
    return examined * _ended(found) / found["created"] if found["created"] else examined


def _ended(found: dict[str, Any]) -> int:
    runs: dict[str, int] = found["runs"]
    return sum(runs.get(state, 0) for state in ("succeeded", "dead", "cancelled"))


def _compare(caller: Any, found: dict[str, Any], *, json_lines: bool) -> dict[str, Any]:
    """Print how results differ from those on record. Return the counts."""
    from busway.gateway.cli.comparing import DIFFERS, FAILS, SUCCEEDS, Comparison, lines  # noqa: PLC0415 - as above

    comparison = Comparison()
    for pair in caller.items(f"/v1/replays/{found['id']}/results", {}):
        verdict = comparison.add(pair)
        if json_lines and verdict in {DIFFERS, FAILS, SUCCEEDS}:
            run, recorded = pair["run"]["id"], pair["recorded_run"]["id"]
            print_json(
                [
                    {
                        "event": pair["event"],
                        "verdict": verdict,
                        "run": run,
                        "recorded_run": recorded,
                        "differences": lines(pair),
                    }
                ]
            )
    if not json_lines:
        printer = Printer()
        for event, verdict, texts in comparison.shown:
            printer.pieces([f"event {event}", verdict], ["bold", "red" if verdict == FAILS else "yellow"])
            for text in texts:
                printer.line(f"  {flat(text)}")
        if comparison.left_out:
            printer.line(f"{comparison.left_out} more events differ: --json prints them")
        printer.line(f"compared with the results on record: {comparison.summary()}")
    return {"comparison": dict(comparison.counts)}


def _print_end(found: dict[str, Any], *, json_lines: bool) -> None:
    if json_lines:
        print_json([found])
        return
    runs = counts(found["runs"]) or "no event matched"
    Printer().line(f"replay {found['id']} is {found['state']}: {runs}")

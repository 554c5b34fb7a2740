"""`busway doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from busway.gateway.cli.options import URL, Json, Key, Url, need_server, setting
from busway.gateway.cli.output import Printer, print_json
from busway.gateway.cli.progress import waiting
from busway.gateway.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from busway.gateway.cli.diagnosis import Check

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    handlers: Annotated[Path | None, setting("Folder with handler code, as for serve.")] = None,
    app_dir: Annotated[Path | None, setting("Root of your own project, as for serve.")] = None,
    database_url: Annotated[str | None, setting("The database, as for serve.")] = None,
    broker_url: Annotated[str | None, setting("The NATS server, as for serve.")] = None,
    host: Annotated[str | None, setting("Address to listen on, as for serve.")] = None,
    port: Annotated[int | None, setting("Port to listen on, as for serve.")] = None,
    url: Url = URL,
    key: Key = None,
    json_lines: Json = False,
) -> None:
    """Check whether a gateway can run well here, and say what to do.

    It reads the settings as `busway serve` does, imports the handlers folder, looks at the database, the
    speed of its disk, limits and clocks, and asks the gateway at --url if one runs. It changes nothing.
    Exit status: 1 if there is a problem, 0 if there are only warnings.
    """
    options = {
        "handlers": handlers, "app_dir": app_dir, "database_url": database_url, "broker_url": broker_url,
        "host": host, "port": port,
    }  # fmt: skip
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - the help needs none of these
    from busway.gateway.cli.diagnosis import PROBLEM, Check, checks  # noqa: PLC0415

    try:
        found: Iterable[Check] = checks(settings.load(**options), url, key)
    except BadSettings as problem:
        found = [Check("settings", PROBLEM, problem.detail)]
    raise typer.Exit(1 if _print(found, json_lines=json_lines) else 0)


def _print(found: Iterable[Check], *, json_lines: bool) -> bool:
    """Print checks as they are done, and return whether one found a problem."""
    printer, failed = Printer(), False
    left = iter(found)
    while True:
        with waiting("checking", quiet=json_lines):
            check = next(left, None)
        if check is None:
            return failed
        failed = failed or check.state == "problem"
        if json_lines:
            print_json([{"check": check.name, **check._asdict()} | {"advice": check.advice or None}])
            continue
        printer.pieces([f"{check.state:<7}", f"{check.name}: {check.found}"], [_STYLES[check.state], ""])
        if check.advice:
            printer.line(f"         {check.advice}", "dim")

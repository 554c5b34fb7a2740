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
    from collections.abc import Iterable, Iterator

    from busway.gateway.cli.diagnosis import Check

_SETTINGS = "correct it: `busway serve --help` lists the settings"
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
        found: Iterable[tuple[str, Iterator[Check]]] = checks(settings.load(**options), url, key)
    except BadSettings as problem:
        found = [("the settings", iter([Check("settings", PROBLEM, problem.detail, _SETTINGS)]))]
    raise typer.Exit(1 if _print(found, json_lines=json_lines) else 0)


def _print(found: Iterable[tuple[str, Iterator[Check]]], *, json_lines: bool) -> bool:
    """Print checks as they are done, and return whether one found a problem."""
    printer, failed = Printer(), False
    for check in _made(found, quiet=json_lines):
        failed = failed or check.state == "problem"
        if json_lines:
            print_json([{"check": check.name, **check._asdict()} | {"advice": check.advice or None}])
            continue
        printer.pieces([f"{check.state:<7}", f"{check.name}: {check.found}"], [_STYLES[check.state], ""])
        if check.advice:
            printer.line(f"         {check.advice}", "dim")
    return failed


def _made(found: Iterable[tuple[str, Iterator[Check]]], *, quiet: bool) -> Iterator[Check]:
    """Yield each check when it is made. Meanwhile show what is checked if that takes long."""
    for what, checks in found:
        while True:
            with waiting(f"checking {what}", quiet=quiet):
                check = next(checks, None)
            if check is None:
                break
            yield check

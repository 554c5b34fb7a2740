"""`busway init`: the first handler and its test."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.options import SERVER, DryRun, Json
from busway.gateway.cli.output import print_json, print_plan
from busway.gateway.errors import BuswayError

_HANDLER = '''"""A first handler: Busway calls the function for each event of the type `user.created`."""

from busway import Context, Event, handler


@handler("user.created", timeout=30, max_attempts=5)
def welcome(event: Event, ctx: Context) -> dict[str, str]:
    name = event.data["name"]
    ctx.log.info("writing to %s", name)  # stays with the attempt: `busway run 1` shows it
    ctx.publish("mail.queued", {"to": name})  # stored only if this attempt succeeds
    return {"greeting": f"Hello, {name}!"}
'''
_TEST = '''"""The test of the first handler. It needs pytest and no gateway."""

from busway.testing import context, event, run
from welcome import welcome


def test_a_new_user_is_greeted() -> None:
    ctx = context()
    assert run(welcome, event("user.created", {"name": "Ada"}), ctx) == {"greeting": "Hello, Ada!"}
    assert [published.type for published in ctx.published] == ["mail.queued"]
'''
FILES = {"welcome.py": _HANDLER, "test_welcome.py": _TEST}


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The new handlers folder.")] = Path(
        "handlers"
    ),
    dry_run: DryRun = False,
    json_lines: Json = False,
) -> None:
    """Write a handlers folder with one handler and its test, and print the next commands.

    It overwrites nothing.
    """
    files = [str(folder / name) for name in FILES]
    if dry_run:
        check(folder)
        print_plan(f"write {' and '.join(files)}", json_lines=json_lines, files=files)
        return
    write(folder)
    if json_lines:
        print_json({"file": file} for file in files)
        return
    typer.echo(report(folder, with_server=all(find_spec(name) for name in SERVER)))


def write(folder: Path) -> None:
    """Write the two files into the folder, which is created if it does not exist.

    Raises:
        BuswayError: the folder has Python files already, or it cannot be written. Nothing was changed.
    """
    check(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as problem:
        raise BuswayError(f"{str(folder)!r} cannot be written: {problem.strerror}") from None


def check(folder: Path) -> None:
    """Refuse a folder that has Python files.

    Raises:
        BuswayError: it has, or it is not a folder.
    """
    found = sorted(path.name for path in folder.glob("*.py"))
    if found:
        raise BuswayError(
            f"{str(folder)!r} has Python files already, such as {found[0]}: nothing was written. "
            "Name a new folder: busway init DIR"
        )
    if folder.exists() and not folder.is_dir():
        raise BuswayError(f"{str(folder)!r} cannot be written: it is not a folder")


def report(folder: Path, *, with_server: bool) -> str:
    """Return what `busway init` prints: the files, and the next three commands.

    `with_server`: the packages of the gateway are installed.
    """
    shown = str(folder)
    handler, test = (shlex.quote(str(folder / name)) for name in FILES)
    serve = "busway serve" if shown == "handlers" else f"busway serve --handlers {shlex.quote(shown)}"
    commands = {
        serve: "start the gateway",
        "busway tail": "in a second terminal: print results as they come",
        "busway publish user.created name=Ada": "in a third terminal: publish an event",
    }
    first, second = max(map(len, (handler, test))), max(map(len, commands))
    lines = [
        f"wrote {handler:<{first}}  a handler for events of the type user.created",
        f"wrote {test:<{first}}  its test: pytest {shlex.quote(shown)}",
        "",
        *([] if with_server else ["The gateway is not installed here: pip install 'busway[server]'", ""]),
        "Next:",
        "",
        *(f"  {command:<{second}}  # {what}" for command, what in commands.items()),
    ]
    return "\n".join(lines)

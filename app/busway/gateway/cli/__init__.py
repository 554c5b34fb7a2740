"""The busway command. Each command is a function in a module, which is imported when it is used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from busway.gateway.errors import BadSettings, BuswayError
from busway.version import __version__

_ABOUT = """An event gateway: stores events, runs Python handlers on them, and sends results to subscribers.

Start a gateway with `busway serve`, publish with `busway publish`, follow results with `busway tail`.
"""
_COMMANDS = {
    "init": "init.init",
    "serve": "serve.serve",
    "publish": "publish.app",
    "tail": "tail.tail",
    "invoke": "invoke.invoke",
    "runs": "runs.app",
    "run": "runs.run",
    "retry": "runs.retry",
    "cancel": "runs.cancel",
    "replay": "replay.replay",
    "replays": "replays.app",
    "handlers": "handlers.app",
    "pause": "handlers.pause",
    "resume": "handlers.resume",
    "delete": "handlers.delete",
    "schedules": "schedules.app",
    "sources": "sources.app",
    "subscriptions": "subscriptions.app",
    "status": "status.status",
    "nodes": "nodes.nodes",
    "doctor": "doctor.doctor",
    "keys": "keys.app",
    "audit": "audit.audit",
    "migrate": "database.migrate",
    "backup": "backup.backup",
    "export": "moving.export",
    "import": "moving.load",
    "openapi": "documents.openapi",
}
"""The name of each command, and its module and function here. A Typer is a group of commands."""


class _Commands(TyperGroup):
    """Builds only the command that is used, so that `serve` starts faster."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        names: dict[str, Any] = dict.fromkeys(_COMMANDS)
        self.commands = names  # Typer suggests one of them for a misspelled command

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - of the base class
        """Return the command of this name, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(".")
        found = getattr(import_module(f"{__name__}.{module}"), name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False, rich_markup_mode=None)
            found.command()(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="busway",
    cls=_Commands,
    help=_ABOUT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command. An error prints one line, with `--json` an object, and sets the exit status."""
    words = sys.argv[1:]
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    try:
        sys.exit(app(standalone_mode=not as_json))
    except BuswayError as problem:
        _fail(problem.detail, 2 if isinstance(problem, BadSettings) else 1, as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # wrong use, which has no public class in every Typer
            raise
        _fail(problem.format_message(), 2, as_json=as_json)


def _fail(detail: str, status: int, *, as_json: bool) -> NoReturn:
    from busway.gateway.cli.output import print_error  # noqa: PLC0415 - the help starts faster

    print_error(detail, status, json_lines=as_json)
    sys.exit(status)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"busway {__version__}")
        raise typer.Exit


@app.callback(help=_ABOUT)
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself. Its help text is `_ABOUT`."""

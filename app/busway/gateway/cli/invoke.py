"""`busway invoke`."""

from __future__ import annotations

import ast
import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.event import extensions, payload
from busway.gateway.cli.options import Json, setting
from busway.gateway.errors import BadSettings

_COMPLETED = 100  # files that are read for shell completion


def declared_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of handlers that files of the folder declare, for shell completion.

    The files are read and not imported, which could take long and print.
    """
    folder = ctx.params.get("handlers") or Path(_variable("handlers") or "handlers")
    found: set[str] = set()
    for file in sorted(Path(folder).glob("*.py"))[:_COMPLETED]:
        with suppress(OSError, SyntaxError, ValueError):
            found.update(filter(None, map(_declared, ast.walk(ast.parse(file.read_bytes())))))
    return sorted(name for name in found if name.startswith(incomplete))


def _declared(node: ast.AST) -> str | None:
    """Return the name of the handler that a function is."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else None
        if (
            isinstance(decorator, ast.Call)
            and getattr(called, "attr", getattr(called, "id", "")) == "handler"
        ):
            named = [each.value for each in decorator.keywords if each.arg == "name"]
            constant = named[0].value if named and isinstance(named[0], ast.Constant) else node.name
            return str(constant)
    return None


def invoke(
    handler: Annotated[
        str,
        typer.Argument(
            help="Name of the handler, or a target such as orders:price.", autocompletion=declared_names
        ),
    ],
    data: Annotated[str | None, typer.Option("--data", "-d", help="Payload of the event as JSON.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="File with the payload as JSON; - reads standard input.")
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type", help="Type of the event. Default: the handler's first pattern, with x for stars."
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Source of the event, such as /shop.")] = None,
    subject: Annotated[str | None, typer.Option(help="Subject of the event, such as order-17.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Id of the event.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute", "-a", help="Extension attribute, NAME=VALUE, such as priority=9; repeatable."
        ),
    ] = None,
    attempt: Annotated[int, typer.Option(min=1, help="Number of the attempt, `ctx.attempt`.")] = 1,
    debug: Annotated[
        bool, typer.Option("--pdb", help="Start the debugger where an exception was raised.")
    ] = False,
    handlers: Annotated[
        Path | None, setting("Folder with handler code. [default: BUSWAY_HANDLERS, else handlers]")
    ] = None,
    app_dir: Annotated[
        Path | None, setting("Root of your own project. [default: BUSWAY_APP_DIR, else current directory]")
    ] = None,
    secrets_file: Annotated[
        Path | None,
        setting("File or folder with secrets, as for serve. [default: BUSWAY_SECRETS_FILE, else none]"),
    ] = None,
    json_lines: Json = False,
) -> None:
    """Run one handler of the folder once, in this terminal, without a gateway.

    Nothing is stored. breakpoint() and input() work. The exit status is 1 if the handler fails.
    """
    folder = _folder(handlers, "handlers", "handlers", "`busway init` writes one, --handlers names another")
    root = _folder(app_dir, "app_dir", ".", "set --app-dir to the root of your project")
    secrets = _secrets(secrets_file)
    given = {"type": type_, "source": source, "subject": subject, "id": id_}
    attributes = {name: value for name, value in given.items() if value is not None} | extensions(attribute)
    found = payload(data, file)
    from busway.gateway.cli.invoking import run_once  # noqa: PLC0415 - the help needs no msgspec

    done = run_once(
        handler, attributes, found, folder=folder, app_dir=root, secrets=secrets,
        attempt=attempt, debug=debug, json_lines=json_lines,
    )  # fmt: skip
    raise typer.Exit(0 if done else 1)


def _folder(option: Path | None, name: str, default: str, advice: str) -> Path:
    folder = option or Path(_variable(name) or default)
    if not folder.is_dir():
        what = "handlers folder" if name == "handlers" else "folder"
        raise BadSettings(f"there is no {what} {str(folder)!r}: {advice}")
    return folder


def _secrets(option: Path | None) -> Path | None:
    """Return the file with secrets. Those of `.env` become variables, as `serve` has them."""
    text = _variable("secrets_file")
    path = option or (Path(text) if text else None)
    if path is not None and not path.exists():
        raise BadSettings(f"there is no file or folder {str(path)!r} with secrets: --secrets-file names it")
    if find_spec("dotenv") is not None:
        from busway.gateway import variables  # noqa: PLC0415 - it needs the gateway's packages

        os.environ.update(variables.handler_secrets())
    return path


def _variable(name: str) -> str | None:
    """Return a setting of the environment, or of `.env` where the gateway is installed."""
    if find_spec("dotenv") is None:
        return os.environ.get(f"BUSWAY_{name.upper()}")
    from busway.gateway import variables  # noqa: PLC0415 - it needs the gateway's packages

    return {each.name: each.value for each in variables.read()}.get(name)

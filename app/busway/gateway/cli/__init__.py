"""The busway command."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from busway.gateway.errors import BadSettings, BuswayError
from busway.version import __version__

app = typer.Typer(
    name="busway",
    help="An event gateway: durable events in, Python handlers in worker processes, live results out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="Make, list and revoke keys, in the database itself.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Url = Annotated[str, typer.Option(envvar="BUSWAY_URL", help="The gateway.")]
Key = Annotated[str | None, typer.Option(envvar="BUSWAY_KEY", help="A key, where the gateway needs one.")]
Database = Annotated[
    str | None,
    typer.Option(help="The database, sqlite:///FILE; else BUSWAY_DATABASE_URL, .env, sqlite:///busway.db."),
]
_SAID_OTHERWISE = {
    "type": "TYPE",
    "data": "--data",
    "source": "--source",
    "subject": "--subject",
    "id": "--id",
}
_URL = "http://127.0.0.1:8000"
_SERVER = (
    "alembic", "fastapi", "httptools", "prometheus_client", "pydantic", "pydantic_settings", "sqlalchemy",
    "starlette", "structlog", "uvicorn", "uvloop",
)  # fmt: skip


def main() -> None:
    """Run the command; an error is one line that says what to do, and an exit status."""
    try:
        app()
    except BuswayError as problem:
        typer.echo(f"busway: {problem.detail}", err=True)
        sys.exit(2 if isinstance(problem, BadSettings) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"busway {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """An event gateway: durable events in, Python handlers in worker processes, live results out."""


def _need_server() -> None:
    """Refuse a command that needs the gateway where only clients are installed.

    Raises:
        BadSettings: a package of the extra is missing.
    """
    missing = [name for name in _SERVER if find_spec(name) is None]
    if missing:
        raise BadSettings(
            f"this command needs the gateway's packages ({missing[0]} is not installed): "
            "pip install 'busway[server]'"
        )


def _setting(text: str) -> Any:
    return typer.Option(help=text.replace("[", "\\["), show_default=False)  # Rich takes brackets for markup


@app.command()
def serve(
    host: Annotated[str | None, _setting("Where it listens [127.0.0.1].")] = None,
    port: Annotated[int | None, _setting("Its port, 0 for any free one [8000].")] = None,
    pool: Annotated[
        str | None, _setting("process, thread or auto, for handlers that do not choose [process].")
    ] = None,
    workers: Annotated[int | None, _setting("Worker processes of the process pool [number of CPUs].")] = None,
    threads: Annotated[
        int | None, _setting("Threads of the thread pool; also async runs that one worker holds [32].")
    ] = None,
    handlers: Annotated[Path | None, _setting("Folder of Python files with handler code [handlers].")] = None,
    app_dir: Annotated[
        Path | None, _setting("The root of your own project, which handlers may import [.].")
    ] = None,
    database_url: Annotated[str | None, _setting("sqlite:///FILE [sqlite:///busway.db].")] = None,
    broker_url: Annotated[str | None, _setting("Not built yet.")] = None,
    role: Annotated[str | None, _setting("Only 'all' is built yet.")] = None,
    max_event_bytes: Annotated[int | None, _setting("The most bytes of one event [1048576].")] = None,
    max_body_bytes: Annotated[int | None, _setting("The most bytes of one request body [33554432].")] = None,
    max_result_bytes: Annotated[int | None, _setting("The most bytes of one result [16777216].")] = None,
    drain_timeout: Annotated[
        float | None, _setting("Seconds that running handlers get at shutdown [30].")
    ] = None,
    keep_alive: Annotated[
        int | None, _setting("Seconds that an idle HTTP connection stays open [75].")
    ] = None,
    retention: Annotated[
        str | None, _setting("How long finished events and results are kept: 90s, 30m, 12h, 7d, 4w [7d].")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Another origin whose pages may use this gateway, as https://app.example; repeatable.",
            show_default=False,
        ),
    ] = None,
    reload: Annotated[
        bool | None,
        typer.Option(
            "--reload",
            help="Load handler code again when it or your project changes.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the gateway. Every option may also be a variable BUSWAY_… or stand in .env."""
    options = dict(locals())
    gc.disable()  # what imports make stays; it is looked at again when all is up
    _need_server()
    from busway.gateway.store.group.process import launch  # noqa: PLC0415 - other commands start faster

    committer = launch()  # it imports its part while we import ours
    from busway.gateway import server, settings  # noqa: PLC0415

    raise typer.Exit(server.run(settings.load(**options), committer))


@app.command()
def publish(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="What happened, such as order.created.")],
    data: Annotated[str | None, typer.Option(help="The payload, as JSON.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file with the payload, as JSON; - is standard input.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    subject: Annotated[str | None, typer.Option(help="What it is about.")] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="An id; a second event with it is a duplicate.")
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", help="An extension attribute, NAME=VALUE, such as priority=9."),
    ] = None,
    url: Url = _URL,
    key: Key = None,
) -> None:
    """Publish one event and print its receipt."""
    event: dict[str, Any] = {"type": type_, "source": source, "subject": subject, "id": id_}
    event = {name: value for name, value in event.items() if value is not None}
    event |= dict(_attribute(text) for text in attribute or ())
    payload = _payload(data, file)
    if payload is not None:
        event["data"] = payload
    from busway import BuswayClientError, SyncClient  # noqa: PLC0415 - the other commands start faster

    try:
        with SyncClient(url, key) as client:
            receipt = client.publish_many([event])[0]
    except (BuswayClientError, ValueError) as problem:
        raise BuswayError(str(problem)) from None
    typer.echo(msgspec.json.encode(receipt).decode())


@app.command()
def tail(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN]...", help="Event types, such as 'order.*'; all if none."),
    ] = None,
    after: Annotated[str, typer.Option(help="latest, earliest or a cursor.")] = "latest",
    handler: Annotated[
        list[str] | None, typer.Option(help="Only results of this handler; may be repeated.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind of result, or completed; may be repeated.")
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help='Only of events that match, as JSON: \'{"exact": {"subject": "x"}}\'.'),
    ] = None,
    correlationid: Annotated[str | None, typer.Option(help="Only of events with it.")] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    url: Url = _URL,
    key: Key = None,
) -> None:
    """Show results as they come; reconnects and goes on where it was.

    Ctrl-C ends it and says with which --after to go on.
    """
    from busway.gateway.cli.tail import tail as follow  # noqa: PLC0415 - only this command needs it

    asyncio.run(
        follow(
            url,
            key,
            patterns or [],
            after=after,
            handlers=handler or [],
            kinds=kind or [],
            filter=_json("--filter", filter_) if filter_ is not None else None,
            correlationid=correlationid,
            json_lines=json_lines,
        )
    )


@app.command()
def handlers(
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    url: Url = _URL,
    key: Key = None,
) -> None:
    """List the handlers of a running gateway."""
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        page = _call(url, key, "GET", f"/v1/handlers?limit=1000{after}")
        items += page["items"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    if json_lines:
        for item in items:
            typer.echo(json.dumps(item))
        return
    table = Table("handler", "events", "target", "pool", "revision", "source", "runs", "waits because")
    for item in items:
        runs = ", ".join(f"{n} {state}" for state, n in item["stats"]["runs"].items() if n)
        table.add_row(
            item["name"],
            " ".join(item["events"]),
            item["target"],
            item["placed_in"]["pool"],
            str(item["revision"]),
            item["source"],
            runs,
            item["waits_because"] or "",
        )
    Console().print(table)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="publish, subscribe, handlers:read, handlers:write or admin; may be repeated [admin]."
        ),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When it ends, such as 2027-01-31T12:00:00Z.")
    ] = None,
    database_url: Database = None,
) -> None:
    """Make a key and print it, this once. A running gateway knows it within 5 seconds."""
    _need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.access.gate import key_text  # noqa: PLC0415
    from busway.gateway.api.keys import new_key  # noqa: PLC0415
    from busway.gateway.main import clock  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    fields = {"name": name, "scopes": scope or ["admin"], "expires_at": expires_at}
    operation, secret = new_key(fields, clock())
    typer.echo(key_text(sqlite.apply(settings.database(database_url), operation), secret))


@keys.command("list")
def list_keys(database_url: Database = None) -> None:
    """List the keys, without their secrets."""
    _need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.api.answers import when  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    table = Table("id", "name", "scopes", "made", "ends", "revoked")
    for key in sqlite.read_keys(settings.database(database_url)):
        row = (
            key.id,
            key.name,
            " ".join(key.scopes),
            when(key.created_at),
            when(key.expires_at),
            when(key.revoked_at),
        )
        table.add_row(*(str(cell or "") for cell in row))
    Console().print(table)


@keys.command("revoke")
def revoke_key(
    id_: Annotated[int, typer.Argument(metavar="ID", help="Its number, from `busway keys list`.")],
    database_url: Database = None,
) -> None:
    """Revoke a key. A running gateway knows it within 5 seconds."""
    _need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.main import clock  # noqa: PLC0415
    from busway.gateway.store.port.operations import RevokeKey  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    if not sqlite.apply(settings.database(database_url), RevokeKey(id=id_, now=clock())):
        raise BuswayError(f"there is no key {id_}: `busway keys list` lists them")
    typer.echo(f"key {id_} is revoked")


@app.command()
def migrate(database_url: Database = None) -> None:
    """Bring the database's schema up to date; `serve` does so itself on SQLite."""
    _need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    path = settings.database(database_url)
    sqlite.migrate(path)
    typer.echo(f"{path} is up to date")


@app.command()
def openapi(
    folder: Annotated[Path, typer.Argument(help="Where the two documents are written.")] = Path("openapi"),
) -> None:
    """Write openapi.json and asyncapi.json."""
    _need_server()
    from fastapi import FastAPI  # noqa: PLC0415 - only this command needs these

    from busway.gateway.main import describe  # noqa: PLC0415
    from busway.gateway.subscribers import asyncapi  # noqa: PLC0415

    rest = describe(FastAPI(openapi_url=None, docs_url=None, redoc_url=None))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, document in (("openapi.json", rest.openapi()), ("asyncapi.json", asyncapi.document())):
            (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            typer.echo(f"{folder / name}")
    except OSError as problem:
        raise BadSettings(f"the folder {str(folder)!r} cannot be written: {problem.strerror}") from None


def _payload(data: str | None, file: Path | None) -> Any:
    if data is not None and file is not None:
        raise BadSettings("give --data or --file, not both")
    if file is not None:
        try:
            data = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise BadSettings(f"--file {file} cannot be read: {problem}") from None
    return None if data is None else _json("--file" if file else "--data", data)


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as problem:
        raise BadSettings(
            f"{option} is no JSON ({problem}): a string needs quotes, '\"like this\"'"
        ) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _attribute(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadSettings(f"--attribute is NAME=VALUE, not {text!r}")
    if name in _SAID_OTHERWISE:
        raise BadSettings(
            f"--attribute is for extension attributes: say the {name} with {_SAID_OTHERWISE[name]}"
        )
    return name, int(value) if name == "priority" and value.isdecimal() else value


def _call(url: str, key: str | None, method: str, path: str, body: Any = None) -> Any:
    import httpx  # noqa: PLC0415 - `serve` starts faster without it

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.request(method, url.rstrip("/") + path, json=body, headers=headers, timeout=60)
    except (httpx.TransportError, httpx.InvalidURL) as problem:
        raise BuswayError(
            f"no gateway answers at {url}: start one with `busway serve`, or name it with --url ({problem})"
        ) from None
    if answer.is_success:
        return answer.json()
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"{url} answered {answer.status_code}: is it a Busway gateway?"
    raise BuswayError(detail)

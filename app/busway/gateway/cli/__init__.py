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

_ABOUT = """An event gateway: stores events, runs Python handlers on them, and sends results to subscribers.

Start a gateway with `busway serve`, publish with `busway publish`, follow results with `busway tail`.
"""
app = typer.Typer(
    name="busway",
    help=_ABOUT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="Create, list and revoke API keys, directly in the database.", no_args_is_help=True)
app.add_typer(keys, name="keys")


def _check_url(url: str) -> str:
    if not url.lower().startswith(("http://", "https://")):
        raise BadSettings(f"--url (or BUSWAY_URL) must be like {_URL}, not {url!r}")
    return url


Url = Annotated[str, typer.Option(envvar="BUSWAY_URL", help="Address of the gateway.", callback=_check_url)]
Key = Annotated[str | None, typer.Option(envvar="BUSWAY_KEY", help="API key, if the gateway needs one.")]
Database = Annotated[
    str | None,
    typer.Option(
        help="The database, sqlite:///FILE. Default: BUSWAY_DATABASE_URL, else .env, else sqlite:///busway.db."
    ),
]
_OWN_OPTIONS = {
    "type": "TYPE",
    "data": "--data",
    "source": "--source",
    "subject": "--subject",
    "id": "--id",
}
_URL = "http://127.0.0.1:8000"
_SERVER = (
    "alembic", "dotenv", "fastapi", "httptools", "prometheus_client", "pydantic", "sqlalchemy",
    "starlette", "structlog", "uvicorn", "uvloop",
)  # fmt: skip


def main() -> None:
    """Run the command. An error prints one line and sets the exit status."""
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


@app.callback(help=_ABOUT)
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself. Its help text is `_ABOUT`."""


def _need_server() -> None:
    """Refuse a command that needs the gateway if only the clients are installed.

    Raises:
        BadSettings: a package of the extra `server` is missing.
    """
    missing = [name for name in _SERVER if find_spec(name) is None]
    if missing:
        raise BadSettings(
            f"this command needs the gateway, and {missing[0]} is not installed: pip install 'busway[server]'"
        )


def _setting(text: str) -> Any:
    return typer.Option(help=text.replace("[", "\\["), show_default=False)  # brackets are markup for Rich


@app.command()
def serve(
    host: Annotated[str | None, _setting("Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, _setting("Port to listen on; 0 takes a free one. [default: 8000]")] = None,
    pool: Annotated[
        str | None,
        _setting("Where handlers run that do not choose a pool: process, thread or auto. [default: process]"),
    ] = None,
    workers: Annotated[
        int | None, _setting("Worker processes of the process pool. [default: number of CPUs]")
    ] = None,
    threads: Annotated[
        int | None,
        _setting(
            "Threads of the thread pool; also async handlers that one worker runs at once. [default: 32]"
        ),
    ] = None,
    handlers: Annotated[
        Path | None, _setting("Folder with handler code, Python files and packages. [default: handlers]")
    ] = None,
    app_dir: Annotated[
        Path | None,
        _setting("Root of your own project, from which handlers can import. [default: current directory]"),
    ] = None,
    database_url: Annotated[
        str | None, _setting("The database, sqlite:///FILE. [default: sqlite:///busway.db]")
    ] = None,
    broker_url: Annotated[str | None, _setting("Not built yet.")] = None,
    role: Annotated[str | None, _setting("Not built yet; only 'all' is allowed. [default: all]")] = None,
    max_event_bytes: Annotated[int | None, _setting("Largest event, in bytes. [default: 1048576]")] = None,
    max_body_bytes: Annotated[
        int | None, _setting("Largest request body, in bytes. [default: 33554432]")
    ] = None,
    max_bodies_bytes: Annotated[
        int | None, _setting("Memory for all request bodies under way, in bytes. [default: 268435456]")
    ] = None,
    max_answers_bytes: Annotated[
        int | None,
        _setting("Memory for all answers that clients have not read, in bytes. [default: 134217728]"),
    ] = None,
    max_result_bytes: Annotated[
        int | None, _setting("Largest result of a handler, in bytes. [default: 16777216]")
    ] = None,
    drain_timeout: Annotated[
        float | None, _setting("Seconds that running handlers get to finish at shutdown. [default: 30]")
    ] = None,
    keep_alive: Annotated[
        int | None, _setting("Seconds that an idle HTTP connection stays open. [default: 75]")
    ] = None,
    retention: Annotated[
        str | None,
        _setting(
            "How long finished events and results are kept, such as 90s, 30m, 12h, 7d, 4w. [default: 7d]"
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        _setting(
            "Another origin whose web pages may use the gateway, such as https://app.example; repeatable."
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
    """Start the gateway.

    Each option can also be set as an environment variable (--app-dir: BUSWAY_APP_DIR)
    or in a file .env in the current directory.
    """
    options = dict(locals())
    gc.disable()  # objects of imports are permanent; the collector starts again when the gateway is ready
    _need_server()
    from busway.gateway.store.group.process import launch  # noqa: PLC0415 - other commands start faster

    committer = launch()  # both processes import at the same time
    from busway.gateway import logs, server, settings  # noqa: PLC0415 - as above

    logs.configure()
    raise typer.Exit(server.run(settings.load(**options), committer))


@app.command()
def publish(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Type of the event, such as order.created.")],
    data: Annotated[str | None, typer.Option(help="Payload as JSON.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="File with the payload as JSON; - reads standard input.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Source of the event, such as /shop.")] = None,
    subject: Annotated[str | None, typer.Option(help="Subject of the event, such as order-17.")] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Id of the event. The same source and id are stored only once.")
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute", "-a", help="Extension attribute, NAME=VALUE, such as priority=9; repeatable."
        ),
    ] = None,
    url: Url = _URL,
    key: Key = None,
) -> None:
    """Publish one event and print its receipt.

    It returns when the event is stored on disk.
    """
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
        typer.Argument(metavar="[PATTERN]...", help="Types of events, such as 'order.*'. Default: all."),
    ] = None,
    after: Annotated[str, typer.Option(help="Where to begin: latest, earliest or a cursor.")] = "latest",
    handler: Annotated[
        list[str] | None, typer.Option(help="Only results of this handler; repeatable.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only results of this kind, such as succeeded or dead; repeatable."),
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help='Only results of events that match this filter: \'{"exact": {"subject": "x"}}\'.',
        ),
    ] = None,
    correlationid: Annotated[
        str | None, typer.Option(help="Only results of events with this correlation id.")
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    url: Url = _URL,
    key: Key = None,
) -> None:
    """Print results as they come.

    It reconnects and resumes by itself. Ctrl-C ends it and prints the --after at which to resume.
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
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
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
    table = Table("handler", "events", "target", "pool", "revision", "source", "runs", "waiting because")
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
    name: Annotated[str, typer.Argument(help="Name of the key, such as its owner.")],
    scope: Annotated[
        list[str] | None,
        _setting("publish, subscribe, handlers:read, handlers:write or admin; repeatable. [default: admin]"),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When the key expires, such as 2027-01-31T12:00:00Z.")
    ] = None,
    database_url: Database = None,
) -> None:
    """Create a key and print it. The key is shown only once.

    A running gateway accepts it within 5 seconds.
    """
    _need_server()
    from busway.contract.keys import KeyIn  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway import settings  # noqa: PLC0415
    from busway.gateway.access.gate import key_text  # noqa: PLC0415
    from busway.gateway.api import decoding  # noqa: PLC0415
    from busway.gateway.api.keys import new_key  # noqa: PLC0415
    from busway.gateway.main import clock  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    fields = {"name": name, "scopes": scope or ["admin"], "expires_at": expires_at}
    operation, secret = new_key(decoding.fit(fields, KeyIn), clock())
    typer.echo(key_text(sqlite.apply(settings.database(database_url), operation), secret))


@keys.command("list")
def list_keys(database_url: Database = None) -> None:
    """List keys, without their secrets."""
    _need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.api.answers import when  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    table = Table("id", "name", "scopes", "created", "expires", "revoked")
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
    id_: Annotated[int, typer.Argument(metavar="ID", help="Id of the key, from `busway keys list`.")],
    database_url: Database = None,
) -> None:
    """Revoke a key. A running gateway refuses it within 5 seconds."""
    _need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.main import clock  # noqa: PLC0415
    from busway.gateway.store.port.operations import RevokeKey  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    if not sqlite.apply(settings.database(database_url), RevokeKey(id=id_, now=clock())):
        raise BuswayError(f"there is no key {id_}: see `busway keys list`")
    typer.echo(f"key {id_} is revoked")


@app.command()
def migrate(database_url: Database = None) -> None:
    """Upgrade the database schema. `serve` does this at start."""
    _need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    path = settings.database(database_url)
    sqlite.migrate(path)
    typer.echo(f"{path} is up to date")


@app.command()
def openapi(
    folder: Annotated[Path, typer.Argument(help="Folder for the two documents.")] = Path("openapi"),
) -> None:
    """Write the OpenAPI and AsyncAPI documents, openapi.json and asyncapi.json."""
    _need_server()
    from fastapi import FastAPI  # noqa: PLC0415 - only this command needs these

    from busway.gateway.main import describe  # noqa: PLC0415
    from busway.gateway.subscribers import asyncapi  # noqa: PLC0415

    rest = describe(FastAPI(openapi_url=None, docs_url=None, redoc_url=None))
    documents = {folder / "openapi.json": rest.openapi(), folder / "asyncapi.json": asyncapi.document()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, document in documents.items():
            file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as problem:
        raise BadSettings(f"the folder {str(folder)!r} cannot be written: {problem.strerror}") from None
    typer.echo("\n".join(map(str, documents)))


def _payload(data: str | None, file: Path | None) -> Any:
    if data is not None and file is not None:
        raise BadSettings("give --data or --file, not both")
    if file is not None:
        try:
            data = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode()
        except (OSError, UnicodeDecodeError) as problem:
            raise BadSettings(f"--file {file} cannot be read: {problem}") from None
    return None if data is None else _json("--file" if file else "--data", data)


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as problem:
        raise BadSettings(
            f"{option} is not valid JSON ({problem}): a string needs quotes, '\"like this\"'"
        ) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _attribute(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadSettings(f"--attribute must be NAME=VALUE, not {text!r}")
    if name in _OWN_OPTIONS:
        raise BadSettings(
            f"--attribute is for extension attributes: set the {name} with {_OWN_OPTIONS[name]}"
        )
    return name, int(value) if name == "priority" and value.isdecimal() else value


def _call(url: str, key: str | None, method: str, path: str, body: Any = None) -> Any:
    import httpx  # noqa: PLC0415 - `serve` starts faster without it

    from busway.client.errors import BuswayClientError, Gateway, unreachable  # noqa: PLC0415 - as above
    from busway.client.network import address, network  # noqa: PLC0415 - as above

    try:
        url = address(url)
        reach = network(url)
        gateway = Gateway(url, key, 60, reach.variable)
        with httpx.Client(headers=gateway.headers, timeout=gateway.timeout, **reach.for_httpx()) as client:
            answer = client.request(method, gateway.url + path, json=body)
    except (BuswayClientError, ValueError) as problem:
        raise BuswayError(str(problem)) from None
    except (httpx.TransportError, httpx.InvalidURL) as problem:
        raise BuswayError(str(unreachable(gateway, problem))) from None
    if answer.is_success:
        return answer.json()
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"{url} answered {answer.status_code}: is it a Busway gateway?"
    raise BuswayError(detail)

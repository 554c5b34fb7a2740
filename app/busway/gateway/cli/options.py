"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from busway.gateway.errors import BadSettings, BuswayError

if TYPE_CHECKING:
    from busway.gateway.store.port.database import Database as Store

_COMPLETES = 1.0  # seconds that shell completion waits for a gateway
_COMPLETED = 100  # items that it offers at most
URL = "http://127.0.0.1:8000"
SERVER = (
    "alembic", "cronsim", "cryptography", "dotenv", "fastapi", "h2", "httpcore", "httptools", "jwt", "nats",
    "prometheus_client", "psycopg", "pydantic", "sqlalchemy", "starlette", "tzdata", "uvicorn", "uvloop",
)  # fmt: skip


def _check_url(url: str) -> str:
    if not url.lower().startswith(("http://", "https://")):
        raise BadSettings(f"--url (or BUSWAY_URL) must be like {URL}, not {url!r}")
    return url


def _check_key(key: str | None) -> str | None:
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable()):  # HTTP would refuse it, and show it
        raise BadSettings("--key (or BUSWAY_KEY) must be a key such as bw_1_…, or a token, and nothing else")
    return key or None


Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE | KEY:=JSON]...",
        help="Members of the payload: item=book is a string, quantity:=2 any JSON.",
    ),
]
Data = Annotated[str | None, typer.Option("--data", "-d", help="Payload as JSON.")]
Url = Annotated[
    str,
    typer.Option("--url", "-u", envvar="BUSWAY_URL", help="Address of the gateway.", callback=_check_url),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        "-k",
        envvar="BUSWAY_KEY",
        help="API key or token, if the gateway needs one.",
        callback=_check_key,
    ),
]


def handler_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of handlers for shell completion. None if no gateway answers at once."""
    return [item["name"] for item in listed(ctx, "/v1/handlers") if item["name"].startswith(incomplete)]


def event_types(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the types and patterns that handlers have, for shell completion."""
    found = {pattern for item in listed(ctx, "/v1/handlers") for pattern in item["events"]}
    if ctx.info_name == "publish":
        found = {pattern for pattern in found if "*" not in pattern}
    return sorted(pattern for pattern in found if pattern.startswith(incomplete))


def run_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the newest runs with which a command can do something, for shell completion."""
    states = {"retry": ("dead", "cancelled"), "cancel": ("running", "available", "retryable")}
    found = [
        (str(run["id"]), f"{run['state']} {run['handler']}")
        for state in states.get(ctx.info_name or "", (None,))
        for run in listed(ctx, "/v1/runs", **({"state": state} if state else {}))
    ]
    return [(id_, about) for id_, about in found if id_.startswith(incomplete)]


def replay_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the newest replays for shell completion."""
    found = [(str(each["id"]), f"{each['state']} {each['handler']}") for each in listed(ctx, "/v1/replays")]
    return [(id_, about) for id_, about in found if id_.startswith(incomplete)]


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Return a function that completes these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def listed(ctx: typer.Context, path: str, **params: str) -> list[dict[str, Any]]:
    """Return the first items of a list of the gateway, none if it does not answer at once."""
    from busway.gateway.cli.call import Caller  # noqa: PLC0415 - only completion needs it

    try:
        with Caller(ctx.params.get("url") or URL, ctx.params.get("key"), _COMPLETES) as caller:
            return list(caller.items(path, params, _COMPLETED))
    except BuswayError:
        return []


Handler = Annotated[
    str | None,
    typer.Option(
        "--handler",
        "-H",
        metavar="NAME",
        help="Only runs of this handler.",
        autocompletion=handler_names,
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        help="The database: sqlite:///FILE or postgresql://USER@HOST/DATABASE. Default: BUSWAY_DATABASE_URL, "
        "else .env, else sqlite:///busway.db."
    ),
]
SCOPES = ("publish", "subscribe", "handlers:read", "handlers:write", "admin")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, and errors as JSON.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what would change, and change nothing.")
]


@contextmanager
def chosen_database(url: str | None, *, create: bool = False, hint: str = "") -> Iterator[Store]:
    """Provide the database of `--database-url`. Errors about it name the option or variable that chose it.

    Args:
        url: the option.
        create: whether it may be missing.
        hint: what else to do if it is missing.

    Raises:
        BadSettings: it is not named correctly, or there is none and `create` is false.
    """
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.databases import choose  # noqa: PLC0415

    database = choose(settings.database_url(url))
    with settings.naming(settings.database_place(url)):
        if not create and not database.exists():
            raise BadSettings(
                f"there is no database {database.shown!r}: choose one with --database-url{hint}"
            )
        yield database


def check_schema(database: Store) -> None:
    """Refuse a database that the command would upgrade first.

    Raises:
        BadSettings: its schema is older, or it cannot be used.
    """
    revision = database.health().revision
    if revision is not None and revision < database.revision:
        raise BadSettings(
            f"the database {database.shown!r} has schema {revision}, this release has {database.revision}: "
            "run `busway migrate` first"
        )


def need_server() -> None:
    """Refuse a command that needs the gateway if only the clients are installed.

    Raises:
        BadSettings: a package of the extra `server` is missing.
    """
    missing = [name for name in SERVER if find_spec(name) is None]
    if missing:
        raise BadSettings(
            f"this command needs the gateway, and {missing[0]} is not installed: pip install 'busway[server]'"
        )


def setting(text: str, *words: str) -> Any:
    """Return an option whose help text names its default. `words`: its values, for shell completion."""
    complete = one_of(*words) if words else None
    return typer.Option(help=text, show_default=False, autocompletion=complete)


def parsed(option: str, text: str) -> Any:
    """Return the JSON value of an option.

    Raises:
        BadSettings: the text is not valid JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise BadSettings(f"{option} is nested too deeply") from None
    except ValueError as problem:
        raise BadSettings(
            f"{option} is not valid JSON ({problem}): a string needs quotes, '\"like this\"'"
        ) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

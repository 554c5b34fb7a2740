"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from busway.gateway.errors import BadSettings, BuswayError

if TYPE_CHECKING:
    from busway.gateway.store.port.database import Database as Store

_COMPLETES = 1.0  # seconds that shell completion waits for a gateway
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
    from busway.gateway.cli.call import Caller  # noqa: PLC0415 - only completion needs it

    try:
        with Caller(ctx.params.get("url") or URL, ctx.params.get("key"), _COMPLETES) as caller:
            names = [str(item["name"]) for item in caller.items("/v1/handlers", {})]
    except BuswayError:
        return []
    return [name for name in names if name.startswith(incomplete)]


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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


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


def setting(text: str) -> Any:
    """Return an option whose help text names its default."""
    return typer.Option(help=text, show_default=False)


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

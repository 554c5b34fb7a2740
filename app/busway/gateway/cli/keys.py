"""`busway keys`: API keys, directly in the database."""

from __future__ import annotations

from typing import Annotated

import typer

from busway.gateway.cli.options import MARKUP, Database, need_server, setting
from busway.gateway.cli.output import print_table
from busway.gateway.errors import BuswayError

app = typer.Typer(
    help="Create, list and revoke API keys in the database.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
)


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Name of the key, such as its owner.")],
    scope: Annotated[
        list[str] | None,
        setting("publish, subscribe, handlers:read, handlers:write or admin; repeatable. [default: admin]"),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When the key expires, such as 2027-01-31T12:00:00Z.")
    ] = None,
    database_url: Database = None,
) -> None:
    """Create a key and print it. The key is shown only once.

    A running gateway accepts it within 5 seconds.
    """
    need_server()
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


@app.command("list")
def list_keys(database_url: Database = None) -> None:
    """List keys, without their secrets."""
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.api.answers import when  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    rows = [
        (
            key.id,
            key.name,
            " ".join(key.scopes),
            when(key.created_at),
            when(key.expires_at),
            when(key.revoked_at),
        )
        for key in sqlite.read_keys(settings.database(database_url))
    ]
    print_table(("id", "name", "scopes", "created", "expires", "revoked"), rows)


@app.command("revoke")
def revoke_key(
    id_: Annotated[int, typer.Argument(metavar="ID", help="Id of the key, from `busway keys list`.")],
    database_url: Database = None,
) -> None:
    """Revoke a key. A running gateway refuses it within 5 seconds."""
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.main import clock  # noqa: PLC0415
    from busway.gateway.store.port.operations import RevokeKey  # noqa: PLC0415
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    if not sqlite.apply(settings.database(database_url), RevokeKey(id=id_, now=clock())):
        raise BuswayError(f"there is no key {id_}: see `busway keys list`")
    typer.echo(f"key {id_} is revoked")

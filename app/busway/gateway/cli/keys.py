"""`busway keys`: API keys, directly in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from busway.gateway.cli.options import (
    SCOPES,
    Database,
    DryRun,
    Json,
    check_schema,
    chosen_database,
    need_server,
    one_of,
    setting,
)
from busway.gateway.cli.output import note, print_json, print_plan, print_table
from busway.gateway.errors import BadSettings, BuswayError

if TYPE_CHECKING:
    from busway.gateway.store.port.audit import Audited, Change

app = typer.Typer(
    help="Create, list and revoke API keys in the database.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


Scopes = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        help="publish, subscribe, handlers:read, handlers:write or admin; repeatable. [default: admin]",
        show_default=False,
        autocompletion=one_of(*SCOPES),
    ),
]
_TIMES = ("created_at", "expires_at", "revoked_at", "last_used_at")
_CREATE = ", or create it with `busway keys create NAME --create`"


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Name of the key, such as its owner.")],
    scope: Scopes = None,
    types: Annotated[
        list[str] | None,
        setting("Type pattern, such as 'order.**': the key publishes and reads only these; repeatable."),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When the key expires, such as 2027-01-31T12:00:00Z.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create the database if it does not exist.")
    ] = False,
    database_url: Database = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
) -> None:
    """Create a key and print it. The key is shown only once.

    Standard output is the key alone. A running gateway accepts it within 5 seconds.
    """
    need_server()
    from busway.contract.keys import KeyIn  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.access.keys import key_text  # noqa: PLC0415
    from busway.gateway.api import decoding  # noqa: PLC0415
    from busway.gateway.api.keys import new_key  # noqa: PLC0415
    from busway.gateway.clock import clock  # noqa: PLC0415

    fields = {"name": name, "scopes": scope or ["admin"], "expires_at": expires_at, "types": types}
    try:
        operation, secret = new_key(decoding.fit(fields, KeyIn), clock())
    except BuswayError as problem:
        raise _in_options(problem) from None
    with chosen_database(database_url, create=create, hint=_CREATE) as database:
        if dry_run:
            check_schema(database)
            scopes, new = operation.scopes, not database.exists()
            would = f"create a key {name!r} for {' '.join(scopes)} in the database {database.shown}"
            would += ", which would be created" if new else ""
            shown = {"name": name, "scopes": scopes, "types": operation.types, "database": database.shown}
            print_plan(would, json_lines=json_lines, **shown, creates_database=new)
            return
        id_ = database.apply(_audited("key.created", operation))
    key = key_text(id_, secret)
    if json_lines:
        shown = {"scopes": operation.scopes, "types": operation.types, "database": database.shown}
        print_json([{"id": id_, "name": name, "key": key, **shown}])
    else:
        typer.echo(key)
    note(f"key {id_} {name!r} is in the database {database.shown}")


def _audited(action: str, operation: Change) -> Audited:
    """Return the operation with an entry of the audit log about the user who runs this command."""
    import getpass  # noqa: PLC0415 - only the keys commands need these

    from busway.gateway.clock import clock  # noqa: PLC0415
    from busway.gateway.store.port.audit import Audited, Entry  # noqa: PLC0415

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = None
    return Audited(entry=Entry(actor="cli", name=user, action=action, time=clock()), operation=operation)


def _in_options(problem: BuswayError) -> BuswayError:
    names = {
        "name": "NAME",
        "scopes": "--scope",
        "expires_at": "--expires-at",
        "types": "--types",
        "overlap": "--overlap",
    }
    found = "; ".join(f"{names.get(str(each.loc[1]), '')}: {each.msg}" for each in problem.errors or ())
    return BadSettings(found or problem.detail)


@app.command("declare")
def declare_key(
    name: Annotated[str, typer.Argument(help="Name of the key, such as its owner.")],
    scope: Scopes = None,
    types: Annotated[
        list[str] | None,
        setting("Type pattern, such as 'order.**': the key publishes and reads only these; repeatable."),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When the key expires, such as 2027-01-31T12:00:00Z.")
    ] = None,
    json_lines: Json = False,
) -> None:
    """Make a key for the file of --keys-file. Nothing is stored: it uses no database.

    Standard output is what to add to the file: it has a digest, not the key. The key itself is shown only
    once, on standard error. With --json, both are on standard output.
    """
    need_server()
    from busway.contract.keys import KeyIn  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.access import keysfile  # noqa: PLC0415
    from busway.gateway.access.keys import declared_id, key_text  # noqa: PLC0415
    from busway.gateway.api import decoding  # noqa: PLC0415
    from busway.gateway.api.keys import new_key  # noqa: PLC0415
    from busway.gateway.clock import clock  # noqa: PLC0415

    fields = {"name": name, "scopes": scope or ["admin"], "expires_at": expires_at, "types": types}
    try:
        wanted = decoding.fit(fields, KeyIn)
        operation, secret = new_key(wanted, clock())
    except BuswayError as problem:
        raise _in_options(problem) from None
    id_ = declared_id(operation.digest)
    key, entry = key_text(id_, secret), keysfile.entry(name, operation.digest, wanted)
    if json_lines:
        print_json([{"id": id_, "name": name, "key": key, "entry": entry}])
    else:
        typer.echo(entry)
        note(f"the key, which is shown only now: {key}")


@app.command("list")
def list_keys(database_url: Database = None, json_lines: Json = False) -> None:
    """List keys, without their secrets."""
    with chosen_database(database_url, hint=_CREATE) as database:
        keys = database.read_keys()
    from busway.gateway.api.answers import when  # noqa: PLC0415 - only the keys commands need these

    found: list[dict[str, Any]] = [
        {
            "id": key.id,
            "name": key.name,
            "scopes": key.scopes,
            "created_at": when(key.created_at),
            "expires_at": when(key.expires_at),
            "revoked_at": when(key.revoked_at),
            "types": key.types,
            "last_used_at": when(key.last_used_at),
        }
        for key in keys
    ]
    if json_lines:
        print_json(found)
    elif found:
        rows = [
            (
                key["id"],
                key["name"],
                *((key[when] or "")[:19] for when in _TIMES),
                " ".join(key["scopes"]),
                " ".join(key["types"] or ["**"]),
            )
            for key in found
        ]
        print_table(("ID", "NAME", "CREATED", "EXPIRES", "REVOKED", "USED", "SCOPES", "TYPES"), rows)
    note(f"{'keys' if found else 'no keys'} in the database {database.shown}")


@app.command("rotate")
def rotate_key(
    id_: Annotated[int, typer.Argument(metavar="ID", help="Id of the key, from `busway keys list`.")],
    overlap: Annotated[int, typer.Option(help="Seconds for which the old key stays valid.")] = 3600,
    database_url: Database = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
) -> None:
    """Create a key that replaces another one, and print it. The old key stays valid for a while.

    The new key has the same name, scopes, type patterns and expiry. Standard output is the key alone.
    """
    need_server()
    from busway.contract.keys import RotateIn  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.access.keys import key_text  # noqa: PLC0415
    from busway.gateway.api import decoding  # noqa: PLC0415
    from busway.gateway.api.answers import when  # noqa: PLC0415
    from busway.gateway.api.keys import ended, rotated  # noqa: PLC0415
    from busway.gateway.clock import clock  # noqa: PLC0415

    with chosen_database(database_url, hint=_CREATE) as database:
        try:
            wanted = decoding.fit({"overlap": overlap}, RotateIn)
        except BuswayError as problem:
            raise _in_options(problem) from None
        if dry_run:
            check_schema(database)
        operation, secret = rotated(database.read_keys(), id_, wanted, clock())
        if dry_run:
            would = f"replace key {id_} {operation.key.name!r}, and let it end at {when(operation.until)}"
            print_plan(would, json_lines=json_lines, id=id_, until=when(operation.until))
            return
        new = database.apply(_audited("key.rotated", operation))
        if new is None:
            raise ended(id_)
    key, until = key_text(new, secret), when(operation.until)
    if json_lines:
        print_json([{"id": new, "key": key, "replaces": id_, "until": until, "database": database.shown}])
    else:
        typer.echo(key)
    note(f"key {new} replaces key {id_}, which is valid until {until}, in the database {database.shown}")


@app.command("revoke")
def revoke_key(
    id_: Annotated[int, typer.Argument(metavar="ID", help="Id of the key, from `busway keys list`.")],
    database_url: Database = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
) -> None:
    """Revoke a key. A running gateway refuses it within 5 seconds."""
    need_server()
    from busway.gateway.clock import clock  # noqa: PLC0415 - only the keys commands need these
    from busway.gateway.store.port.operations import RevokeKey  # noqa: PLC0415

    with chosen_database(database_url, hint=_CREATE) as database:
        if dry_run:
            check_schema(database)
            found = [key for key in database.read_keys() if key.id == id_]
        revoked = (
            found if dry_run else database.apply(_audited("key.revoked", RevokeKey(id=id_, now=clock())))
        )
    if not revoked:
        raise BuswayError(f"there is no key {id_} in {database.shown}: see `busway keys list`")
    if dry_run:
        (key,) = found
        would = (
            f"revoke key {id_} {key.name!r}"
            if key.revoked_at is None
            else f"change nothing: key {id_} is revoked"
        )
        print_plan(would, json_lines=json_lines, id=id_, revoked=key.revoked_at is not None)
        return
    if json_lines:
        print_json([{"id": id_, "revoked": True, "database": database.shown}])
    else:
        typer.echo(f"key {id_} is revoked in the database {database.shown}")

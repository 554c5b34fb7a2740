"""Verbs that handlers, schedules and sources share: show, create, update, put, pause, resume and delete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from busway.domain.handler import NAME
from busway.gateway.cli.call import Caller, dry
from busway.gateway.cli.event import encode
from busway.gateway.cli.fields import given, readings
from busway.gateway.cli.options import URL, DryRun, Json, Key, Url, listed
from busway.gateway.cli.output import Printer, counts, note, print_fields, print_json, print_plan
from busway.gateway.errors import BadSettings, BuswayError


class Kind(NamedTuple):
    """A kind of object.

    `new`, `change`: the types of the contract to create and to change one. `example`: fields, for the help.
    `pauses`: it has `/pause`.
    """

    noun: str
    new: str
    change: str
    example: str
    pauses: bool = True


KINDS = {
    "handlers": Kind(
        "handler",
        "handlers.HandlerIn",
        "handlers.HandlerChange",
        "target=orders:price events=order.created timeout=30",
    ),
    "schedules": Kind(
        "schedule",
        "schedules.ScheduleIn",
        "schedules.ScheduleChange",
        "cron='0 3 * * *' timezone=Europe/Berlin event.type=report.wanted",
    ),
    "sources": Kind(
        "source", "sources.SourceIn", "sources.SourceChange", "kind=github type=github.{event}", pauses=False
    ),
}
"""The kinds of objects, by the command that has their verbs, which is also their path."""


class Verbs(TyperGroup):
    """The verbs of one kind of object. Without a verb it lists them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Add `list` where options or nothing follow."""
        if args[:1] != ["--help"] and (args[0].startswith("-") if args else not ctx.resilient_parsing):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def verbs(about: str) -> typer.Typer:
    """Return a group of verbs."""
    help_ = f"{about} Without a verb it lists them."
    return typer.Typer(cls=Verbs, help=help_, add_completion=False, rich_markup_mode=None)


def add_verbs(app: typer.Typer, *names: str, kind: str) -> None:
    """Add verbs of this module to the group of a kind. Their help names the kind and its fields."""
    noun, new, change, example, _ = KINDS[kind]
    for name in names:
        function = _VERBS[name]
        help_ = (
            (function.__doc__ or "").replace("an object", f"a {noun}").replace("the object", f"the {noun}")
        )
        if name in {"create", "put"}:
            help_ += (
                f"\n\n\b\nExample: busway {kind} {name} NAME {example}\n\nFields: {', '.join(readings(new))}."
            )
        elif name == "update":
            help_ += f"\n\nFields: {', '.join(readings(change))}."
        app.command(name, help=help_)(function)


def object_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the objects of a group for shell completion."""
    kind = ctx.parent.info_name if ctx.parent else ""
    return [item["name"] for item in listed(ctx, f"/v1/{kind}") if item["name"].startswith(incomplete)]


def field_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the fields of the objects of a group for shell completion."""
    kind = _kind(ctx)[1]
    known = readings(kind.change if ctx.info_name == "update" else kind.new)
    return [f"{name}=" for name in known if name != "name" and name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.", autocompletion=object_names)]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIELD=VALUE | FIELD:=JSON]...",
        help="Fields, as in the API: timeout=30, event.type=report.wanted. FIELD:=JSON is any JSON. "
        "Repeat a field that is a list.",
        autocompletion=field_names,
    ),
]
File = Annotated[
    Path | None, typer.Option("--file", "-f", help="File with fields as a JSON object; - is standard input.")
]


def _kind(ctx: typer.Context) -> tuple[str, Kind]:
    name = str(ctx.parent.info_name) if ctx.parent else ""
    return name, KINDS[name]


def path_of(ctx: typer.Context, name: str) -> str:
    """Return the path of an object.

    Raises:
        BuswayError: the name is none, and would be another path.
    """
    path, kind = _kind(ctx)
    if not re.fullmatch(NAME, name):
        raise BuswayError(f"{name!r} is not the name of a {kind.noun}: `busway {path}` lists them")
    return f"/v1/{path}/{name}"


def show(ctx: typer.Context, name: Name, json_lines: Json = False, url: Url = URL, key: Key = None) -> None:
    """Show an object with all its fields."""
    with Caller(url, key) as caller:
        found = caller.call("GET", path_of(ctx, name))
    if json_lines:
        print_json([found])
        return
    printer = Printer()
    printer.line(f"{_kind(ctx)[1].noun} {found.pop('name')}", style="bold")
    stats = found.pop("stats", None)
    if stats:
        found["runs"] = counts(stats["runs"])
    print_fields(shown_fields(found), printer)


def shown_fields(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of an object as `print_fields` takes them."""
    return [(field.replace("_", " "), _text(value)) for field, value in found.items()]


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    if value in (None, [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def create(
    ctx: typer.Context, name: Name, fields: Fields = None, file: File = None, dry_run: DryRun = False,
    json_lines: Json = False, url: Url = URL, key: Key = None,
) -> None:  # fmt: skip
    """Create an object. A new secret is shown only once."""
    path_of(ctx, name)
    body = given(_kind(ctx)[1].new, file, fields or ())
    with Caller(url, key) as caller:
        _send(ctx, caller, "POST", name, body, dry_run=dry_run, json_lines=json_lines)


def update(
    ctx: typer.Context, name: Name, fields: Fields = None, file: File = None, dry_run: DryRun = False,
    json_lines: Json = False, url: Url = URL, key: Key = None,
) -> None:  # fmt: skip
    """Change fields of an object. FIELD:=null restores the default."""
    path_of(ctx, name)
    body = given(_kind(ctx)[1].change, file, fields or ())
    with Caller(url, key) as caller:
        _send(ctx, caller, "PATCH", name, body, dry_run=dry_run, json_lines=json_lines)


def put(
    ctx: typer.Context, name: Name, fields: Fields = None, file: File = None, dry_run: DryRun = False,
    json_lines: Json = False, url: Url = URL, key: Key = None,
) -> None:  # fmt: skip
    """Create an object, or change these fields of the object if it exists: for deployments."""
    path, kind = path_of(ctx, name), _kind(ctx)[1]
    body = given(kind.new, file, fields or ())
    with Caller(url, key) as caller:
        known = caller.send("PATCH", path, params=dry(run=True), body=b"{}").status_code != 404
        fixed = body.keys() - readings(kind.change) if known else ()
        if fixed:
            found = caller.call("GET", path)
            for field in fixed:
                if body.pop(field) != found.get(field):
                    raise BuswayError(
                        f"{field}: it is {found.get(field)!r} and cannot be changed: `delete` first"
                    )
        _send(ctx, caller, "PATCH" if known else "POST", name, body, dry_run=dry_run, json_lines=json_lines)


def pause(
    ctx: typer.Context, name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL,
    key: Key = None,
) -> None:  # fmt: skip
    """Pause an object, until it is resumed."""
    _switch(ctx, name, url, key, paused=True, dry_run=dry_run, json_lines=json_lines)


def resume(
    ctx: typer.Context, name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL,
    key: Key = None,
) -> None:  # fmt: skip
    """Resume an object that is paused."""
    _switch(ctx, name, url, key, paused=False, dry_run=dry_run, json_lines=json_lines)


def delete(
    ctx: typer.Context, name: Name, dry_run: DryRun = False, json_lines: Json = False, url: Url = URL,
    key: Key = None,
) -> None:  # fmt: skip
    """Delete an object. Events that it caused stay."""
    path = path_of(ctx, name)
    with Caller(url, key) as caller:
        caller.call("DELETE", path, params=dry(dry_run))
    said(_kind(ctx)[1].noun, name, "delete", {"deleted": name}, dry_run=dry_run, json_lines=json_lines)


_VERBS: dict[str, Any] = {
    "show": show, "create": create, "update": update, "put": put, "pause": pause, "resume": resume,
    "delete": delete,
}  # fmt: skip


def _send(
    ctx: typer.Context, caller: Caller, method: str, name: str, body: dict[str, Any], *, dry_run: bool,
    json_lines: bool,
) -> None:  # fmt: skip
    path, kind = _kind(ctx)
    if body.setdefault("name", name) != name:
        raise BadSettings(f"NAME is {name!r}, and the name in the fields is {body['name']!r}")
    if method == "PATCH":
        del body["name"]
    where = f"/v1/{path}" if method == "POST" else path_of(ctx, name)
    names = {
        **{field: field for field in readings(kind.new)},
        "previous_secret_until": "previous_secret_until",
    }
    found = caller.call(method, where, params=dry(dry_run), body=encode(body), names=names)
    verb = "create" if method == "POST" else "update"
    said(kind.noun, name, verb, found, dry_run=dry_run, json_lines=json_lines)
    secret = (found or {}).get("secret")
    if secret and not json_lines:
        hook = f"{caller.gateway.url}/v1/hooks/{name}" if kind.noun == "source" else ""
        print_fields([("secret", secret), ("webhooks", hook)])
        note("the secret is shown only this time")


def _switch(
    ctx: typer.Context, name: str, url: str, key: str | None, *, paused: bool, dry_run: bool, json_lines: bool
) -> None:
    kind, path = _kind(ctx)[1], path_of(ctx, name)
    verb = "pause" if paused else "resume"
    with Caller(url, key) as caller:
        if kind.pauses:
            found = caller.call("POST", f"{path}/{verb}", params=dry(dry_run))
        else:
            body = encode({"paused": paused})
            found = caller.call("PATCH", path, params=dry(dry_run), body=body)
    said(kind.noun, name, verb, found, dry_run=dry_run, json_lines=json_lines)


def said(noun: str, name: str, verb: str, found: Any, *, dry_run: bool, json_lines: bool) -> None:
    """Print what was done with an object, or with `dry_run` would be. `found`: the answer of the gateway."""
    if dry_run:
        changes = found is None or "deleted" in found
        would = f"{verb} the {noun} {name}" if changes else f"change nothing: the {noun} {name} is so already"
        print_plan(would, json_lines=json_lines, **{noun: name})
    elif json_lines:
        print_json([found])
    else:
        Printer().line(f"{noun} {name} is {verb.removesuffix('e')}ed")

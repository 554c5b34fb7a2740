"""`busway tail`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from busway.gateway.cli.options import URL, Json, Key, Url, parsed


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
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """Print results as they come.

    It reconnects and resumes by itself. Ctrl-C ends it and prints the --after at which to resume.
    """
    from busway.gateway.cli.following import tail as follow  # noqa: PLC0415 - only this command needs it

    asyncio.run(
        follow(
            url,
            key,
            patterns or [],
            after=after,
            handlers=handler or [],
            kinds=kind or [],
            filter=parsed("--filter", filter_) if filter_ is not None else None,
            correlationid=correlationid,
            json_lines=json_lines,
        )
    )

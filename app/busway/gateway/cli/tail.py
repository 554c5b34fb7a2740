"""`busway tail`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from busway.gateway.cli.options import URL, Json, Key, Url, event_types, handler_names, one_of, parsed
from busway.gateway.errors import BadSettings

KINDS = ("partial", "succeeded", "failed", "lost", "dead", "cancelled", "completed")


def tail(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATTERN]...",
            help="Types of events, such as 'order.*'. Default: all.",
            autocompletion=event_types,
        ),
    ] = None,
    last: Annotated[
        int, typer.Option("--last", "-n", help="Number of the newest results to begin with.", min=0)
    ] = 0,
    after: Annotated[
        str | None, typer.Option(help="Where to begin: latest (the default), earliest or a cursor.")
    ] = None,
    handler: Annotated[
        list[str] | None,
        typer.Option(
            "--handler",
            "-H",
            help="Only results of this handler; repeatable.",
            autocompletion=handler_names,
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Only results of this kind, such as succeeded or dead; repeatable.",
            autocompletion=one_of(*KINDS),
        ),
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
    if last and after is not None:
        raise BadSettings("give --last or --after, not both")
    from busway.gateway.cli.following import Wanted  # noqa: PLC0415 - only this command needs it
    from busway.gateway.cli.following import tail as follow  # noqa: PLC0415 - as above

    wanted = Wanted(
        types=patterns or [],
        handlers=handler or [],
        kinds=kind or [],
        filter=parsed("--filter", filter_) if filter_ is not None else None,
        correlationid=correlationid,
        after=after or "latest",
        last=last,
    )
    asyncio.run(follow(url, key, wanted, json_lines=json_lines))

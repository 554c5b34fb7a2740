"""`busway publish`."""

from __future__ import annotations

import os
import re
import stat
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from busway.gateway.cli.event import NAMES, encode, extensions, payload
from busway.gateway.cli.options import URL, Data, DryRun, Json, Key, Pairs, Url, event_types
from busway.gateway.cli.output import note, print_json, print_plan
from busway.gateway.errors import BadSettings, BuswayError

WAIT = "60"  # seconds of --wait without a number
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_STREAMS = {".ndjson", ".jsonl"}


class _Publish(TyperCommand):
    """Lets `--wait` stand without its value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give `--wait` its default where no number follows."""
        end = args.index("--") if "--" in args else len(args)
        words: list[str] = []
        for place, word in enumerate(args[:end]):
            words.append(word)
            if word in {"--wait", "-w"} and not _SECONDS.fullmatch("".join(args[place + 1 : place + 2])):
                words.append(WAIT)
        return super().parse_args(ctx, words + args[end:])


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=_Publish)
def publish(
    type_: Annotated[
        str | None,
        typer.Argument(
            metavar="TYPE", help="Type of the event, such as order.created.", autocompletion=event_types
        ),
    ] = None,
    pairs: Pairs = None,
    data: Data = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="File with the payload as JSON; - reads standard input. See also --ndjson."
        ),
    ] = None,
    ndjson: Annotated[
        bool,
        typer.Option(
            "--ndjson",
            help="Publish one event for each line of --file or standard input. Each line is an event, "
            "a JSON object. Files named .ndjson or .jsonl are always read in this way.",
        ),
    ] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            "-w",
            metavar="[SECONDS]",
            min=0,
            help=f"Wait until everything that the event causes is finished, and print the results. "
            f"The default is {WAIT} seconds.",
        ),
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
    producer_id: Annotated[
        str | None,
        typer.Option(
            help="Producer id of NDJSON. Lines that were sent with it before are skipped, so that a command "
            "that broke off goes on. The default is a new one."
        ),
    ] = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
    url: Url = URL,
    key: Key = None,
) -> None:
    """Publish an event, and print its receipt or its results.

    It returns when the event is stored on disk. The payload is KEY=VALUE, --data, --file, or standard input
    if that is a file or a pipe.
    """
    given = {"type": type_, "source": source, "subject": subject, "id": id_}
    event: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    event |= extensions(attribute)
    if ndjson or (file is not None and file.suffix.lower() in _STREAMS):
        if id_ is not None or wait is not None or data is not None or pairs:
            raise BadSettings("--id, --wait, --data and KEY=VALUE are for one event, not for NDJSON")
        _stream(file, event, url, key, producer_id, dry_run=dry_run)
        return
    if producer_id is not None:
        raise BadSettings("--producer-id is for NDJSON: give an --id to an event")
    if type_ is None:
        raise BadSettings("TYPE is missing: busway publish TYPE [KEY=VALUE]")
    found = payload(data, file, pairs or (), stdin=True)
    if found is not None:
        event["data"] = found
    if dry_run:
        _check(event, url, key, json_lines=json_lines)
        return
    if wait is not None:
        from busway.gateway.cli.waiting import publish_and_wait  # noqa: PLC0415 - only --wait needs it

        publish_and_wait(url, key, event, wait, json_lines=json_lines)
        return
    from busway.gateway.cli.call import Caller  # noqa: PLC0415 - the help starts faster

    with Caller(url, key) as caller:
        print_json([caller.call("POST", "/v1/events", body=encode(event), names=NAMES)])


def _check(event: dict[str, Any], url: str, key: str | None, *, json_lines: bool) -> None:
    """Print what publishing an event would do."""
    from busway.gateway.cli.call import Caller  # noqa: PLC0415 - the help starts faster
    from busway.gateway.cli.checking import check_access, check_event, stored_as, takers  # noqa: PLC0415 - as above

    found = check_event(event)
    with Caller(url, key) as caller:
        check_access(caller, found.type)
        known = None if found.made_id else stored_as(caller, found)
        handlers = takers(caller, found) if known is None else []
    fields = {
        "type": found.type,
        "source": found.source,
        "duplicate": known is not None,
        "handlers": handlers,
    }
    if known is not None:
        would = f"store nothing: event {known} has the same source and id"
    elif handlers is None:
        would = f"publish {found.type}; the key may not read which handlers take it"
    else:
        would = f"publish {found.type}, which starts runs of: {', '.join(handlers) or 'no handler'}"
    print_plan(would, json_lines=json_lines, **fields)


def _stream(
    file: Path | None,
    defaults: dict[str, Any],
    url: str,
    key: str | None,
    producer: str | None,
    *,
    dry_run: bool,
) -> None:
    """Publish the lines of a file and print how many were stored. `dry_run`: only read them.

    Raises:
        BadSettings: the file cannot be read.
        BuswayError: lines were rejected, or the gateway does not answer.
    """
    import msgspec  # noqa: PLC0415 - the help starts faster

    from busway.contract.uploads import PRODUCER_ID  # noqa: PLC0415 - as above
    from busway.gateway.cli.call import Caller  # noqa: PLC0415 - as above
    from busway.gateway.cli.checking import Checked, check_access, check_lines  # noqa: PLC0415 - as above
    from busway.gateway.cli.ndjson import LineUpload, Summary, read_parts  # noqa: PLC0415 - as above
    from busway.gateway.cli.progress import progress  # noqa: PLC0415 - as above

    if producer is not None and not re.fullmatch(PRODUCER_ID, producer):
        raise BadSettings("--producer-id has 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', '~' and '-'")
    opened = file is not None and str(file) != "-"
    try:
        descriptor = os.open(file, os.O_RDONLY) if file is not None and opened else 0
        found = os.fstat(descriptor)
    except OSError as problem:
        raise BadSettings(f"--file {file} cannot be read: {problem}") from None
    total = found.st_size if stat.S_ISREG(found.st_mode) else None
    if os.isatty(descriptor):
        note("reading events from the terminal, one a line: Ctrl-D ends")
    summary: Summary | Checked = Checked() if dry_run else Summary()
    try:
        with progress("checking" if dry_run else "sending", "lines", bounded=total is not None) as shown:

            def show(size: float, lines: float) -> None:
                shown(size, total, lines)

            if isinstance(summary, Checked):
                with Caller(url, key) as caller:
                    check_access(caller)
                check_lines(read_parts(descriptor), defaults, show, summary)
            else:
                with Caller(url, key) as caller:
                    upload = LineUpload(caller, producer or str(uuid.uuid4()), defaults, show, summary)
                    upload.publish(read_parts(descriptor))
    except OSError as problem:
        raise BadSettings(f"--file {file} cannot be read: {problem}") from None
    finally:
        print_json([msgspec.to_builtins(summary)])
        if opened:
            os.close(descriptor)
    if summary.rejected_total:
        rest = "nothing was sent" if dry_run else "the others are stored"
        raise BuswayError(f"rejected lines: {summary.rejected_total}; {rest}")

"""`busway publish`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from busway.gateway.cli.options import URL, Key, Url, parsed
from busway.gateway.errors import BadSettings, BuswayError

_OWN_OPTIONS = {
    "type": "TYPE",
    "data": "--data",
    "source": "--source",
    "subject": "--subject",
    "id": "--id",
}


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
    url: Url = URL,
    key: Key = None,
) -> None:
    """Publish one event and print its receipt.

    It returns when the event is stored on disk.
    """
    event: dict[str, Any] = {"type": type_, "source": source, "subject": subject, "id": id_}
    event = {name: value for name, value in event.items() if value is not None}
    event |= extensions(attribute)
    found = payload(data, file)
    if found is not None:
        event["data"] = found
    from busway import BuswayClientError, SyncClient  # noqa: PLC0415 - the other commands start faster

    try:
        with SyncClient(url, key) as client:
            receipt = client.publish_many([event])[0]
    except (BuswayClientError, ValueError) as problem:
        raise BuswayError(str(problem)) from None
    typer.echo(msgspec.json.encode(receipt).decode())


def payload(data: str | None, file: Path | None) -> Any:
    """Return the payload that `--data` or `--file` gives, None if neither does.

    Raises:
        BadSettings: both are given, or the text cannot be read or is not JSON.
    """
    if data is not None and file is not None:
        raise BadSettings("give --data or --file, not both")
    if file is not None:
        try:
            data = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode()
        except (OSError, UnicodeDecodeError) as problem:
            raise BadSettings(f"--file {file} cannot be read: {problem}") from None
    return None if data is None else parsed("--file" if file else "--data", data)


def extensions(texts: Iterable[str] | None) -> dict[str, str | int]:
    """Return the extension attributes that `--attribute` gives.

    Raises:
        BadSettings: one is not NAME=VALUE.
    """
    return dict(_attribute(text) for text in texts or ())


def _attribute(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadSettings(f"--attribute must be NAME=VALUE, not {text!r}")
    if name in _OWN_OPTIONS:
        raise BadSettings(
            f"--attribute is for extension attributes: set the {name} with {_OWN_OPTIONS[name]}"
        )
    return name, int(value) if name == "priority" and value.isdecimal() else value

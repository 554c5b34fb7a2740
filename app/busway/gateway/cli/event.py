"""The event that options, arguments and standard input describe."""

from __future__ import annotations

import json
import os
import select
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from busway.gateway.cli.options import parsed
from busway.gateway.cli.output import note
from busway.gateway.errors import BadSettings, BuswayError

NAMES = {"type": "TYPE", "data": "--data", "source": "--source", "subject": "--subject", "id": "--id"}
"""The argument or option for each field of an event."""

MAX_BYTES = 1 << 30
_SAID_AFTER = 1.0  # seconds until a note says that standard input has not ended
_CHUNK = 1 << 16


def payload(data: str | None, file: Path | None, pairs: Iterable[str] = (), *, stdin: bool = False) -> Any:
    """Return the payload of an event, None if there is none.

    Args:
        data: the text of `--data`.
        file: the name of `--file`; - is standard input.
        pairs: `key=value` and `key:=JSON`, the members of an object.
        stdin: whether a file or a pipe on standard input is the payload if nothing else is given.

    Raises:
        BadSettings: more than one is given, or a text cannot be read or is not JSON.
    """
    pairs = list(pairs)
    if (data is not None) + (file is not None) + bool(pairs) > 1:
        raise BadSettings("give --data or --file or key=value, not both")
    if pairs:
        return dict(map(_pair, pairs))
    if data is not None:
        return parsed("--data", data)
    if file is not None and str(file) != "-":
        try:
            return parsed("--file", file.read_bytes().decode())
        except (OSError, UnicodeDecodeError) as problem:
            raise BadSettings(f"--file {file} cannot be read: {problem}") from None
    if file is None and not (stdin and _is_payload()):
        return None
    text = _standard_input()
    if file is None and not text.strip():
        return None
    return parsed("standard input", text)


def extensions(texts: Iterable[str] | None) -> dict[str, str | int]:
    """Return the extension attributes that `--attribute` gives.

    Raises:
        BadSettings: one is not NAME=VALUE.
    """
    return dict(_attribute(text) for text in texts or ())


def encode(event: Any) -> bytes:
    """Encode an event as JSON.

    Raises:
        BuswayError: a number does not fit.
    """
    try:
        return json.dumps(event, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise BuswayError("the payload has a number that does not fit in a double") from None


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.rstrip(":"):
        raise BadSettings(f"expected key=value or key:=JSON, not {text!r}")
    if name.endswith(":"):
        return name[:-1], parsed(f"the value of {name}=", value)
    return name, value


def _attribute(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadSettings(f"--attribute must be NAME=VALUE, not {text!r}")
    if name in NAMES:
        raise BadSettings(f"--attribute is for extension attributes: set the {name} with {NAMES[name]}")
    return name, int(value) if name == "priority" and value.isdecimal() else value


def _is_payload() -> bool:
    """Return whether standard input is a file or a pipe, not a terminal or /dev/null."""
    mode = os.fstat(0).st_mode
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _standard_input() -> str:
    """Return all of standard input. If it does not end soon, a note says that it is read.

    Raises:
        BadSettings: it cannot be read, is not UTF-8 or is too long.
    """
    chunks: list[bytes] = []
    length, said_at = 0, time.monotonic() + _SAID_AFTER
    try:
        while length <= MAX_BYTES:
            wait = said_at - time.monotonic()
            if said_at and not (wait > 0 and select.select([0], (), (), wait)[0]):
                note("reading the payload from standard input until it ends; for none, add </dev/null")
                said_at = 0.0
            chunk = os.read(0, _CHUNK)
            if not chunk:
                return b"".join(chunks).decode()
            chunks.append(chunk)
            length += len(chunk)
    except (OSError, UnicodeDecodeError) as problem:
        raise BadSettings(f"standard input cannot be read: {problem}") from None
    raise BadSettings(f"standard input is longer than {MAX_BYTES} bytes: --ndjson reads one event a line")

"""The keys file: API keys that a deployment declares, as TOML.

    [keys.shop]
    digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["publish", "subscribe"]
    types = ["order.**"]
    expires_at = 2027-01-31T00:00:00Z

It has digests, never keys. `busway keys declare` makes a key and its lines.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from busway.contract import checking
from busway.contract.keys import LIMITED_SCOPES, KeyIn
from busway.domain import times
from busway.gateway.access.keys import declared_id
from busway.gateway.store.port.reader import KeyRecord

MOST_BYTES = 1_048_576
MOST_KEYS = 10_000
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


class KeysFileError(ValueError):
    """The file cannot be used. The message names the line or the field, and what to do."""


class KeysFile:
    """The keys file of a gateway. It keeps what it had when the file becomes unusable.

    Args:
        path: of the file.

    Attributes:
        path: as above.
        keys: that it declares.
        error: why the file as it is now cannot be used, None if it can.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[KeyRecord] = []
        self.error: str | None = None
        self._data: bytes | None = None

    def read(self) -> bool:
        """Read the file, if it has changed. Return whether `keys` or `error` have.

        Never call it in the event loop: the file may be on a network.
        """
        try:
            data, at = _read(self.path)
            if data == self._data and self.error is None:
                return False
            keys, error = parse(data, at), None
            self._data = data
        except KeysFileError as problem:
            keys, error = self.keys, str(problem)
        changed = (keys, error) != (self.keys, self.error)
        self.keys, self.error = keys, error
        return changed


def read(path: Path) -> KeysFile:
    """Return a keys file that was read.

    Raises:
        KeysFileError: it cannot be read or used.
    """
    file = KeysFile(path)
    file.read()
    if file.error is not None:
        raise KeysFileError(file.error)
    return file


def parse(data: bytes, at: int = 0) -> list[KeyRecord]:
    """Return the keys that the text of a file declares. `at`: when it was written.

    Raises:
        KeysFileError: it is not TOML, or a field is wrong.
    """
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise KeysFileError("it is not UTF-8: save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as problem:
        why = "it is nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        end = f"at its end, line {len(data.splitlines())}"
        raise KeysFileError(f"it is not TOML: {why.replace('at end of document', end)}") from None
    unknown = sorted(document.keys() - {"keys"})
    if unknown:
        raise KeysFileError(f"{unknown[0]!r} is unknown: it has tables [keys.NAME]")
    declared = document.get("keys", {})
    if not isinstance(declared, dict) or len(declared) > MOST_KEYS:
        raise KeysFileError(f"it has at most {MOST_KEYS} tables [keys.NAME]")
    found: dict[int, KeyRecord] = {}
    for name, fields in declared.items():
        key = _key(name, fields, at)
        if key.id in found:
            other = _quoted(found[key.id].name)
            raise KeysFileError(f"keys.{_quoted(name)}.digest: keys.{other} has it, too: declare a new key")
        found[key.id] = key
    return list(found.values())


def entry(name: str, digest: bytes, wanted: KeyIn) -> str:
    """Return the lines that declare a key."""
    lines = [f"[keys.{_quoted(name)}]", f'digest = "sha256:{digest.hex()}"']
    lines.append(f"scopes = {_list(list(wanted.scopes))}")
    if wanted.types:
        lines.append(f"types = {_list(wanted.types)}")
    if wanted.expires_at:
        lines.append(f"expires_at = {times.to_text(times.from_text(wanted.expires_at))}")
    return "\n".join(lines) + "\n"


def _list(texts: list[str]) -> str:
    return "[" + ", ".join(msgspec.json.encode(text).decode() for text in texts) + "]"


def _quoted(name: str) -> str:
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII)
    return name if bare else msgspec.json.encode(name).decode()


def _read(path: Path) -> tuple[bytes, int]:
    """Return what a file has, and when it was written, in microseconds since 1970."""
    try:
        with path.open("rb") as file:
            data, at = file.read(MOST_BYTES + 1), os.fstat(file.fileno()).st_mtime_ns // 1000
    except OSError as problem:
        raise KeysFileError(f"it cannot be read: {problem.strerror}") from None
    if len(data) > MOST_BYTES:
        raise KeysFileError(f"it has more than {MOST_BYTES} bytes")
    return data, at


def _key(name: str, fields: Any, at: int) -> KeyRecord:
    place = f"keys.{_quoted(name)}"
    if not isinstance(fields, dict) or "name" in fields:
        raise KeysFileError(f"{place} must be a table without a name of its own: [{place}]")
    given = {key: _plain(value) for key, value in fields.items()}
    digest = given.pop("digest", None)
    form = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if form is None:
        raise KeysFileError(
            f"{place}.digest must be sha256: and 64 digits: `busway keys declare NAME` makes a key with it"
        )
    try:
        wanted = checking.read({**given, "name": name}, KeyIn, ())
    except checking.Mismatch as problem:
        field = problem.fields[0]
        raise KeysFileError(f"{place}.{'.'.join(map(str, field.loc))}: {field.msg}") from None
    if wanted.types and not LIMITED_SCOPES.issuperset(wanted.scopes):
        raise KeysFileError(
            f"{place}.types: a key with type patterns may have the scopes publish and subscribe only"
        )
    secret = bytes.fromhex(form[1])
    expires = wanted.expires_at
    return KeyRecord(
        id=declared_id(secret),
        name=name,
        digest=secret,
        scopes=[*dict.fromkeys(wanted.scopes)],
        created_at=at,
        expires_at=times.from_text(expires) if isinstance(expires, str) else None,
        revoked_at=None,
        types=[*dict.fromkeys(wanted.types)] if wanted.types else None,
        source="file",
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON has it. TOML has times of its own."""
    return value.isoformat() if isinstance(value, datetime) else value

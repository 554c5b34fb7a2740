"""Sources: senders of webhooks that sign their requests, and how their events are named."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

KINDS = ("github", "stripe", "slack", "standard", "hmac")
SIGNATURE_HEADER = "x-signature"
"""The header with the signature, for the kind `hmac`, unless the source names another one."""
MAX_SOURCES = 1_000
MAX_SECRET, MIN_SECRET = 255, 8  # characters
MAX_FIELDS = 16  # of a template

HEADER = re.compile(r"[a-z0-9][a-z0-9-]{0,99}", re.ASCII)
_FIELD = re.compile(r"event|header\.[a-z0-9][a-z0-9-]{0,99}|data(\.[^.{}\s]+)+")
_TOKEN = re.compile(r"\{([^{}]*)\}|([^{}]+)|[{}]")
_NOT_IN_A_TYPE = re.compile(r"[\s*\x00-\x1f\x7f-\x9f]")
Look = Callable[[str], str | None]
"""Returns the value of a field of a template, None if it is missing."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A source. Its secrets are readable, because signatures are checked with them.

    Attributes:
        previous_secret: is also valid, until `previous_until`, in microseconds since 1970.
        type: the template of the type of its events.
        signature_header: with the signature, None for the usual one. Only of the kind `hmac`, as `id_header`.
        id_header: with the id of the delivery, None if there is none.
    """

    name: str
    kind: str
    secret: str
    previous_secret: str | None = None
    previous_until: int | None = None
    type: str
    filter: dict[str, Any] | None = None
    signature_header: str | None = None
    id_header: str | None = None
    paused: bool = False
    description: str = ""
    created_at: int
    updated_at: int

    def __repr__(self) -> str:
        """Return a text without the secrets: it may get into a log."""
        return f"Source({self.name!r}, {self.kind!r})"


def check_secret(kind: str, secret: str) -> str | None:
    """Return why a secret cannot be one of this kind, None if it can."""
    if not MIN_SECRET <= len(secret) <= MAX_SECRET or not secret.isprintable():
        return f"secret must have {MIN_SECRET} to {MAX_SECRET} printable characters"
    if kind == "standard" and not signing_key(kind, secret):
        return "secret must be base64 after the prefix whsec_, as Standard Webhooks says"
    return None


def signing_key(kind: str, secret: str) -> bytes:
    """Return the key of a secret. Empty: it is not base64, as the kind `standard` needs it."""
    if kind != "standard":
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return b""


def check_template(template: object) -> str | None:
    """Return why a text cannot be the template of a type, None if it can."""
    form = 'type must be a type with fields, such as "github.{event}" or "shop.{data.kind}"'
    if not isinstance(template, str) or not 1 <= len(template) <= 255:
        return form + ", of 1 to 255 characters"
    fields = 0
    for token in _TOKEN.finditer(template):
        field, text = token[1], token[2]
        if field is not None:
            fields += 1
            if not _FIELD.fullmatch(field):
                return f"{{{field}}} is not a field: use {{event}}, {{header.NAME}} or {{data.PATH}}"
        elif text is None:
            return form + ": a brace has no counterpart"
        elif _NOT_IN_A_TYPE.search(text):
            return "type must not contain '*', white space or control characters"
    return f"type must have at most {MAX_FIELDS} fields" if fields > MAX_FIELDS else None


def render(template: str, look: Look) -> str:
    """Return the type of an event. A segment with a missing field is left out.

    The type may be empty, too long, or contain what a type must not.
    """
    segments: list[str | None] = [""]
    for token in _TOKEN.finditer(template):
        if token[1] is not None:
            value = look(token[1])
            segments[-1] = None if value is None or segments[-1] is None else segments[-1] + value
            continue
        first, *others = token[2].split(".")
        segments[-1] = None if segments[-1] is None else segments[-1] + first
        segments += others
    return ".".join(segment for segment in segments if segment)


def value_at(data: Any, path: str) -> str | None:
    """Return a string, integer or boolean in decoded JSON as text, None if there is none at this path."""
    for part in path.split("."):
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and part.isdecimal() and part.isascii() and len(part) < 9:
            data = data[int(part)] if int(part) < len(data) else None
        else:
            return None
    if isinstance(data, bool):
        return "true" if data else "false"
    return str(data) if isinstance(data, str | int) and data != "" else None

"""Origins of pages, compared as RFC 6454 says: by scheme, host and port, and by nothing else."""

from __future__ import annotations

import re
from typing import NamedTuple

_FORM = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class OriginError(ValueError):
    """The text is no origin."""


class Origin(NamedTuple):
    """Where a page came from; `port` is the scheme's own where none was named, None if it has none."""

    scheme: str
    host: str
    port: int | None


def read_origin(text: str) -> Origin:
    """Read the serialization of an origin (RFC 6454, section 6.1), such as `https://app.example:8443`.

    Raises:
        OriginError: it is none; `null` is none either.
    """
    form = _FORM.fullmatch(text.lower())
    if form is None:
        raise OriginError(f"an origin is SCHEME://HOST or SCHEME://HOST:PORT without a path, not {text!r}")
    scheme, host, port = form.groups()
    return Origin(scheme, host, int(port) if port else _PORTS.get(scheme))


def is_own(text: str, host: str) -> bool:
    """Tell whether a page of this origin came from the address that it asks now.

    A proxy in front may speak TLS where the gateway does not, so of the address only `host`, the
    request's Host header, is known: its port counts as the page's scheme has it.
    """
    scheme, _, named = text.partition("://")
    if named and named == host:
        return True
    try:
        return read_origin(text) == read_origin(f"{scheme}://{host}")
    except OriginError:
        return False

"""Which names and addresses mean this machine."""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import lru_cache

_LONGEST = 256  # characters of a name (RFC 1035), with a dot at its end
_NUMBERS = re.compile(r"[0-9a-fx]+(?:\.[0-9a-fx]+){0,3}", re.ASCII)
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*localhost", re.ASCII)


def is_loopback(host: str) -> bool:
    """Return whether a host, without port, is a loopback address or a name of one.

    Names are `localhost` and all below it (RFC 6761), with or without a dot at the end. Addresses count in
    each form that the system connects to: 127.1, 0x7f.1 and 2130706433 are 127.0.0.1. IPv6 addresses may
    stand in brackets and may be IPv4-mapped.
    """
    return len(host) <= _LONGEST and _known(host)


@lru_cache(1024)
def _known(host: str) -> bool:
    text = host.lower().removesuffix(".")
    if _NAME.fullmatch(text):
        return True
    if _NUMBERS.fullmatch(text):
        return _is_loopback_4(text)
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return (address.ipv4_mapped or address).is_loopback


def resolvable(host: str) -> str:
    """Return a host that the system resolves: it may not know the names below `localhost`."""
    return "localhost" if _NAME.fullmatch(host.lower().removesuffix(".")) else host


def _is_loopback_4(text: str) -> bool:
    try:
        return socket.inet_aton(text)[0] == 127
    except OSError:
        return False

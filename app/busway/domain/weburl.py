"""URLs that handlers may have as targets, as text: which are well-formed, and what they name."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

MAX_URL = 2_048  # characters
HTTP = "http"
"""The kind of these targets, and the pool that their attempts run in."""
URL = re.compile(r"https?://[!-~]+", re.ASCII | re.IGNORECASE)
_PARTS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?]*)?(?P<query>\?.*)?",
    re.ASCII | re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_PORTS = {"http": 80, "https": 443}
_MAX_NAME = 253

Address = IPv4Address | IPv6Address


class WebURL(msgspec.Struct, frozen=True, gc=False):
    """The parts of a URL.

    `host`: a name in lower case or an address, without brackets. `literal`: the host if it is an address.
    `authority`: the value of the header `Host`. `path`: with the query. `origin`: scheme, host and port.
    """

    scheme: str
    host: str
    port: int
    path: str
    authority: str
    literal: Address | None

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.host}:{self.port}"


def is_url(target: str) -> bool:
    """Return whether a target is a URL and no function."""
    return "://" in target


@lru_cache(maxsize=4_096)
def read_url(text: str) -> WebURL:
    """Return the parts of a URL.

    Raises:
        ValueError: it cannot be a target. The message says why.
    """
    if len(text) > MAX_URL:
        raise ValueError(f"the URL must have at most {MAX_URL} characters, not {len(text)}")
    if not URL.fullmatch(text) or "\\" in text:
        raise ValueError(
            "the URL must begin with https:// and have only printable ASCII without spaces or backslashes: "
            "percent-encode its path, and write the name of its host in its ASCII form (xn--…)"
        )
    if "#" in text:
        raise ValueError("the URL must not have a fragment (#…), which is never sent")
    if "@" in re.split("[/?]", text.partition("://")[2], maxsplit=1)[0]:
        raise ValueError("the URL must not have a user or a password: the receiver checks the signature")
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise ValueError("the URL must be https://HOST/PATH or https://HOST:PORT/PATH")
    scheme, host = parts["scheme"].lower(), parts["host"].lower()
    port = int(parts["port"]) if parts["port"] else _PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise ValueError("the port of the URL must be 1 to 65535")
    literal = _read_host(host)
    shown = host if port == _PORTS[scheme] else f"{host}:{port}"
    path = (parts["path"] or "/") + (parts["query"] or "")
    return WebURL(scheme, host.strip("[]"), port, path, shown, literal)


def _read_host(host: str) -> Address | None:
    """Return the address that a host is, None if it is a name."""
    if host.startswith("["):
        try:
            return IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(f"the host {host} is not an IPv6 address") from None
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return IPv4Address(host)
        except ValueError:
            raise ValueError(
                f"the host {host} is an address in an unusual form: write four decimal numbers, "
                "such as 203.0.113.7"
            ) from None
    if len(host) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"the host {host[:_MAX_NAME]} is not a DNS name")
    return None


def read_address(text: str) -> Address:
    """Return an address as a resolver gives it, without its zone.

    Raises:
        ValueError: it is none.
    """
    return ip_address(text.partition("%")[0])

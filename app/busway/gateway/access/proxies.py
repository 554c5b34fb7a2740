"""Who sent a request: the peer of the connection or, if that is a trusted proxy, whom the proxy names.

`client_address` is the only function that says where a request of an ASGI scope comes from. The door calls
`TrustedProxies.client` once for each request and puts the answer into the scope (`client`, `scheme` and the
`Host` header), so later code does not see the proxy.

References:
    Forwarded: RFC 7239. X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host have no standard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from busway.domain.addresses import read_networks
from busway.gateway.door.port import LOCAL, Client, Headers

UNIX = "unix"
"""The value of `--trusted-proxies` for a proxy at the other end of the Unix socket."""

_BELIEVED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
FORWARDING = _BELIEVED | {
    b"cdn-loop", b"cf-connecting-ip", b"cf-connecting-ipv6", b"cf-visitor", b"client-ip", b"fastly-client-ip",
    b"fly-client-ip", b"true-client-ip", b"via", b"x-client-ip", b"x-cluster-client-ip", b"x-forwarded",
    b"x-forwarded-by", b"x-forwarded-client-cert", b"x-forwarded-path", b"x-forwarded-port",
    b"x-forwarded-prefix", b"x-forwarded-scheme", b"x-forwarded-server", b"x-forwarded-ssl",
    b"x-forwarded-uri", b"x-forwarded-user", b"x-original-forwarded-for", b"x-original-host", b"x-real-ip",
}  # fmt: skip
"""Headers that proxies, tunnels and content delivery networks add. A request with one was forwarded."""

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?", re.ASCII)
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]{1,5})?", re.ASCII)
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^";\s]*))\s*(?:;|$)')


def client_address(scope: Mapping[str, Any]) -> str:
    """Return the address of the client of a request (an ASGI scope), such as `192.0.2.7` or `2001:db8::7`.

    It is `unix` for a program that uses the Unix socket, and "" if the server does not know it.
    """
    client = scope.get("client")
    return str(client[0]) if client else ""


class TrustedProxies:
    """Proxies whose headers about the client are believed. The headers of other peers are not read.

    Args:
        trusted: addresses, networks in CIDR notation, and `unix`.

    Raises:
        ValueError: one is none of these. The message says which.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        names = [*trusted]
        self._unix = UNIX in names
        self._networks = read_networks(name for name in names if name != UNIX)

    def trusts(self, address: str) -> bool:
        """Return whether the headers of the peer with this address are believed."""
        if address == LOCAL:
            return self._unix
        if not self._networks:
            return False
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def client(self, peer: str, headers: Headers) -> Client:
        """Return who sent a request over a connection of this peer.

        Of the addresses that proxies added, the client's is the last one that is not a trusted proxy. If
        `Forwarded` and `X-Forwarded-For` do not agree, one of them was not written by the proxy: then the
        client is the proxy itself.
        """
        if not self.trusts(peer):
            return Client(peer)
        found: dict[bytes, list[str]] = {}
        for name, value in headers:
            if name in _BELIEVED:
                found.setdefault(name, []).append(value.decode("latin-1"))
        if not found:
            return Client(peer)
        named = [part for line in found.get(b"x-forwarded-for", ()) for part in line.split(",")]
        elements = [element for line in found.get(b"forwarded", ()) for element in _elements(line)]
        address, _ = self._client(peer, named)
        other, index = self._client(peer, [element.get("for", "") for element in elements])
        element = elements[index] if elements else {}
        if named and elements and address != other:
            return Client(peer)
        host = element.get("host") or _last(found, b"x-forwarded-host")
        scheme = element.get("proto") or _last(found, b"x-forwarded-proto")
        return Client(
            address if named else other,
            _SCHEMES.get(scheme.lower()),
            host.encode() if _HOST.fullmatch(host) else None,
        )

    def _client(self, peer: str, named: list[str]) -> tuple[str, int]:
        """Return the address of the client, and the index of the part that names it."""
        address, index = peer, len(named) - 1
        for at in range(len(named) - 1, -1, -1):
            found = _address(named[at])
            if found is None:  # a proxy that does not say who its client is
                break
            address, index = found, at
            if not self.trusts(found):
                break
        return address, index


def plain_address(text: str) -> str:
    """Return an address in its usual form. A mapped IPv6 address is its IPv4 address."""
    try:
        found: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return text
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(found)


def _last(found: dict[bytes, list[str]], name: bytes) -> str:
    """Return the last value of a header that may be a list, "" if there is none."""
    return found[name][-1].rpartition(",")[2].strip() if name in found else ""


def _elements(line: str) -> list[dict[str, str]]:
    """Return the elements of a `Forwarded` header, each with its pairs by name."""
    return [
        {
            pair[1].lower(): _unquoted(pair[2]) if pair[2] is not None else pair[3]
            for pair in _PAIR.finditer(text)
        }
        for text in _ELEMENT.findall(line)
    ]


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _address(text: str) -> str | None:
    """Return an address that may have a port, None if it is not one (`unknown`, `_hidden`)."""
    text = text.strip().strip('"')
    try:
        return plain_address(str(ip_address(text)))
    except ValueError:
        form = _PORT.fullmatch(text)
    try:
        return plain_address(str(ip_address(form[1].strip("[]")))) if form else None
    except ValueError:
        return None

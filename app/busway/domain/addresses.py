"""Which addresses events may be sent to: public ones, and those that the operator allows."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from busway.domain.weburl import Address, WebURL, read_url

Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry, multicast, and the metadata address of Azure.
_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
            "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
        ),
    )
)  # fmt: skip
# Only this block has been given out. What it holds of tunnels, tests and documentation is not public.
_GLOBAL_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"))
)
_MAPPED, _TRANSLATED = IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")


def read_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks of `--allow-target`.

    Raises:
        ValueError: one is no address and no CIDR. The message says which.
    """
    found = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as problem:
            raise ValueError(f"must be an address or a CIDR such as 10.1.0.0/16: {problem}") from None
    return tuple(found)


class TargetNotAllowed(Exception):
    """Events may not be sent to this address. The message says why."""


class AllowedTargets:
    """Decides by addresses where events may be sent.

    Args:
        allowed: networks that are not public and may get events, and may get them without TLS.
    """

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def fault(self, text: str) -> str | None:
        """Return why a URL cannot be a target, None if its address has to be checked before each connection.

        The name of a host is not looked up.
        """
        try:
            url = read_url(text)
            if url.literal is not None:
                self.check(url, [url.literal])
            elif url.scheme == "http" and not self._allowed:
                return f"the URL must begin with https://: {_PLAIN}"
        except (ValueError, TargetNotAllowed) as problem:
            return str(problem)
        return None

    def check(self, url: WebURL, addresses: Iterable[Address]) -> None:
        """Check all addresses of the host of a URL.

        Raises:
            TargetNotAllowed: events may not be sent to one of them.
        """
        for address in addresses:
            inner = _inner(address)
            allowed = any(inner in network or address in network for network in self._allowed)
            if not allowed and not is_public(inner):
                named = "" if url.literal is not None else f"{url.host} is "
                raise TargetNotAllowed(
                    f"{named}{address}, which is not a public address: `busway serve --allow-target` "
                    "allows a network"
                )
            if not allowed and url.scheme == "http":
                raise TargetNotAllowed(f"events are sent to {url.host} only over https://: {_PLAIN}")


_PLAIN = "http:// needs an address that `busway serve --allow-target` allows"


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv6Address) and (address in _MAPPED or address in _TRANSLATED):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Return whether anybody on the Internet may have an address, which is not a mapped one."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _GLOBAL_6 and not any(address in network for network in _NOT_PUBLIC_6)

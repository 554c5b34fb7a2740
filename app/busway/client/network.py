"""Proxies and certificates that the environment names, for the clients and the command line.

httpx and websockets read these variables in different ways, and their errors do not name them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import httpx

from busway.client.errors import BuswayClientError
from busway.domain.loopback import is_loopback, resolvable

_SOCKS = {"socks5", "socks5h"}
_FORM = "http://proxy.example:3128"


class Network(NamedTuple):
    """How to reach a gateway.

    Attributes:
        proxy: the URL of the proxy, or None.
        variable: the variable that names the proxy, or an empty string.
        tls: the certificates for https, else None.
    """

    proxy: str | None = None
    variable: str = ""
    tls: ssl.SSLContext | None = None

    def for_httpx(self) -> dict[str, Any]:
        """Return arguments of httpx, with which it reads nothing from the environment."""
        return {"trust_env": False, "proxy": self.proxy, "verify": self.tls or False}


def address(url: str) -> str:
    """Return the URL of a gateway, without a slash at the end, and with `localhost` for all names of it.

    Raises:
        ValueError: the URL is invalid.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in {"http", "https"} or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError(f"url must be like http://127.0.0.1:8000, not {url!r}")
    if parts.scheme == "http" and resolvable(host) == "localhost":
        parts = parts._replace(netloc="localhost" if port is None else f"localhost:{port}")
    return parts.geturl().rstrip("/")


def network(url: str) -> Network:
    """Return how to reach an address. Loopback is always reached directly.

    Raises:
        BuswayClientError: a variable of the environment cannot be used. The message names it.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy, variable = None, ""
    proxies = getproxies_environment()
    if not is_loopback(host) and not _is_excluded(host, port, proxies.get("no", "")):
        scheme = parts.scheme if parts.scheme in proxies else "all"
        if scheme in proxies:
            variable = _variable(f"{scheme}_proxy")
            proxy = _checked(variable, proxies[scheme])
    return Network(proxy, variable, _certificates() if parts.scheme == "https" else None)


def _variable(name: str) -> str:
    return name if os.environ.get(name) else name.upper()


def _is_excluded(host: str, port: int, excluded: str) -> bool:
    for entry in re.split(r"[\s,]+", excluded.lower()):
        name = entry.removesuffix(f":{port}").lstrip("*").lstrip(".")
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))) or _is_in(host, entry):
            return True
    return False


def _is_in(host: str, entry: str) -> bool:
    """Return whether a host is an address of a network such as 10.0.0.0/8, or this very address."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False


def _checked(variable: str, value: str) -> str:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:
        valid = False
    if not valid or parts.scheme not in {"http", "https", *_SOCKS}:
        raise BuswayClientError(
            f"{variable} is not the URL of a proxy, such as {_FORM}: "
            "correct it, or add the gateway to NO_PROXY"
        )
    if parts.scheme in _SOCKS and not (find_spec("socksio") and find_spec("python_socks")):
        raise BuswayClientError(
            f"{variable} is a SOCKS proxy, which needs two more packages: pip install socksio python-socks, "
            "or add the gateway to NO_PROXY"
        )
    return url


def _certificates() -> ssl.SSLContext:
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    variable = "SSL_CERT_FILE" if file else "SSL_CERT_DIR" if folder else "SSLKEYLOGFILE"
    try:
        if file:
            return ssl.create_default_context(cafile=file)
        if folder:
            next(Path(folder).iterdir(), None)  # OpenSSL ignores a missing folder
            return ssl.create_default_context(capath=folder)
        return httpx.create_ssl_context(trust_env=False)
    except OSError as problem:
        if problem.filename is not None and problem.filename == os.environ.get("SSLKEYLOGFILE"):
            variable = "SSLKEYLOGFILE"
        why = problem.strerror or problem
        raise BuswayClientError(
            f"{variable} names a file that cannot be used, {os.environ.get(variable)!r}: {why}"
        ) from None

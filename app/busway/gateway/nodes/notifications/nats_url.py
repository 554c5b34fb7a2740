"""What `--broker-url` names: servers of NATS, and how to prove who we are."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from busway.gateway.nodes.notifications.nkeys import Identity, read_creds, read_nkey

PORT = 4222
_FORM = "must be like nats://HOST:4222 or tls://HOST:4222, several of them separated by commas"
_FILES = ("tls_ca", "tls_cert", "tls_key", "nkey", "creds")
T = TypeVar("T")


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server. `tls`: it must use TLS; otherwise it may. `user` without `password` is a token."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None

    @property
    def url(self) -> str:
        """Its address, without secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Servers that are one broker, and the files with what clients need."""

    servers: tuple[Server, ...]
    files: dict[str, Path]

    @property
    def url(self) -> str:
        """Its servers, without secrets."""
        return ",".join(server.url for server in self.servers)

    def context(self) -> ssl.SSLContext:
        """Return how to use TLS. The files are read again each time, so that certificates can change.

        Raises:
            ValueError: a file cannot be used. The text names its parameter.
        """

        def load(path: Path) -> ssl.SSLContext:
            return ssl.create_default_context(cafile=path)

        context = self._read("tls_ca", load) or ssl.create_default_context()
        key = self.files.get("tls_key")
        self._read("tls_cert", lambda path: context.load_cert_chain(path, key))
        return context

    def identity(self) -> Identity | None:
        """Return the nkey, None if there is none.

        Raises:
            ValueError: as from `context`.
        """
        return self._read("nkey", read_nkey) or self._read("creds", read_creds)

    def _read(self, name: str, read: Callable[[Path], T]) -> T | None:
        path = self.files.get(name)
        if path is None:
            return None
        try:
            return read(path)
        except OSError as problem:
            raise ValueError(f"{name}: the file {str(path)!r} cannot be used: {_why(problem)}") from None
        except ValueError as problem:
            raise ValueError(f"{name}: the file {str(path)!r} {problem}") from None


def read_broker(text: str) -> Broker:
    """Return what a broker URL names.

    Credentials of the first URL that has some are also those of URLs without. The parameters behind any URL
    hold for all.

    Raises:
        ValueError: it is not correct, or a file that it names cannot be used. The text has no secrets.
    """
    servers: list[Server] = []
    files: dict[str, Path] = {}
    for url in text.split(","):
        try:
            parts = urlsplit(url.strip())
            servers.append(_server(parts))
            given = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
        except ValueError:
            raise ValueError(_FORM) from None
        unknown = [name for name, _ in given if name not in _FILES]
        if unknown:
            raise ValueError(f"has an unknown parameter {unknown[0]!r}: there are {', '.join(_FILES)}")
        files |= {name: Path(value) for name, value in given}
    known = next((server for server in servers if server.user is not None), None)
    if known is not None:
        user, password = known.user, known.password
        servers = [
            server
            if server.user is not None
            else msgspec.structs.replace(server, user=user, password=password)
            for server in servers
        ]
    broker = Broker(servers=tuple(servers), files=files)
    if sum((known is not None, "nkey" in files, "creds" in files)) > 1:
        raise ValueError("has several of user, nkey and creds: one of them is enough")
    if "tls_key" in files and "tls_cert" not in files:
        raise ValueError("has a tls_key without tls_cert: add the certificate")
    broker.context()
    broker.identity()
    return broker


def _server(parts: SplitResult) -> Server:
    if parts.scheme not in {"nats", "tls"} or not parts.hostname or parts.path.strip("/") or parts.fragment:
        raise ValueError
    return Server(
        host=parts.hostname,
        port=parts.port or PORT,
        tls=parts.scheme == "tls",
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _why(problem: OSError) -> str:
    if isinstance(problem, ssl.SSLError):
        return "it is not in PEM form, or key and certificate differ"
    return problem.strerror or str(problem)

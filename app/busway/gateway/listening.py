"""The socket that the gateway listens on: a TCP port or a Unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

import uvloop

from busway.domain.loopback import is_loopback, resolvable
from busway.gateway.errors import BadSettings
from busway.gateway.settings import Settings
from busway.gateway.tls import HANDSHAKE_WITHIN, SHUTDOWN_WITHIN

_PROBE_WITHIN = 5.0  # seconds that a program behind an existing Unix socket has to accept a connection


class Loop(uvloop.Loop):
    """The event loop. Its TLS connections have deadlines of ours, because uvicorn sets none."""

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """Create a server, as documented for `asyncio`."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_WITHIN)
            options.setdefault("ssl_shutdown_timeout", SHUTDOWN_WITHIN)
        return await super().create_server(*args, **options)


class Listener:
    """A bound socket.

    Args:
        settings: name the port or the file.

    Attributes:
        socket: the socket.

    Raises:
        BadSettings: it cannot be bound.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._path = settings, settings.uds
        self._file: tuple[int, int] | None = None
        if self._path is None:
            self.socket = _bind(settings)
            return
        self.socket = _bind_unix(settings, self._path)
        self._file = _identity(self._path)

    @property
    def local(self) -> bool:
        """Whether only programs of this machine can connect."""
        return self._path is not None or is_loopback(self.socket.getsockname()[0])

    @property
    def address(self) -> str:
        """The URL of the gateway, or `unix:` and the path of its socket."""
        if self._path is not None:
            return f"unix:{self._path}"
        host, port = self.socket.getsockname()[:2]
        scheme = "http" if self._settings.tls_cert is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def curl(self) -> str:
        """The beginning of a command that sends requests here: `curl -s` and the URL, without a path."""
        if self._path is None:
            return f"curl -s {self.address}"
        scheme = "http" if self._settings.tls_cert is None else "https"
        return f"curl -s --unix-socket {self._path} {scheme}://localhost"

    def release(self) -> None:
        """Close the socket, and remove its file unless another program replaced it."""
        self.socket.close()
        if self._path is not None and self._file is not None and _identity(self._path) == self._file:
            self._path.unlink(missing_ok=True)


def _bind(settings: Settings) -> socket.socket:
    host = resolvable(settings.host)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as problem:
        where, why = f"{settings.host}:{settings.port}", getattr(problem, "strerror", None) or problem
        place = settings.place("host", "port")
        raise BadSettings(
            f"{place}cannot listen on {where}: {why}; choose another --host or --port"
        ) from None
    return listener


def _bind_unix(settings: Settings, path: Path) -> socket.socket:
    place = settings.place("uds")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path, place)
        before = os.umask(0o177)  # nobody else may connect before the mode is set
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        path.chmod(settings.uds_mode)
    except OSError as problem:
        why = problem.strerror or problem
        raise BadSettings(f"{place}cannot listen on {path}: {why}; choose another --uds") from None
    return listener


def _remove_stale(path: Path, place: str) -> None:
    """Remove the socket of a gateway that has ended.

    Raises:
        BadSettings: something else has this name.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BadSettings(f"{place}{path} is not a socket: remove it, or choose another --uds")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(_PROBE_WITHIN)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as problem:
            why = f"cannot be checked: {problem.strerror or problem}"
            raise BadSettings(f"{place}{path} {why}; remove it, or choose another --uds") from None
    raise BadSettings(f"{place}another program listens on {path}: stop it, or choose another --uds")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

"""The certificate of the gateway: read at start, and read again when its files change.

Handshakes use the newest valid pair of certificate and key. A pair that does not fit, such as one whose key
has not been written yet, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path

from cryptography import x509

log = logging.getLogger("busway.tls")

LOOK_EVERY = 2.0  # seconds
HANDSHAKE_WITHIN = 30.0  # seconds
SHUTDOWN_WITHIN = 5.0  # seconds that a client has to confirm the end of a connection


class CertificateError(ValueError):
    """The files are not a certificate and its key. The message says which file and why."""


class Certificate:
    """A certificate with its key, and the context of the server that uses it.

    Args:
        certificate: a PEM file: the certificate, then those of its issuers.
        key: a PEM file; None: the key is in the file of the certificate.

    Attributes:
        context: for the server.
        expires_at: seconds since 1970.
        reloads: how often a changed pair was taken.
        failures: how often a changed pair was refused.

    Raises:
        CertificateError: the files are not a valid pair.
    """

    def __init__(self, certificate: Path, key: Path | None = None) -> None:
        self._paths = (certificate, key or certificate)
        self._seen = self._taken = self._state()
        self.reloads = self.failures = 0
        self._current, self.expires_at = _load(*self._paths)
        self.context = _context(*self._paths)
        self.context.sni_callback = self._choose

    async def follow(self) -> None:
        """Read the files again whenever they change."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take a new pair if the files changed, and have not changed since the last look."""
        before, self._seen = self._seen, self._state()
        if self._seen != before or self._seen == self._taken:
            return  # both files may be written one after the other
        self._taken = self._seen
        try:
            self._current, self.expires_at = _load(*self._paths)
        except CertificateError as problem:
            self.failures += 1
            log.warning("%s; connections go on with the certificate before", problem)
            return
        self.reloads += 1
        log.info("new connections use the new certificate of %s", self._paths[0])

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _state(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(_file_state, self._paths))


def _file_state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _load(certificate: Path, key: Path) -> tuple[ssl.SSLContext, float]:
    """Return the context of a pair, and when its certificate expires.

    Raises:
        CertificateError: it is not a pair.
    """
    context = _context(certificate, key)
    try:
        first = x509.load_pem_x509_certificate(certificate.read_bytes())
        return context, first.not_valid_after_utc.timestamp()
    except (OSError, ValueError) as problem:
        raise CertificateError(f"the certificate {certificate} cannot be read: {problem}") from None


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    for what, path in (("certificate", certificate), ("key", key)):
        try:
            with path.open("rb"):
                pass
        except OSError as problem:
            raise CertificateError(f"the {what} {path} cannot be read: {problem.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    asked = False

    def password() -> str:  # without this, OpenSSL would ask on the terminal
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(os.fspath(certificate), os.fspath(key), password=password)
    except (ssl.SSLError, OSError, ValueError) as problem:
        if asked:
            raise CertificateError(f"the key {key} has a password: give one without") from None
        reason = getattr(problem, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"the key {key} is not that of the certificate {certificate}") from None
        raise CertificateError(
            f"{certificate} and {key} are not a certificate and its key in PEM form ({reason or problem})"
        ) from None
    return context

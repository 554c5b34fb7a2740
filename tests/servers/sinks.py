"""Receivers of webhooks: real sockets that answer as a test says, with TLS and HTTP/2 if wanted."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Behaviour = Callable[["Request"], bytes | None]
"""Returns the bytes to answer with, b"" to close, None to answer nothing."""


class Request:
    """A received request. `connection`: the number of its connection, from 0."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes, connection: int, peer: Any) -> None:
        self.path, self.headers, self.body, self.connection = path, headers, body, connection
        self.peer: socket.socket = peer


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer with a status, a body, and headers (`retry_after="1"`)."""
    fields = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *fields, "", ""])
    return lambda _: head.encode() + body


def ok(_: Request) -> bytes:
    return b"HTTP/1.1 204 No Content\r\n\r\n"


class Sink:
    """A receiver on a free port of 127.0.0.1. `requests` by path; `behaviours` by path, else 204."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._context = context
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self.requests: dict[str, list[Request]] = {}
        self.behaviours: dict[str, Behaviour] = {}
        self.connections = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def got(self, path: str) -> list[Request]:
        return self.requests.get(path, [])

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for peer in self._open:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                number, self.connections = self.connections, self.connections + 1
            threading.Thread(target=self._serve, args=(peer, number), daemon=True).start()

    def _serve(self, peer: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._context is not None:
                peer = self._context.wrap_socket(peer, server_side=True)
            with self._lock:
                self._open.add(peer)
            with peer:
                if isinstance(peer, ssl.SSLSocket) and peer.selected_alpn_protocol() == "h2":
                    self._http2(peer, number)
                else:
                    self._http1(peer, number)

    def _note(self, request: Request) -> bytes | None:
        with self._lock:
            self.requests.setdefault(request.path, []).append(request)
        return self.behaviours.get(request.path, ok)(request)

    def _http1(self, peer: socket.socket, number: int) -> None:
        with peer.makefile("rb") as reader:
            while line := reader.readline():
                path = line.split()[1].decode()
                headers = {}
                while field := reader.readline().strip().decode():
                    name, _, value = field.partition(":")
                    headers[name.lower()] = value.strip()
                body = reader.read(int(headers.get("content-length", 0)))
                answered = self._note(Request(path, headers, body, number, peer))
                if answered is None:
                    reader.read()
                if not answered:
                    return
                peer.sendall(answered)

    def _http2(self, peer: socket.socket, number: int) -> None:
        """Answer each request with 200, or not at all if its behaviour answers nothing."""
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        protocol.initiate_connection()
        peer.sendall(protocol.data_to_send())
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = {}
        while data := peer.recv(65_536):
            for event in protocol.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = {n.decode(): v.decode() for n, v in event.headers}
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    head, id_ = heads.pop(event.stream_id), event.stream_id
                    if self._note(Request(head[":path"], head, bodies.pop(id_), number, peer)) is None:
                        continue
                    protocol.send_headers(id_, [(":status", "200"), ("content-type", "application/json")])
                    protocol.send_data(id_, b'{"http": 2}', end_stream=True)
            peer.sendall(protocol.data_to_send())


@contextlib.contextmanager
def sink(context: ssl.SSLContext | None = None) -> Iterator[Sink]:
    made = Sink(context)
    try:
        yield made
    finally:
        made.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and localhost that signs itself. Return its file and its key's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sink")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "sink.pem", folder / "sink.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private


def sealed(private: bytes) -> bytes:
    """Return a key with a password."""
    return serialization.load_pem_private_key(private, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def server_context(public: Path, private: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context

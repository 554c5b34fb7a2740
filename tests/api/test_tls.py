"""TLS connections have the deadlines of others, and take a new certificate without a restart."""

import socket
import ssl
import threading

import pytest
from busway.gateway import listening
from busway.gateway.api.page_headers import page_headers
from busway.gateway.door.deadlines import TIMES, Times
from busway.gateway.tls import Certificate, CertificateError
from starlette.requests import Request

from tests.api.kit import HOST, PATIENCE, Direct, Peer, post, serving
from tests.servers import sinks

LOOP = "busway.gateway.listening:Loop"


@pytest.fixture
def pair(tmp_path):
    folder = tmp_path / "pair"
    folder.mkdir()
    return sinks.certificate(folder)


class TlsPeer(Peer):
    """A client that trusts one certificate."""

    def __init__(self, port, trusted, **versions):
        super().__init__(port)
        context = ssl.create_default_context(cafile=trusted)
        for name, version in versions.items():
            setattr(context, name, version)
        self.file.close()
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.file = self.sock.makefile("rb")


@pytest.fixture
def peers():
    """Connect; every connection is closed at the end."""
    made = []

    def connect(*arguments, **versions):
        made.append(TlsPeer(*arguments, **versions))
        return made[-1]

    yield connect
    for peer in made:
        peer.close()


def over(certificate, times=TIMES):
    app = Direct()
    app.times = times
    return serving(app, loop=LOOP, ssl_context_factory=lambda *_: certificate.context)


def test_requests_and_deadlines_are_those_without_tls(pair, peers, monkeypatch, caplog):
    monkeypatch.setattr(listening, "HANDSHAKE_WITHIN", 0.5)
    monkeypatch.setattr(listening, "SHUTDOWN_WITHIN", 0.5)
    with over(Certificate(*pair), Times(head=0.5)) as (port, server):
        peer = peers(port, pair[0])
        for body in (b"one", b"x" * 90_000):
            peer.send(post(body))
            assert peer.read()[:2] == (200, body)
        peer.send(b"GET /slow HTTP/1.1\r\n")
        assert peer.read()[0] == 408
        silent = peers(port, pair[0])
        assert silent.ended()
        slow = peers(port, pair[0])
        slow.send(post(b"12345")[:-2])
        assert slow.read()[0] == 408  # the body stands still: Echo.idle
        for half_open in (b"", b"\x16\x03\x01"):  # no handshake, and a part of one
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
                raw.sendall(half_open)
                assert raw.recv(100) == b""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
        half_closed = peers(port, pair[0])
        half_closed.send(post(b"later"))
        half_closed.sock.unwrap()  # ends both ways: nobody waits for the answer
        done = threading.Event()
        while server.server_state.connections and not done.wait(0.02):
            pass
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


def test_versions_before_1_2_are_refused(pair, peers):
    with over(Certificate(*pair)) as (port, _):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            peer = peers(port, pair[0], minimum_version=version, maximum_version=version)
            peer.send(post(b"x"))
            assert peer.read()[0] == 200
        context = Certificate(*pair).context
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def replace(pair, folder):
    folder.mkdir()
    for old, new in zip(pair, sinks.certificate(folder), strict=True):
        new.replace(old)


def test_a_changed_pair_is_taken_for_new_connections_and_a_bad_one_is_not(pair, peers, tmp_path, caplog):
    certificate = Certificate(*pair)
    with over(certificate) as (port, _):

        def served():
            return ssl.get_server_certificate(("127.0.0.1", port))

        def look(times=2):
            for _ in range(times):
                certificate.look()
            return certificate.reloads, certificate.failures

        first, kept = served(), peers(port, pair[0])
        assert look() == (0, 0)
        replace(pair, tmp_path / "second")
        assert look(1) == (0, 0)  # the other file may not be written yet
        assert look(1) == (1, 0)
        second = served()
        assert second != first
        kept.send(post(b"still"))
        assert kept.read()[1] == b"still"
        pair[1].write_bytes(sinks.certificate(tmp_path)[1].read_bytes())  # not its key
        assert look(6) == (1, 1)
        assert "is not that of the certificate" in caplog.text
        pair[0].unlink()
        assert look(4) == (1, 2)
        assert served() == second
        assert len([record for record in caplog.records if "go on with" in record.message]) == 2
        pair[0].touch()
        replace(pair, tmp_path / "third")
        assert look() == (2, 2)
        assert served() not in {first, second}


BAD = {
    "no certificate": (b"", None, "are not a certificate and its key"),
    "no key": (None, b"x", "are not a certificate and its key"),
    "another key": (None, "other", "is not that of the certificate"),
    "a key with a password": (None, "sealed", "has a password"),
    "no file": ("gone", None, "cannot be read: No such file"),
    "a folder": ("folder", None, "cannot be read: Is a directory"),
}


def write(path, content, folder):
    """Replace a file by what a bad pair has instead."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "other":
        (folder / "o").mkdir()
        path.write_bytes(sinks.certificate(folder / "o")[1].read_bytes())
    elif content == "sealed":
        path.write_bytes(sinks.sealed(path.read_bytes()))
    elif content is not None:
        path.unlink()
        if content == "folder":
            path.mkdir()


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_pair_is_refused_in_one_line(pair, tmp_path, name):
    public, private, says = BAD[name]
    write(pair[0], public, tmp_path)
    write(pair[1], private, tmp_path)
    with pytest.raises(CertificateError, match=says) as refusal:
        Certificate(*pair)
    assert "\n" not in str(refusal.value)


def test_certificate_and_key_may_be_one_file(pair):
    pair[0].write_bytes(pair[0].read_bytes() + pair[1].read_bytes())
    assert Certificate(pair[0]).expires_at > 0


@pytest.mark.parametrize(
    ("scheme", "host", "strict"),
    [
        ("https", "bus.example", True),
        ("http", "bus.example", False),
        ("https", "localhost:8443", False),
        ("https", "[::1]:8443", False),
    ],
)
def test_browsers_are_told_to_use_https_only_where_it_is_the_only_program_of_a_host(scheme, host, strict):
    scope = {"type": "http", "scheme": scheme, "headers": [(b"host", host.encode())]}
    assert ("Strict-Transport-Security" in page_headers(Request(scope))) is strict

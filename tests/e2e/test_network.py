"""Proxies and certificates in a developer's shell: never for loopback, and named when they cannot be used."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from busway import BuswayClientError, SyncClient
from busway.client.network import Network, network

from tests import forked

from .service import PATIENCE, Service, clean_environment
from .test_command_line import busway

pytestmark = pytest.mark.one_database("proxies and certificates of clients")

VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
)
SHELLS: dict[str, dict[str, str]] = {
    "socks": {"ALL_PROXY": "socks5://127.0.0.1:9"},
    "small letters": {"all_proxy": "socks5h://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
    "a proxy that is gone": {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
    "garbage": {"HTTP_PROXY": "garbage", "HTTPS_PROXY": "://", "ALL_PROXY": "http://[::1"},
    "networks": {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "10.0.0.0/8,::1/128,[fe80::1],*.x,/,:"},
    "files that are gone": {
        "SSL_CERT_FILE": "/nowhere",
        "SSL_CERT_DIR": "/nowhere",
        "SSLKEYLOGFILE": "/nowhere/x",
    },
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("network"), workers=1)
    service.write("all.py", "from busway import handler\n@handler('t')\ndef h(event): return event.data\n")
    yield service.start()
    service.close()


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without these variables."""
    for name in (*VARIABLES, "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", SHELLS)
def test_no_variable_keeps_the_commands_from_loopback(service: Service, name: str) -> None:
    assert busway("publish", "t", "--data=1", f"--url={service.url}", **SHELLS[name]).returncode == 0
    assert busway("handlers", "--json", f"--url={service.url}", **SHELLS[name]).returncode == 0
    tail = [sys.executable, "-m", "busway", "tail", "--json", "--after=earliest", f"--url={service.url}"]
    with forked.Popen(
        tail, stdout=subprocess.PIPE, text=True, env={**clean_environment(), **SHELLS[name]}
    ) as running:
        assert running.stdout
        assert json.loads(running.stdout.readline())["data"] == 1
        running.terminate()


@pytest.mark.parametrize("name", SHELLS)
def test_no_variable_keeps_the_client_from_loopback(
    service: Service, shell: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in SHELLS[name].items():
        shell.setenv(variable, value)
    with SyncClient(service.url) as client:
        assert client.wait("t", 7).results[0].data == 7


@pytest.mark.parametrize(
    ("variable", "value", "url"),
    [
        ("HTTP_PROXY", "ftp://proxy:1", "http://bus.example"),
        ("http_proxy", "http://", "http://bus.example"),
        ("HTTP_PROXY", "http://[::1", "http://bus.example"),
        ("HTTP_PROXY", "http://proxy:x", "http://bus.example"),
        ("HTTP_PROXY", "two words", "http://bus.example"),
        ("HTTPS_PROXY", "://", "https://bus.example"),
        ("ALL_PROXY", "socks4://proxy:1", "https://bus.example"),
        ("ALL_PROXY", "socks5://proxy:1", "http://bus.example"),
        ("SSL_CERT_FILE", "/nowhere", "https://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/etc/passwd", "https://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/", "https://127.0.0.1:9"),
        ("SSL_CERT_DIR", "/nowhere", "https://127.0.0.1:9"),
        ("SSLKEYLOGFILE", "/nowhere/x", "https://127.0.0.1:9"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    shell: pytest.MonkeyPatch, variable: str, value: str, url: str
) -> None:
    shell.setenv(variable, value)
    with pytest.raises(BuswayClientError, match=f"^{variable} "):
        SyncClient(url)


@pytest.mark.parametrize("words", [("publish", "t"), ("handlers",), ("tail",)])
def test_the_commands_name_it_too(words: tuple[str, ...]) -> None:
    for variable, value in (("HTTPS_PROXY", "socks5://proxy:1"), ("SSL_CERT_FILE", "/nowhere")):
        done = busway(*words, "--url=https://bus.example", **{variable: value})
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(f"busway: {variable} ")


@pytest.mark.parametrize(
    ("url", "excluded", "proxied"),
    [
        ("http://bus.example", "", True),
        ("http://bus.example", "bus.example", False),
        ("http://bus.example", "example", False),
        ("http://bus.example", ".example", False),
        ("http://bus.example", "*.example", False),
        ("http://bus.example", "*", False),
        ("http://bus.example", "us.example", True),
        ("http://BUS.example", "Bus.Example", False),
        ("http://bus.example:8000", "bus.example:8000", False),
        ("http://bus.example:8000", "bus.example:9000", True),
        ("http://bus.example", "other, bus.example", False),
        ("http://10.1.2.3", "10.0.0.0/8", False),
        ("http://11.1.2.3", "10.0.0.0/8,,/", True),
        ("http://10.1.2.3", "10.1.2.3", False),
        ("http://[fd00::1]", "fd00::/8", False),
        ("http://[fd00::1]", "[fd00::1]", False),
        ("http://bus.example", "10.0.0.0/8", True),
        ("http://localhost", "", False),
        ("http://LOCALHOST.:8000", "", False),
        ("http://app.localhost", "", False),
        ("http://127.1", "", False),
        ("http://[::1]:8000", "", False),
        ("http://[::ffff:127.0.0.1]", "", False),
        ("http://localhost.evil.com", "", True),
    ],
)
def test_who_is_reached_through_the_proxy(
    shell: pytest.MonkeyPatch, url: str, excluded: str, proxied: bool
) -> None:
    shell.setenv("HTTP_PROXY", "proxy.example:3128")
    shell.setenv("NO_PROXY", excluded)
    reach = Network("http://proxy.example:3128", "HTTP_PROXY") if proxied else Network()
    assert network(url) == reach


def test_the_variable_for_a_scheme_wins(shell: pytest.MonkeyPatch) -> None:
    shell.setenv("ALL_PROXY", "http://all.example")
    assert network("http://bus.example").variable == "ALL_PROXY"
    shell.setenv("http_proxy", "https://one.example")
    assert network("http://bus.example") == Network("https://one.example", "http_proxy")
    assert network("https://bus.example").proxy == "http://all.example"
    assert network("https://bus.example").tls is not None


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.", "app.localhost", "127.1", "0x7f.1"])
def test_all_spellings_of_loopback_are_reached(
    service: Service, shell: pytest.MonkeyPatch, host: str
) -> None:
    shell.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with SyncClient(f"HTTP://{host}:{service.options['port']}/") as client:
        assert client.wait("t", 7).results[0].data == 7


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a:x", "http://a b", "localhost:8000", "x"])
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url must be like http://"):
        SyncClient(url)
    done = busway("handlers", BUSWAY_URL=url)
    assert done.returncode in {1, 2}
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that notes the first line of each request and refuses it."""
    lines: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                lines.append(peer.recv(65536).split(b"\r\n")[0])
                peer.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", lines
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(PATIENCE)


def test_other_gateways_are_reached_through_the_proxy(
    shell: pytest.MonkeyPatch, proxy: tuple[str, list[bytes]]
) -> None:
    url, lines = proxy
    shell.setenv("HTTP_PROXY", url)
    with SyncClient("http://bus.example:8000") as client:
        with pytest.raises(BuswayClientError, match="502"):
            client.publish("t")
        with pytest.raises(BuswayClientError, match="the proxy in HTTP_PROXY"):
            client.subscribe("t").open()
    assert lines == [b"POST http://bus.example:8000/v1/events HTTP/1.1", b"CONNECT bus.example:8000 HTTP/1.1"]


def test_a_proxy_that_is_gone_is_named(shell: pytest.MonkeyPatch, unused: str) -> None:
    shell.setenv("ALL_PROXY", unused)
    with SyncClient("http://bus.example:8000") as client:
        for call in (lambda: client.publish("t"), lambda: client.subscribe("t").open()):
            with pytest.raises(BuswayClientError, match="the proxy in ALL_PROXY"):
                call()
    done = busway("handlers", "--url=http://bus.example:8000", ALL_PROXY=unused)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "ALL_PROXY" in done.stderr


@pytest.fixture
def unused() -> Iterator[str]:
    """The address of a port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"

"""HTTPS and Unix sockets of a running gateway, and starts that are refused."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from busway import Client
from websockets.sync.client import unix_connect

from tests import forked
from tests.servers import sinks

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment, hear, say, until

HANDLER = "from busway import handler\n\n@handler('t')\ndef ok(event):\n    return 1\n"


def replaced(pair: tuple[Path, Path], folder: Path) -> None:
    """Put another certificate and its key in the place of these."""
    folder.mkdir()
    for old, new in zip(pair, sinks.certificate(folder), strict=True):
        new.replace(old)


def command(service: Service, *words: str, **variables: str) -> Any:
    environment = {**clean_environment(), "BUSWAY_URL": service.own_url, **variables}
    return forked.run(
        [sys.executable, "-m", "busway", *words], capture_output=True, text=True, timeout=PATIENCE,
        check=False, env=environment,
    )  # fmt: skip


async def followed(url: str) -> Any:
    async with Client(url) as client, asyncio.timeout(PATIENCE):
        await client.publish("t")
        return (await anext(client.subscribe("t", after="earliest"))).data


def test_clients_speak_https_and_wss_and_a_new_certificate_needs_no_restart(
    make_service: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    pair = sinks.certificate(tmp_path / "own")
    service = make_service(workers=1, tls_cert=pair[0], tls_key=pair[1])
    service.write("code.py", HANDLER)
    service.start()
    assert service.own_url.startswith("https://127.0.0.1:")
    trusted = str(pair[0])
    done = command(service, "publish", "t", SSL_CERT_FILE=trusted)
    assert (done.returncode, '"seq": 1' in done.stdout) == (0, True), done.stderr
    done = command(service, "publish", "t")
    assert (done.returncode, "certificate" in done.stderr, len(done.stderr.splitlines())) == (1, True, 1)
    monkeypatch.setenv("SSL_CERT_FILE", trusted)
    assert asyncio.run(followed(service.own_url)) == 1
    with service.connect(ssl=ssl.create_default_context(cafile=trusted)) as socket_:
        say(socket_, op="ping")
        assert hear(socket_) == {"op": "pong"}
    old = service.client.get(service.own_url + "/metrics").text
    assert "busway_tls_reload_failures_total 0.0" in old
    assert "busway_tls_certificate_expiry_seconds" in old
    port = int(service.own_url.rpartition(":")[2])
    first = ssl.get_server_certificate(("127.0.0.1", port))
    replaced(pair, tmp_path / "second")
    until(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != first, "the new certificate")
    pair[1].write_text("no key")
    lines = ("busway_tls_reloads_total 1.0", "busway_tls_reload_failures_total 1.0")
    until(
        lambda: all(line in service.client.get(service.own_url + "/metrics").text for line in lines),
        "the refused key",
    )
    service.logged("connections go on with the certificate before")
    assert service.stop() == 0


class UnixService(Service):
    """A gateway on a Unix socket."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.path: Path = self.options["uds"]
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=str(self.path)), timeout=PATIENCE)
        self.own_url = "http://localhost"

    def announced(self) -> Service:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(f"busway unix:{self.path}  pool"), line + self.log.read_text()[-2000:]
        until(lambda: self.client.get(f"{self.own_url}/readyz").status_code == 200, "readiness")
        return self


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[UnixService]:
    made = UnixService(tmp_path, uds=tmp_path / "bus.sock", workers=1, trusted_proxies="unix")
    made.write("code.py", HANDLER)
    yield made
    made.close()


@pytest.mark.one_node("its nodes would share one Unix socket")
def test_a_unix_socket_is_local_and_is_gone_at_the_end(unix: UnixService) -> None:
    service = unix
    with socket.socket(socket.AF_UNIX) as stale:  # of a gateway that was killed
        stale.bind(str(service.path))
    service.start()
    assert stat.S_IMODE(service.path.stat().st_mode) == 0o600
    receipt = service.publish("t")
    assert service.run_of(receipt["seq"])["state"] == "succeeded"
    assert service.get("/v1/events", headers={"Host": "evil.example"}).status_code == 421
    assert service.get("/v1/events", headers={"X-Forwarded-For": "1.2.3.4"}).status_code == 421
    with unix_connect(str(service.path), "ws://localhost/v1/subscribe", compression=None) as socket_:
        say(socket_, op="ping")
        assert hear(socket_) == {"op": "pong"}
    second = UnixService(service.folder, uds=service.path, database_url="sqlite:///second.db")
    second.database_url = f"sqlite:///{service.folder}/second.db"
    second.log = service.folder / "second.log"
    process = second.launch()
    assert process.wait(PATIENCE) == 2
    assert process.stdout is not None
    process.stdout.close()
    assert "--uds: another program listens on" in second.log.read_text()
    second.client.close()
    # Behind a proxy at the other end of the socket, the client is who the proxy says.
    service.key = service.ok("POST", "/v1/keys", {"name": "me", "scopes": ["admin"]})["key"]
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    signed_in = service.client.post("http://localhost/v1/session", json={"key": service.key}, headers=headers)
    assert signed_in.headers["set-cookie"].startswith("__Host-busway_session=")
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    assert service._reap() == 0
    assert not service.path.exists()
    service.options["uds_mode"] = "660"
    service.start()
    assert stat.S_IMODE(service.path.stat().st_mode) == 0o660


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"uds": "FOLDER/plain"}, "is not a socket"),
    ({"uds": "FOLDER/none/bus.sock"}, "cannot listen on"),
    ({"uds": "FOLDER/" + "long" * 30}, "cannot listen on"),
    ({"uds": "FOLDER/bus.sock", "uds_mode": "rw"}, "--uds-mode: must be three octal digits"),
    ({"tls_key": "FOLDER/plain"}, "--tls-key: the key needs its certificate"),
    ({"tls_cert": "FOLDER/plain"}, "--tls-cert: "),
    ({"tls_cert": "FOLDER/none", "tls_key": "FOLDER/plain"}, "--tls-cert, --tls-key: the certificate"),
    ({"trusted_proxies": "proxy.example"}, "--trusted-proxies: must be"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_wrong_settings_end_the_start_with_one_line(
    make_service: Serve, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    (tmp_path / "plain").write_text("plain")
    service = make_service(
        **{name: value.replace("FOLDER", str(tmp_path)) for name, value in options.items()}
    )
    process = service.launch()
    assert process.wait(PATIENCE) == 2
    assert process.stdout is not None
    process.stdout.close()
    told = service.log.read_text()
    assert says in told
    assert len(told.splitlines()) == 1

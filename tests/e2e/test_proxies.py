"""The configurations of `examples/deploy` for reverse proxies: real proxies before a real gateway."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from .proxies import nginx_for, running
from .service import PATIENCE, Service, until, unused_port
from .test_command_line import busway
from .test_transport import UnixService

pytestmark = pytest.mark.one_database("has a proxy in front of the gateway")

FILES = Path(__file__).parents[2] / "examples/deploy"
NAME = "busway.example.com"
CODE = """
from busway import handler

@handler("t", "live")
def echo(event):
    return event.data
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("proxied"), workers=1, max_event_bytes=16 << 20)
    service.write("echo.py", CODE)
    url = f"--database-url={service.database_url}"
    made = busway("keys", "create", "proxied", "--create", url, cwd=service.folder)
    service.key = next(word for word in made.stdout.split() if word.startswith("bw_"))
    service.start()
    yield service
    service.close()


def nginx(folder: Path, port: int, gateway: str) -> list[str]:
    site = (FILES / "nginx.conf").read_text(encoding="utf-8")
    return nginx_for(folder, site.replace("127.0.0.1:8000", gateway), port)


def caddy(folder: Path, port: int, gateway: str) -> list[str]:
    site = (FILES / "Caddyfile").read_text(encoding="utf-8")
    site = site.replace(f"\n{NAME} {{", f"\nhttp://{NAME}:{port} {{").replace("127.0.0.1:8000", gateway)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + site, encoding="utf-8")
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a proxy before the gateway."""
    configure: Callable[[Path, int, str], list[str]] = request.param
    folder, port = tmp_path_factory.mktemp("proxy"), unused_port()
    with running(folder, port, configure(folder, port, service.url.removeprefix("http://"))):
        yield port


@pytest.fixture
def client(proxy: int, service: Service) -> Iterator[httpx.Client]:
    headers = {"Host": f"{NAME}:{proxy}", "Authorization": f"Bearer {service.key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{proxy}", headers=headers, timeout=PATIENCE) as client:
        yield client


def test_probes_need_no_key(client: httpx.Client, proxy: int) -> None:
    for path in ("/healthz", "/readyz"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 200
    assert client.get("/v1/events", headers={"Authorization": ""}).status_code == 401


def test_large_events_and_streams_go_through(client: httpx.Client) -> None:
    large = client.post("/v1/events", json={"type": "t", "data": "x" * (4 << 20)})
    assert large.status_code == 202, large.text

    def streamed() -> Iterator[bytes]:
        yield b'[{"type": "t", "data": 1}, '
        yield b'{"type": "t", "data": 2}]'

    sent = client.post("/v1/events", content=streamed(), headers={"Content-Type": "application/json"})
    assert len(sent.json()["items"]) == 2


def test_results_arrive_over_websockets_as_they_come(
    client: httpx.Client, proxy: int, service: Service
) -> None:
    headers = {"Authorization": f"Bearer {service.key}"}
    with socket.create_connection(("127.0.0.1", proxy), PATIENCE) as sock:
        url = f"ws://{NAME}:{proxy}/v1/subscribe?types=live&after=latest"
        with connect(url, sock=sock, additional_headers=headers, origin=f"http://{NAME}:{proxy}") as socket_:
            assert json.loads(socket_.recv(PATIENCE))["op"] == "subscribed"
            seq = client.post("/v1/events", json={"type": "live", "data": "ws"}).json()["seq"]
            frame = json.loads(socket_.recv(PATIENCE))
            assert [(item["event"]["seq"], item["data"]) for item in frame["items"]] == [(seq, "ws")]


def test_results_arrive_over_server_sent_events_as_they_come(client: httpx.Client) -> None:
    with client.stream("GET", "/v1/subscribe/sse?types=live&after=latest") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        for n in range(3):
            seq = client.post("/v1/events", json={"type": "live", "data": n}).json()["seq"]
            data = (json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:"))
            item = next(each for each in data if "event" in each)
            assert (item["event"]["seq"], item["data"]) == (seq, n)


def test_nginx_reaches_a_unix_socket_and_says_who_its_clients_are(tmp_path: Path) -> None:
    service = UnixService(tmp_path, uds=tmp_path / "bus.sock", workers=1, trusted_proxies="unix")
    try:
        service.start()
        service.key = service.ok("POST", "/v1/keys", {"name": "me", "scopes": ["admin"]})["key"]
        site = (FILES / "nginx-unix.conf").read_text(encoding="utf-8")
        site = site.replace("unix:/run/busway/busway.sock", f"unix:{service.path}")
        port = unused_port()
        with running(tmp_path, port, nginx_for(tmp_path, site, port)):
            url, wrong = f"http://127.0.0.1:{port}/v1/session", {"key": "bw_1_x"}
            refused = until(lambda: (r := httpx.post(url, json=wrong)).status_code == 429 and r, "the limit")
            assert refused.json()["title"] == "Too many requests"
            elsewhere = {"X-Forwarded-For": "192.0.2.1"}  # what a client says of itself does not count
            assert httpx.post(url, json=wrong, headers=elsewhere).status_code == 429
            assert service.client.post("http://localhost/v1/session", json=wrong).status_code == 401
    finally:
        service.close()

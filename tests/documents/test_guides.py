"""The guides for common jobs and for moving here, word by word, on one gateway with the handlers of all."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.e2e import proxies
from tests.e2e.service import Service, clean_environment
from tests.marks import few
from tests.ports import unused_port

from .console import Reader, blocks

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = (
    "resize-images", "stream-tokens", "github", "nightly-report", "fan-in",
    "from-celery", "from-fastapi", "from-sockets",
)  # fmt: skip


class Model(BaseHTTPRequestHandler):
    """A language model that is busy at first, and then streams its answer as chat completions do."""

    requests = 0

    def do_POST(self) -> None:
        """Answer a question."""
        type(self).requests += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        busy = self.requests == 1 or self.headers["Authorization"] != "Bearer key of the model"
        self.send_response(429 if busy else 200)
        self.send_header("Retry-After", "0")
        self.end_headers()
        if not busy:
            for word in ("An event ", "is a fact ", "that has happened."):
                self.wfile.write(b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % word.encode())
            self.wfile.write(b'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n\n')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (as its base)
        """Print nothing."""


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("guides"), workers=2)
    for guide in GUIDES:
        for block in blocks(DOCS / f"{guide}.md"):
            if file := re.match(r"# handlers/(\S+)\n", block.text):
                assert not (service.handlers / file[1]).exists(), f"two guides have a file {file[1]}"
                service.write(file[1], block.text)
    service.variables = {
        "LLM_URL": model,
        "BUSWAY_SECRET_LLM_KEY": "key of the model",
        "SHOP_DB": str(service.folder / "shop.db"),
    }
    yield service.start()
    service.close()


@pytest.mark.parametrize("guide", few(GUIDES, "fan-in"))
def test_each_command_of_a_guide_prints_what_it_shows(service: Service, guide: str, tmp_path: Path) -> None:
    variables = {
        **clean_environment(), **service.variables, "BUSWAY_URL": service.url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    reader = Reader(tmp_path, variables, service.url)
    try:
        for block in blocks(DOCS / f"{guide}.md"):
            reader.follow(block)
    finally:
        reader.close()


def test_a_proxy_opens_the_path_of_webhooks_only(service: Service, tmp_path: Path) -> None:
    (location,) = (block.text for block in blocks(DOCS / "github.md") if block.language == "nginx")
    there = location.replace("http://127.0.0.1:8000", service.url)
    port = unused_port()
    command = proxies.nginx_for(tmp_path, f"server {{ listen 80; {there} }}", port)
    with proxies.running(tmp_path, port, command):
        outside = f"http://127.0.0.1:{port}"
        refused = service.client.post(f"{outside}/v1/hooks/nobody", json={})
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
        assert service.client.get(f"{outside}/v1/status").status_code == 404
        assert service.client.get(f"{outside}/v1/hooks/../events").status_code == 404


def test_the_code_before_a_move_runs() -> None:
    for guide in ("from-fastapi", "from-sockets"):
        (before,) = (b for b in blocks(DOCS / f"{guide}.md") if re.match(r"(from|import) ", b.text))
        exec(compile(before.text, guide, "exec"), {"__name__": guide})


IN_MEMORY = {"redis://localhost/0": "memory://", "redis://localhost/1": "cache+memory://"}
CELERY = """
import sys
from celery.contrib.testing.worker import start_worker

sent, up = [], iter([False, True, True])
names = {"__name__": "tasks", "send": lambda *mail: sent.append(mail), "mail_server_is_up": lambda: next(up)}
exec(sys.stdin.read(), names)
again = names["send_welcome"].apply(args=["ada@example.com"])
assert (again.get(), len(sent)) == ({"sent_to": "ada@example.com"}, 1)
with start_worker(names["app"], pool="solo", perform_ping_check=False):
    assert names["send_welcome"].delay("bob@example.com").get(timeout=60) == {"sent_to": "bob@example.com"}
"""


@pytest.mark.long
def test_the_code_before_a_move_from_celery(tmp_path: Path) -> None:
    """It runs with Celery as the benchmark has it, and with a broker in memory instead of Redis."""
    environment = tmp_path / "celery"
    venv.create(environment, with_pip=True)
    (tmp_path / "celery.lock").write_text(locked_for("celery"), encoding="utf-8")
    python = environment / "bin/python"
    install = (*("-m", "pip", "install", "--quiet", "--require-hashes"), "-r", tmp_path / "celery.lock")
    subprocess.run([python, *install], check=True)
    (code,) = (b.text for b in blocks(DOCS / "from-celery.md") if b.text.startswith("# tasks.py\n"))
    for address, ours in IN_MEMORY.items():
        code = code.replace(address, ours)
    done = subprocess.run([python, "-c", CELERY], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def locked_for(name: str) -> str:
    """Return the entries of the benchmark's lock for a package and what it needs."""
    lock = (DOCS.parent / "benchmarks/peers.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^(\S+?)==(.*\n(?: .*\n)+)", lock, re.MULTILINE)
    needed, before = {name}, 0
    while len(needed) > before:
        before = len(needed)
        needed |= {
            each for each, text in entries if needed & {*re.findall(r"^ .*?([\w.-]+)$", text, re.MULTILINE)}
        }
    return "".join(f"{each}=={text}" for each, text in entries if each in needed)


def test_the_application_after_a_move_from_fastapi(service: Service, tmp_path: Path) -> None:
    (after,) = (b for b in blocks(DOCS / "from-fastapi.md") if b.text.startswith("# main.py\n"))
    code = after.text.replace("http://127.0.0.1:8000", service.url)
    (tmp_path / "main.py").write_text(code, encoding="utf-8")
    app = runpy.run_path(str(tmp_path / "main.py"))["app"]

    async def scenario() -> None:
        inside = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=inside) as client:
            first, second = [await client.post("http://shop/invoices/17") for _ in range(2)]
            assert (first.status_code, first.json()) == (202, {"id": "invoice-17", "again": False})
            assert second.json()["again"]
            assert (await client.get("http://shop/invoices/17")).json() == {"pdf": "invoice-17.pdf"}

    asyncio.run(scenario())


def test_the_commands_of_each_page_are_run() -> None:
    pages = {page.stem for page in DOCS.glob("*.md") if any(b.language == "console" for b in blocks(page))}
    assert pages - {"tutorial", "commands"} <= {*GUIDES}, (
        "add it to GUIDES"
    )  # these two have tests of their own

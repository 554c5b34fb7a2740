"""The examples of docs/clients.md run as they stand; those in JavaScript are in tests/browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.subscribers.stream import Reader

from .service import PATIENCE, Service, clean_environment

pytestmark = pytest.mark.one_database("examples of the docs")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
THERE = "http://127.0.0.1:8000"


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("pages"), handlers=ROOT / "examples" / "handlers")
    yield service.start()
    service.close()


@pytest.mark.long
@pytest.mark.parametrize("number", range(5))
def test_an_example_in_python_runs(service: Service, number: int) -> None:
    assert len(examples("python")) == 5
    program = examples("python")[number].replace(THERE, service.url)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.long
def test_the_commands_are_as_the_page_says(service: Service) -> None:
    commands = [line for block in examples("sh") for line in block.splitlines() if line.startswith("busway ")]
    assert len(commands) == 3
    for command in commands:
        with subprocess.Popen(
            ["bash", "-c", f"exec {command.replace('busway', f'{sys.executable} -m busway', 1)}"],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**clean_environment(), "BUSWAY_URL": service.url},
        ) as running:  # fmt: skip
            assert running.stdout
            if "--correlationid" not in command:  # nothing has that one
                assert "order.created" in running.stdout.readline()
            running.terminate()


def test_the_stream_is_as_the_page_says(service: Service) -> None:
    service.finished(service.publish("order.created", {"item": "pen", "quantity": 1})["seq"])
    address = next(re.search(r"'(.*)'", block) for block in examples("sh") if block.startswith("curl"))
    assert address
    reader, names = Reader(), set[str]()
    with service.client.stream("GET", address[1].replace(THERE, service.url)) as answer:
        chunks = answer.iter_raw()
        while "message" not in names:
            names |= {event.name for event in reader.feed(next(chunks))}
    assert names <= {"subscribed", "message", "moved"}
    head = service.request("HEAD", "/v1/subscribe/sse")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    for name in ("subscribed", "gap", "moved", "close"):
        assert f"| `{name}` |" in PAGE

"""The shell lines of README and docs work as they stand there; those of other tests are named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.marks import few

from .service import PATIENCE, Service, clean_environment

pytestmark = pytest.mark.one_database("lines of the docs")

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {
    r"make (run|bench)": "tests/e2e/examples.py; the benchmark is no test",
    r"pip install|python3 -m venv|/opt/busway": "tests/packaging",
    r"docker|cp |systemctl|journalctl|cd ": "tests/packaging checks these files without Docker and systemd",
    r"createdb|busway (export|import) |.*postgresql://": "tests/e2e/test_moving.py and test_postgres.py",
    r"curl .*/v1/keys": "tests/e2e/test_access.py: it ends open access",
    r"curl .*/v1/session": "tests/e2e/test_sessions.py: an open gateway has nothing to sign in to",
    r"busway serve .*--(uds|tls-cert)|curl --unix-socket": "tests/e2e/test_transport.py",
    r"OTEL_EXPORTER_OTLP_ENDPOINT=": "tests/e2e/test_traces.py",
    r"curl -H 'Authorization: Bearer bw_…' …": "it is no whole command",
}
README_HANDLER = """
from busway import Context, handler

@handler("order.created", timeout=30, max_attempts=5)
def invoice(event, ctx: Context):
    return {"pages": 1}
"""


def lines() -> Iterator[tuple[str, str]]:
    """Each line of a `sh` block, with the name of its page."""
    for page in PAGES:
        for block in re.findall(
            r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            for line in block.replace("\\\n", " ").splitlines():
                if not any(re.match(pattern, line) for pattern in ELSEWHERE):
                    yield page.name, line


README = [case for case in lines() if case[0] == "README.md"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("lines"), workers=1)
    service.write("invoices.py", README_HANDLER)
    yield service.start()
    service.close()


@pytest.fixture(scope="module")
def shell(service: Service, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder in which the lines run, and their variables."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("bin", ".venv/bin", "handlers", "my/handlers"):
        (folder / name).mkdir(parents=True)
    for name in ("bin/busway", ".venv/bin/busway"):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m busway "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    (folder / "events.ndjson").write_text('{"type": "nobody"}\n' * 1_000, encoding="utf-8")
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return folder, {**clean_environment(), "PATH": path, "BUSWAY_URL": service.url, "BUSWAY_PORT": "0"}


@pytest.mark.parametrize(("page", "line"), few(lines(), *README), ids=lambda text: text[:60])
def test_the_line_works(service: Service, shell: tuple[Path, dict[str, str]], page: str, line: str) -> None:
    folder, variables = shell
    line = line.replace("http://127.0.0.1:8000", service.url).replace("--port 8001", "--port 0")
    command = ["bash", "-c", f"exec {line}"]
    if re.search(r"busway (serve|tail)|curl -N", line):
        follows(command, folder, variables)
        return
    done = subprocess.run(
        command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    already = "init" in line and (folder / "handlers/welcome.py").exists() and page != "README.md"
    assert done.returncode == 0 or already, done.stderr
    assert "urn:busway:problem" not in done.stdout


def follows(command: list[str], folder: Path, variables: dict[str, str]) -> None:
    """Run a command that goes on until Ctrl-C, once it has printed something."""
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        while not re.search(r"^(busway http|following |retry: |[0-9:.]+  |\{)", said, re.MULTILINE):
            line = process.stdout.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode in {0, 130, -signal.SIGINT}
    finally:
        process.kill()
        process.communicate()

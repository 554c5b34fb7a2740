"""The commands of docs/commands.md print what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .service import PATIENCE, Service, clean_environment, until
from .test_every_command import commands as all_commands

pytestmark = pytest.mark.one_database("examples of the docs")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")

VARIES = (  # what differs from run to run
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"http://127\.0\.0\.1:\d+", "URL"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
    (r"\(\d+[smh] ago\)", "AGO"),
    (r"(?<=1/5) +\d+[smh] +", " AGE "),
    (r"\d+\.\d{3} s$", "SECONDS"),
    (r"process \d+$", "process PID"),
    (r'File ".*/handlers/', 'File "handlers/'),
    (r"^  memory .*\n", ""),  # an attempt may take none
    (r"^ +\^+\n", ""),  # Python 3.13 and newer point at the place
    (r"AGE +NOTE", "AGE NOTE"),
)


def masked(text: str) -> str:
    for pattern, mask in VARIES:
        text = re.sub(pattern, mask, text, flags=re.MULTILINE)
    return text


def sessions() -> list[tuple[str, str]]:
    """The commands of the page, each with what it prints."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, handlers=ROOT / "examples" / "handlers", node_name="shop1")
    yield service.start()
    service.close()


@pytest.mark.long
def test_each_command_prints_what_the_page_shows(service: Service, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busway").write_text(f'#!/bin/sh\nexec {sys.executable} -m busway "$@"\n')
    (tmp_path / "bin/busway").chmod(0o755)
    environment = clean_environment()
    environment |= {"BUSWAY_URL": service.url, "PATH": f"{tmp_path}/bin:{environment['PATH']}"}
    commands = sessions()
    assert len(commands) == 23
    status = 0
    for command, printed in commands:
        with subprocess.Popen(
            ["bash", "-c", f"(exit {status}); {command}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, cwd=tmp_path, env=environment, start_new_session=True,
        ) as running:  # fmt: skip
            assert running.stdout
            if command.startswith("busway tail"):
                said = "".join(running.stdout.readline() for _ in printed.splitlines())
                os.killpg(running.pid, signal.SIGINT)
            else:
                said = running.stdout.read()
            status = running.wait(PATIENCE)
        assert masked(said) == masked(printed), command
        if "deliverat" not in command:
            until(lambda: service.unfinished() == 0, "the end of all runs")


def test_the_table_has_every_command_and_every_command_exists() -> None:
    known = {words: words.split() for words in all_commands()}
    table = PAGE.partition("## Publish")[0]
    for words in known.values():
        verb = rf" [a-z|\\]*\b{words[1]}\b" if len(words) > 1 else r"\b"
        assert re.search(f"`{words[0]}{verb}", table), words
    firsts = {words[0] for words in known.values()}
    groups = {words[0] for words in known.values() if len(words) > 1}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for first, second in re.findall(r"`busway ([a-z]+)(?: ([a-z]+))?", page.read_text(encoding="utf-8")):
            assert first in firsts, (page.name, first)
            assert not second or first not in groups or f"{first} {second}" in known, (
                page.name,
                first,
                second,
            )

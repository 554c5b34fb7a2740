"""The tutorial, word by word, in a new environment and an empty folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.documents.console import Reader, blocks
from tests.e2e.service import clean_environment
from tests.ports import unused_port

from .environments import ROOT, Environment, required


@pytest.mark.long
def test_each_command_of_the_tutorial_prints_what_it_shows(wheel: Path, tmp_path: Path) -> None:
    made = Environment(tmp_path / "env")
    made.link(*required("server", "pytest", "mypy"))
    programs = {
        "pip": f'"{sys.executable}" -m pip --python "{made.python}"',
        "pytest": f'"{made.python}" -m pytest',
        "mypy": f'"{made.python}" -m mypy',
    }
    for name, does in programs.items():
        (made.root / "bin" / name).write_text(f'#!/bin/sh\nexec {does} "$@"\n', encoding="utf-8")
        (made.root / "bin" / name).chmod(0o755)
    shop = tmp_path / "shop"
    shop.mkdir()
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        **{name: value for name, value in clean_environment().items() if name != "PYTEST_ADDOPTS"},
        "BUSWAY_PORT": str(port), "BUSWAY_URL": url,
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PATH": f"{made.root / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    reader = Reader(shop, variables, url)
    try:
        for block in blocks(ROOT / "docs/tutorial.md"):
            reader.follow(block)
        assert reader.terminals["serve"].interrupt() == 0
    finally:
        reader.close()


def test_its_application_is_that_of_the_page_on_projects_which_another_test_runs() -> None:
    main = "# app/main.py\n"
    tutorial, project = (
        [block.text for block in blocks(ROOT / "docs" / page) if block.text.startswith(main)]
        for page in ("tutorial.md", "project.md")
    )
    assert tutorial == project
    assert len(tutorial) == 1


def test_the_files_for_a_server_are_those_of_the_examples() -> None:
    """What the page shows is what the tests of those files look at: all but comments."""
    shown = [block.text for block in blocks(ROOT / "docs/tutorial.md") if block.language in {"ini", "text"}]
    for name in ("busway.service", "busway-backup.service", "busway-backup.timer", "Caddyfile"):
        text = (ROOT / "examples/deploy" / name).read_text(encoding="utf-8")
        plain = "\n".join(line for line in text.splitlines() if not line.startswith("#")).strip() + "\n"
        assert plain in shown, name

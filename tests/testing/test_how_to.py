"""The examples of docs/testing.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import few

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```(?:python|toml)\n# (\S+)\n(.*?)^```",
    (ROOT / "docs/testing.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


def run_pytest(
    folder: Path, *arguments: str, python: str | Path = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("BUSWAY_", "PYTEST_"))}
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder, env={**plain, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("settings", few([0, 1], 1))
def test_the_examples_pass_with_each_of_the_settings(tmp_path: Path, settings: int) -> None:
    files = [(name, text) for name, text in BLOCKS if name != "pyproject.toml"]
    projects = [(name, text) for name, text in BLOCKS if name == "pyproject.toml"]
    assert (len(files), len(projects)) == (4, 2)
    for name, text in [*files, projects[settings]]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    said = run_pytest(tmp_path, "-W", "error")
    assert said.returncode == 0, said.stdout + said.stderr
    tests = sum(text.count("def test_") for _, text in files)
    assert f"{tests} passed" in said.stdout

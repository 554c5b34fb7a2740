"""Python environments that have what a requirement of ours brings, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tests.e2e.service import Service, clean_environment

ROOT = Path(__file__).parents[2]
GREET = "from busway import handler\n\n\n@handler('t')\ndef greet(event):\n    return [event.data]\n"
SOURCES = re.findall(
    r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
)


def copy_sources(folder: Path) -> Path:
    """Copy what the image is built from: what a wheel is made of, and the lock."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.db*")
    folder.mkdir()
    for name in " ".join(SOURCES).split():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
        else:
            shutil.copy2(ROOT / name, folder)
    return folder


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a command that must succeed; return what it printed."""
    said = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, f"{command}: {said.returncode}\n{said.stdout}\n{said.stderr}"
    return said.stdout


class Environment:
    """A virtual environment without pip. Packages of others are links to those of this one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.exists():
            venv.create(root, symlinks=True)
        self.python = root / "bin/python"
        found = sysconfig.get_path("purelib", "venv", {"base": str(root), "platbase": str(root)})
        self.site = Path(found)

    def program(self, name: str) -> str:
        return str(self.root / "bin" / name)

    def link(self, *names: str) -> None:
        """Make the packages of these distributions importable here."""
        for name in names:
            for path in top_level(name):
                if not (self.site / path.name).exists():
                    (self.site / path.name).symlink_to(path)

    def copy(self, *names: str) -> None:
        """Install these distributions for real, so that pip may change or remove them."""
        for name in names:
            for path in top_level(name):
                if path.is_dir():
                    shutil.copytree(path, self.site / path.name)
                else:
                    shutil.copy2(path, self.site)

    def install(self, *what: str | Path, cwd: Path | None = None) -> None:
        """Install with this environment's pip into the other, without dependencies and without a network."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet")
        run(*pip, "--no-deps", "--no-index", "--no-build-isolation", *what, cwd=cwd)

    def link_installed(self, other: Environment) -> None:
        """Make what is installed in another environment importable here."""
        for name in other.names():
            (self.site / name).symlink_to(other.site / name)

    def names(self) -> set[str]:
        """What stands in the environment and is no link: what was installed."""
        return {path.name for path in self.site.iterdir() if not path.is_symlink()} - {"__pycache__"}


def top_level(distribution: str) -> Iterator[Path]:
    """The files and folders in `site-packages` of a distribution."""
    found = metadata.distribution(distribution)
    assert found.files is not None
    for name in {path.parts[0] for path in found.files} - {"..", "__pycache__"}:
        yield Path(str(found.locate_file(name)))


def required(extra: str = "", *others: str) -> set[str]:
    """The distributions that `busway`, or `busway[extra]`, and others bring, directly or not."""
    found: set[str] = set()
    waiting = [Requirement(f"busway[{extra}]" if extra else "busway"), *map(Requirement, others)]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found.add(requirement.name)
        extras = requirement.extras or {""}
        for text in metadata.requires(requirement.name) or []:
            wanted = Requirement(text)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": name}) for name in extras):
                waiting.append(wanted)
    return found - {"busway"}


class Installed(Service):
    """`busway serve` of an environment, started in a folder of its own choice."""

    prepares = False

    def __init__(self, environment: Environment, folder: Path, cwd: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.environment, self.cwd = environment, cwd

    def launch(self) -> subprocess.Popen[str]:
        command = [self.environment.program("busway"), *self.command()[3:]]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=clean_environment(), cwd=self.cwd
            )
